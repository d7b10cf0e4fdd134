"""How many jobs are claimed: what there is room for, and no more than can be launched soon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import pytest
from prometheus_client import CollectorRegistry

from worker import roster
from worker.metrics import WorkerMetrics
from worker.queue import Claim
from worker.roster import LAUNCHES, Roster

if TYPE_CHECKING:
    from worker.attempt import Attempt
    from worker.orphans import Orphans


class NoOrphans:
    def gone(self, name: str) -> None:
        """Of no interest here."""

    seen = gone


class Scene:
    """A roster whose launches end when the test says so."""

    def __init__(self, capacity: int = 1000) -> None:
        self.roster = Roster(capacity, cast("Orphans", NoOrphans()), WorkerMetrics(CollectorRegistry()))
        self.attempts: list[Attempt] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.overs: list[asyncio.Event] = []
        self.trouble: Exception | None = None

    def launch(self, count: int) -> None:
        for number in range(len(self.attempts), len(self.attempts) + count):
            over = asyncio.Event()
            claim = Claim(str(number), 1, "e", "q", {}, adopted=False, minted_by="w", claimed_at=0.0, started_at=0.0)
            attempt, task = self.roster.hold(claim), asyncio.create_task(self._work(over))
            self.roster.launching(attempt, task)
            self.attempts.append(attempt)
            self.tasks.append(task)
            self.overs.append(over)

    async def _work(self, over: asyncio.Event) -> None:
        await over.wait()
        if self.trouble is not None:
            raise self.trouble

    async def end(self, first: int, last: int) -> None:
        """These launches come to their end."""
        for over in self.overs[first:last]:
            over.set()
        await asyncio.wait(self.tasks[first:last])


def play(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(main())


async def waits(task: "asyncio.Task[int]") -> bool:
    for _ in range(10):  # whatever is due in the event loop
        await asyncio.sleep(0)
    return not task.done()


def test_a_worker_with_room_claims_at_once_and_a_full_one_when_a_job_is_released() -> None:
    async def test() -> None:
        here = Scene(capacity=2)
        assert await here.roster.room_to_claim() == 2
        here.launch(2)
        await here.end(0, 2)
        claiming = asyncio.create_task(here.roster.room_to_claim())
        assert await waits(claiming)
        here.roster.release(here.attempts[0])
        assert await claiming == 1

    play(test)


def test_jobs_are_claimed_again_when_half_of_the_launches_are_over_and_as_many() -> None:
    async def test() -> None:
        here = Scene()
        assert await here.roster.room_to_claim() == LAUNCHES
        here.launch(LAUNCHES)
        claiming = asyncio.create_task(here.roster.room_to_claim())
        await here.end(0, LAUNCHES // 2 - 1)
        assert await waits(claiming)
        await here.end(LAUNCHES // 2 - 1, LAUNCHES // 2)
        assert await claiming == LAUNCHES // 2

    play(test)


@pytest.mark.parametrize("how", ["ended", "failed", "cancelled", "cancelled before its first step"])
def test_a_launch_is_over_however_it_ends(how: str) -> None:
    async def test() -> None:
        here = Scene()
        here.launch(LAUNCHES)
        if how != "cancelled before its first step":
            await asyncio.sleep(0)
        here.trouble = RuntimeError("a bug") if how == "failed" else None
        for task, over in zip(here.tasks, here.overs, strict=True):
            if how.startswith("cancelled"):
                task.cancel()
            over.set()
        assert await here.roster.room_to_claim() >= LAUNCHES // 2
        await asyncio.gather(*here.tasks, return_exceptions=True)
        assert await here.roster.room_to_claim() == LAUNCHES

    play(test)


def test_launches_that_wait_keep_no_others_from_being_claimed_once_a_pod_was_created() -> None:
    """What they wait for is their own trouble then: an admission webhook's, say, or a pod of their name that stays."""

    async def test() -> None:
        here = Scene()
        here.launch(LAUNCHES)
        for attempt in here.attempts[1:]:
            attempt.creation_waits = True
        claiming = asyncio.create_task(here.roster.room_to_claim())
        assert await waits(claiming)
        here.attempts[0].pod_uid = "u"
        await here.end(0, 1)
        assert await claiming == LAUNCHES
        await here.end(1, LAUNCHES)

    play(test)


def test_where_all_launches_wait_one_more_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "TRIAL_S", 0.01)

    async def test() -> None:
        here = Scene(capacity=LAUNCHES + 1)
        here.launch(LAUNCHES)
        assert await here.roster.room_to_claim() == 1
        here.launch(1)
        full = asyncio.create_task(here.roster.room_to_claim())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(full, 10 * roster.TRIAL_S)
        await here.end(0, LAUNCHES + 1)

    play(test)

"""Poison: whatever kills its workers ends after its limit, and no innocent job ever does."""

import math
import random
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runner_spec import wire
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.policy import DEFAULT_POLICY
from runner_spec.retry import Stand, decide
from tests.worker.queue.scene import Place, Scene, finish, play
from worker.queue import Claim, Fail, JobQueue, Settlement
from worker.queue.poison import QUARANTINE_KEY, poisoned

LOSSES = 3
DAY = 86400.0


async def die(scene: Scene, queue: JobQueue) -> None:
    """Its lease has just lapsed: as after a crash, seen some seconds later."""
    await scene.redis.zadd(wire.LEASES_KEY, {queue.worker: queue.lease.now() - 0.001})


async def grow_old(scene: Scene, queue: JobQueue) -> None:
    """What the worker holds, it has held for a day by now."""
    for claim in queue.held:
        key = f"rq:execution:{claim.job_id}:{claim.execution_id}"
        await scene.redis.hset(key, "dynapod_held_since", queue.lease.now() - DAY)


def bury(claim: Claim) -> Settlement:
    outcome = poisoned(claim)
    return Settlement(claim, outcome, Fail(outcome.message))


def ids(claims: Collection[Claim]) -> list[str]:
    return sorted(claim.job_id for claim in claims)


async def killed_by(scene: Scene, stack: AsyncExitStack, times: int, *, fresh: bool = True) -> JobQueue:
    """A new worker, after so many have died of holding what there is to claim or to adopt."""
    for _ in range(times):
        victim = await stack.enter_async_context(scene.worker())
        assert await victim.adopt(100) or (fresh and await victim.claim(100))
        await die(scene, victim)
    return await stack.enter_async_context(scene.worker())


def test_a_job_that_kills_alone_is_given_to_nobody_after_its_limit(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("p")
        async with AsyncExitStack() as stack:
            heir = await killed_by(scene, stack, LOSSES)
            (claim,) = await heir.adopt(100)
            assert claim.workers_lost == LOSSES
            assert isinstance(claim.payload, wire.Refusal)  # not even read
            assert await heir.settle(bury(claim))

        assert await scene.status("p") == "failed"
        (entry,) = (await scene.ledger("p")).values()
        assert (entry["outcome"]["fault"], entry["outcome"]["reason"]) == ("platform", "poison")
        assert "3 workers died" in entry["outcome"]["message"]
        assert await scene.redis.keys("rq:execution:*") == []

    play(place, scenario)


def test_the_first_death_accuses_nobody(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b", "c")
        async with AsyncExitStack() as stack:
            heir = await killed_by(scene, stack, 1)
            assert ids(await heir.adopt(100)) == ["a", "b", "c"]

    play(place, scenario)


def test_suspects_are_taken_by_halves_and_the_next_ones_once_they_have_survived(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue(*(f"j{n}" for n in range(8)))
        async with AsyncExitStack() as stack:
            heir = await killed_by(scene, stack, 2)
            assert len(await heir.adopt(100)) == 4
            assert await heir.adopt(100) == []
            await grow_old(scene, heir)
            assert len(await heir.adopt(100)) == 4
            assert len(heir.held) == 8

    play(place, scenario)


def test_a_worker_that_leaves_in_peace_accuses_nobody(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with AsyncExitStack() as stack:
            for _ in range(5):
                leaving = await stack.enter_async_context(scene.worker())
                assert len(await leaving.adopt(100) or await leaving.claim(100)) == 2
                await leaving.release()
            heir = await stack.enter_async_context(scene.worker())
            assert ids(await heir.adopt(100)) == ["a", "b"]

    play(place, scenario)


def test_what_was_held_for_long_is_cleared_also_when_its_worker_leaves(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with AsyncExitStack() as stack:
            survivor = await killed_by(scene, stack, 2)
            (first,) = await survivor.adopt(100)
            await grow_old(scene, survivor)
            (second,) = await survivor.adopt(100)
            await survivor.release()
            heir = await stack.enter_async_context(scene.worker())
            assert ids(await heir.adopt(100)) == [second.job_id]  # alone: it has survived nothing yet
            other = await stack.enter_async_context(scene.worker())
            assert ids(await other.adopt(100)) == [first.job_id]

    play(place, scenario)


def test_the_one_who_tries_a_suspect_alone_holds_nothing_young_beside_it_and_claims_nothing(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("p", "q")
        async with AsyncExitStack() as stack:
            busy = await killed_by(scene, stack, 2)
            scene.enqueue("young")
            assert ids(await busy.claim(100)) == ["young"]
            assert await busy.adopt(100) == []  # it prepares
            scene.enqueue("next")
            assert await busy.claim(100) == []
            assert await busy.wait(0.01) is False
            other = await stack.enter_async_context(scene.worker())
            assert await other.adopt(100) == []  # one quarantine at a time
            assert ids(await other.claim(100)) == ["next"]
            await grow_old(scene, busy)
            assert len(await busy.adopt(100)) == 1
            assert await busy.claim(100) == []
            await grow_old(scene, busy)
            assert len(await busy.adopt(100)) == 1
            scene.enqueue("last")
            assert await busy.adopt(100) == []
            assert await busy.claim(100) == []
            await grow_old(scene, busy)
            assert await busy.adopt(100) == []
            assert await scene.redis.exists(QUARANTINE_KEY) == 0
            assert ids(await busy.claim(100)) == ["last"]

    play(place, scenario)


def test_a_suspect_is_not_blamed_for_a_death_beside_a_young_stranger(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue(*(f"j{n}" for n in range(5)))
        async with AsyncExitStack() as stack:
            heir = await killed_by(scene, stack, 2)
            for batch in (2, 2, 1):
                assert len(await heir.adopt(100)) == batch
                if batch > 1:
                    await grow_old(scene, heir)
            scene.enqueue("stranger")
            assert ids(await heir.claim(100)) == ["stranger"]
            await die(scene, heir)
            judge = await stack.enter_async_context(scene.worker(worker_losses=1))
            await judge.adopt(100)
            assert [claim.job_id for claim in judge.held if claim.workers_lost] == []
            assert await scene.redis.keys("rq:execution:*")
            for key in await scene.redis.keys("rq:execution:*"):
                assert not await scene.redis.hexists(key, "dynapod_alone")

    play(place, scenario)


def test_a_paused_quarantine_does_not_stop_the_others(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("p", "q")
        async with AsyncExitStack() as stack:
            first = await killed_by(scene, stack, 2)
            assert len(await first.adopt(100)) == 1
            await die(scene, first)
            heir = await stack.enter_async_context(scene.worker())
            assert len(await heir.adopt(100)) == 1

    play(place, scenario)


def test_a_limit_of_zero_suspects_nobody(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with AsyncExitStack() as stack:
            for _ in range(6):
                worker = await stack.enter_async_context(scene.worker(worker_losses=0))
                assert len(await worker.adopt(100) or await worker.claim(100)) == 2
                await die(scene, worker)

    play(place, scenario)


def test_minting_counts_no_less_and_says_how_long_the_job_has_waited_for_a_pod(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("p")
        async with AsyncExitStack() as stack:
            heir = await killed_by(scene, stack, 1)
            for losses in range(2, LOSSES + 1):
                (claim,) = await heir.adopt(100)
                minted = await heir.mint(claim)
                assert minted is not None
                assert (minted.attempt, minted.adopted) == (losses, False)
                key = f"rq:execution:p:{minted.execution_id}"
                since = await scene.redis.hget(key, "dynapod_since")
                await scene.redis.hset(key, "dynapod_since", float(since) - 100)
                await die(scene, heir)
                heir = await stack.enter_async_context(scene.worker())
            (claim,) = await heir.adopt(100)
            assert claim.workers_lost == LOSSES
            assert 100 * (LOSSES - 1) <= claim.waited < 100 * LOSSES

    play(place, scenario)


def test_poison_is_never_tried_again() -> None:
    outcome = Outcome(Verdict.FAILED, Fault.PLATFORM, "poison", "")
    budgets: dict[str, Any] = {"platform_retries": 0, "job_retries": 0, "allowed": 9, "rq_retries_left": 9}
    assert isinstance(decide(outcome, job_id="p", attempt=1, policy=DEFAULT_POLICY, **budgets), Stand)


class Ward:
    """Workers, some of which hold poison and die of it at once; whatever else they hold ends well, sooner or later."""

    def __init__(
        self, scene: Scene, stack: AsyncExitStack, poisons: Collection[str], losses: int, chance: random.Random
    ) -> None:
        self.scene, self.stack, self.losses = scene, stack, losses
        self.poisons, self.chance = poisons, chance
        self.deaths = 0
        self.ended: dict[str, bool] = {}  # job → well

    async def work(self, worker: JobQueue, limit: int) -> bool:
        """What a worker does between two heartbeats; false when it died of it."""
        taken = await worker.adopt(limit)
        if self.chance.random() < 0.7:
            taken += await worker.claim(self.chance.randint(1, limit))
        for claim in taken:
            if claim.workers_lost:
                assert await worker.settle(bury(claim))
                self.ended[claim.job_id] = False
            elif claim.job_id in self.poisons:
                await die(self.scene, worker)
                self.deaths += 1
                return False
        for claim in worker.held:
            if self.chance.random() < 0.2:
                assert await worker.settle(finish(claim))
                self.ended[claim.job_id] = True
        if self.chance.random() < 0.7:
            await grow_old(self.scene, worker)
        return True

    async def run(self, jobs: int, crew: int, limit: int) -> None:
        workers = [await self.hire() for _ in range(crew)]
        for _ in range(2000):
            if len(self.ended) == jobs:
                return
            at = self.chance.randrange(crew)
            if not await self.work(workers[at], limit):
                workers[at] = await self.hire()
        raise AssertionError(f"{jobs - len(self.ended)} jobs have come to no end")

    async def hire(self) -> JobQueue:
        return await self.stack.enter_async_context(self.scene.worker(worker_losses=self.losses))


@settings(max_examples=30, deadline=None)
@given(
    jobs=st.integers(1, 40),
    places=st.sets(st.integers(0, 39), min_size=1, max_size=4),
    crew=st.integers(1, 4),
    limit=st.integers(1, 50),
    losses=st.integers(1, LOSSES),
    seed=st.integers(0, 2**32),
)
def test_every_poison_ends_and_no_innocent_does(
    *, jobs: int, places: set[int], crew: int, limit: int, losses: int, seed: int
) -> None:
    poisons = {f"j{place % jobs}" for place in places}

    async def scenario(scene: Scene) -> None:
        scene.enqueue(*(f"j{n}" for n in range(jobs)))
        async with AsyncExitStack() as stack:
            ward = Ward(scene, stack, poisons, losses, random.Random(seed))
            await ward.run(jobs, crew, limit)
        assert {job for job, well in ward.ended.items() if not well} == poisons
        assert ward.deaths <= len(poisons) * (3 + math.log2(jobs) + losses)

    play(Place(None), scenario)

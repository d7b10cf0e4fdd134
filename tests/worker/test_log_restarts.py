"""A sidecar that crashes and is started again has a new log each time: nothing of the old ones is lost unsaid."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from adapters.kubernetes_api import ApiError
from tests.worker.test_log_pipeline import ATTEMPT, JOB, World, run
from worker.log_follower import LogFollower
from worker.log_streams import LogKeeper, LogStreams

Line = tuple[int, bytes]
Json = dict[str, Any]
AGAIN = b"[dynapod] the container was started again, and the end of its log before that is lost"


class Sidecar:
    """A container's logs, one for each start, as the kubelet serves them: the last one, and the one before it."""

    def __init__(self, *starts: list[Line]) -> None:
        self.starts = [list(start) for start in starts]
        self.kept = 2
        self.asked: list[tuple[str | None, bool]] = []
        self.cut_after: int | None = None
        self.when_read: Callable[[], None] = lambda: None  # a stream of the last start's log, to its end
        self.remarks = 0  # so many streams hold nothing but a remark of the kubelet
        self.runs_on = asyncio.Event()  # followed streams end with it
        self.runs_on.set()
        self.taken = asyncio.Event()  # what was there is with the follower
        self.following = asyncio.Event()  # it has nothing more to read now
        self.waits = False  # to be started again: `previous` is the log of the last start, too
        self.gone = False  # with the whole pod
        self.previous_removed = False  # by the kubelet, though the status still names it
        self.previous_fails = 0  # so many more times, with a temporary error
        self.unfinished: set[int] = set()  # starts whose logs end without a newline

    async def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        del pod, container
        self.asked.append((since_time, previous))
        if self.remarks or (previous and self.previous_removed):
            self.remarks = max(0, self.remarks - 1)
            yield b"unable to retrieve container logs for containerd://0123"
            return
        if self.gone:
            raise ApiError(404, "NotFound", 'pods "pod" not found')
        if previous and self.previous_fails:
            self.previous_fails -= 1
            raise ApiError(500, "InternalError", "dial tcp 10.0.0.1:10250: i/o timeout")
        if previous and not self.waits and (len(self.starts) < 2 or self.kept < 2):
            raise ApiError(400, "BadRequest", "previous terminated container not found")
        floor = int(since_time[17:19]) if since_time else 0
        start = len(self.starts) - (2 if previous and not self.waits else 1)
        lines = self.starts[start]
        data = b"".join(b"2026-01-01T00:00:%02d.000000000Z %s\n" % line for line in lines if line[0] >= floor)
        if start in self.unfinished:
            data = data.removesuffix(b"\n")
        cut, self.cut_after = self.cut_after, None
        if data:
            yield data if cut is None else data[:cut]
        self.taken.set()
        if follow:
            self.following.set()
            await self.runs_on.wait()
        if not previous:
            self.when_read()
        if cut is not None:
            raise ApiError(0, "Unreachable", "cut")


def follower(here: World, source: Sidecar) -> LogFollower:
    return LogFollower(
        source, here.writer("db"), "pod", "db", secrets=None, limit=10**9, metrics=here.metrics, may_restart=True
    )


async def read_to_the_end(here: World, followed: LogFollower) -> list[bytes]:
    followed.container_ended()
    await asyncio.wait_for(followed.run(), 10)
    return await here.text("db")


FIRST, SECOND, THIRD = [(1, b"one"), (2, b"FATAL one")], [(11, b"two"), (12, b"FATAL two")], [(31, b"three")]


def test_a_restart_after_the_log_was_read_leaves_no_gap() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        followed = follower(here, source)

        def crash_and_start_again() -> None:
            source.starts.append(SECOND)
            source.when_read = followed.container_ended

        source.when_read = crash_and_start_again
        await asyncio.wait_for(followed.run(), 10)
        assert await here.text("db") == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_what_a_broken_stream_missed_before_the_restart_is_read_afterwards() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = len(b"2026-01-01T00:00:01.000000000Z one\n") + 35
        followed = follower(here, source)

        def start_again() -> None:
            source.starts.append(SECOND)
            source.when_read = followed.container_ended

        source.when_read = start_again
        await asyncio.wait_for(followed.run(), 10)
        assert await here.text("db") == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_a_crash_before_anybody_read_is_read_afterwards() -> None:
    async def test(here: World) -> None:
        followed = follower(here, Sidecar(FIRST, SECOND))
        followed.container_restarted(1)
        assert await read_to_the_end(here, followed) == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_starts_whose_logs_the_kubelet_no_longer_has_are_declared() -> None:
    async def test(here: World) -> None:
        followed = follower(here, Sidecar(FIRST, SECOND, THIRD))
        followed.container_restarted(2)
        assert await read_to_the_end(here, followed) == [
            b"[dynapod] the container was started again before the log of one of its starts could be read",
            b"two",
            b"FATAL two",
            b"three",
        ]

    run(test)


def test_an_end_that_is_lost_is_declared_where_it_is_missing() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = len(b"2026-01-01T00:00:01.000000000Z one\n")
        followed = follower(here, source)

        def start_again() -> None:
            source.starts.append(SECOND)
            source.kept = 1
            source.when_read = followed.container_ended
            followed.container_restarted(1)

        source.when_read = start_again
        await asyncio.wait_for(followed.run(), 10)
        assert await here.text("db") == [b"one", AGAIN, b"two", b"FATAL two"]

    run(test)


def test_two_restarts_between_two_looks_lose_nothing_that_the_kubelet_still_has() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        followed = follower(here, source)

        def start_twice() -> None:
            source.starts += [SECOND, THIRD]
            source.when_read = followed.container_ended

        source.when_read = start_twice
        await asyncio.wait_for(followed.run(), 10)
        assert await here.text("db") == [b"one", b"FATAL one", b"two", b"FATAL two", b"three"]

    run(test)


def test_a_remark_of_the_kubelet_instead_of_the_log_is_not_stored_and_asked_again() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.remarks = 2
        followed = follower(here, source)
        source.when_read = followed.container_ended
        await asyncio.wait_for(followed.run(), 10)
        assert await here.text("db") == [b"one", b"FATAL one"]

    run(test)


def test_a_log_that_the_kubelet_no_longer_has_at_the_end_is_declared() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.remarks = 100
        lines = await read_to_the_end(here, follower(here, source))
        assert lines == [b"[dynapod] the node had removed the container before the end of this log could be confirmed"]

    run(test)


def pod_with(service: Json, run: Json) -> Json:
    spec = {"initContainers": [{"name": "db", "restartPolicy": "Always"}], "containers": [{"name": "run"}]}
    statuses = {
        "initContainerStatuses": [{"name": "db", "restartCount": 0, "state": service}],
        "containerStatuses": [{"name": "run", "restartCount": 0, "state": run}],
    }
    return {"metadata": {"uid": "u"}, "spec": spec, "status": statuses}


def test_the_log_of_a_service_that_runs_on_is_read_up_to_now_when_the_job_is_given_up() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.runs_on.clear()
        keeper = LogKeeper(source, here.redis, here.store, here.metrics)
        streams = LogStreams(keeper, JOB, ATTEMPT, "pod", has_secrets=False, limit=10**9)
        streams.update(pod_with({"running": {}}, {"waiting": {"reason": "ErrImagePull"}}))
        await asyncio.wait_for(source.taken.wait(), 10)
        source.starts[0].append((3, b"still here"))
        await asyncio.wait_for(streams.finish(), 10)
        assert await here.text("db") == [b"one", b"FATAL one", b"still here"]
        assert (await here.reader.entries(JOB, ATTEMPT))["db"].complete

    run(test)


def test_the_last_lines_are_those_at_the_end() -> None:
    async def test(here: World) -> None:
        many = [(number % 60, b"line %d" % number) for number in range(60)]
        await read_to_the_end(here, follower(here, Sidecar(many)))
        last = await here.reader.last_lines(JOB, ATTEMPT, "db", 3)
        assert last == ["line 57", "line 58", "line 59"]
        assert await here.reader.last_lines(JOB, ATTEMPT, "nobody", 3) == []

    run(test)


def test_the_last_lines_of_a_long_log_are_read_without_the_rest() -> None:
    async def test(here: World) -> None:
        lines = [(number // 100, b"%d " % number + b"x" * 500) for number in range(5000)]
        await read_to_the_end(here, follower(here, Sidecar([*lines, (59, b"the end")])))
        last = await here.reader.last_lines(JOB, ATTEMPT, "db", 3)
        assert [line.split(" ")[0] for line in last] == ["4998", "4999", "the"]
        assert all(len(line) <= 300 for line in last)

    run(test)


def test_the_end_of_one_endless_line_is_better_than_nothing() -> None:
    async def test(here: World) -> None:
        await read_to_the_end(here, follower(here, Sidecar([(1, b"x" * 100_000 + b" end")])))
        [last] = await here.reader.last_lines(JOB, ATTEMPT, "db", 3)
        assert last.startswith("…x")
        assert last.endswith("x end")

    run(test)

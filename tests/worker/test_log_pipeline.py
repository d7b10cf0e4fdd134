"""From a container's log stream to what a reader sees, over the embedded Redis and a store in memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis import exceptions

from adapters import redis_server
from adapters.kubernetes_api import ApiError
from adapters.object_store import ObjectStore
from adapters.redis_server import AsyncClient, RedisRefused, RedisUnavailable
from runner_spec import wire
from runner_spec.log_cursor import LogCursor
from worker import log_writer
from worker.log_batch import LogBatch
from worker.log_follower import LogFollower
from worker.log_store import LogReader
from worker.log_writer import ANOTHER_POD, LogFencedError, LogWriter
from worker.metrics import WorkerMetrics

JOB, ATTEMPT = "job", 1


class World:
    def __init__(self, connection: AsyncClient) -> None:
        self.redis = connection
        self.batch = LogBatch(connection)
        self.store = ObjectStore.from_url("memory://")
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.reader = LogReader(connection, self.store)

    def writer(self, container: str = "run", *, pod: str = "") -> LogWriter:
        return LogWriter(self.batch, self.store, JOB, ATTEMPT, container, pod=pod)

    async def text(self, container: str | None = None) -> list[bytes]:
        return [line.text async for line in self.reader.read(JOB, ATTEMPT, container=container)]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with redis_server.embed() as connections:
        yield World(connections.control)


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world() as here:
            await test(here)

    asyncio.run(main())


class Stream:
    """A container's log as Kubernetes serves it; `breaks` are byte counts after which a stream is cut."""

    def __init__(self, lines: Iterable[tuple[int, bytes]], breaks: Iterable[int] = ()) -> None:
        self.lines = list(lines)
        self.breaks = list(breaks)
        self.opened: list[str | None] = []

    def data(self, since: str | None) -> bytes:
        floor = int(since[17:19]) if since else 0
        return b"".join(b"2026-01-01T00:00:%02d.000000000Z %s\n" % line for line in self.lines if line[0] >= floor)

    async def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        del pod, container, follow, previous
        self.opened.append(since_time)
        data = self.data(since_time)
        if self.breaks:
            cut = self.breaks.pop(0)
            yield data[:cut]
            raise ApiError(0, "Unreachable", "cut")
        for at in range(0, len(data), 10_000):
            yield data[at : at + 10_000]


def follower(here: World, source: Stream, *, limit: int = 10**9, secrets: list[bytes] | None = None) -> LogFollower:
    async def known() -> list[bytes] | None:
        return secrets

    return LogFollower(
        source, here.writer(), "pod", "run", secrets=known if secrets else None, limit=limit, metrics=here.metrics
    )


def test_a_stream_cut_again_and_again_is_stored_once_and_whole() -> None:
    lines = [(n // 7 % 60, b"line %d" % n) for n in range(400)]

    async def test(here: World) -> None:
        source = Stream(lines, breaks=[0, 45, 300, 1200, 77])
        following = follower(here, source)
        following.container_ended()
        await following.run()
        assert await here.text() == [content for _, content in lines]
        assert (await here.reader.entries(JOB, ATTEMPT))["run"].complete
        assert len(source.opened) == 6

    run(test)


def test_a_log_is_complete_only_after_a_stream_opened_after_the_containers_end() -> None:
    async def test(here: World) -> None:
        source = Stream([(1, b"early")])
        following = follower(here, source)
        task = asyncio.create_task(following.run())
        while not source.opened:  # noqa: ASYNC110 - the double has no event of its own
            await asyncio.sleep(0)
        source.lines.append((2, b"late"))
        following.container_ended()
        await task
        assert await here.text() == [b"early", b"late"]

    run(test)


def test_a_stream_is_resumed_from_the_last_line_stored() -> None:
    async def test(here: World) -> None:
        source = Stream([(n, b"line") for n in range(5)], breaks=[36 * 3])
        following = follower(here, source)
        following.container_ended()
        await following.run()
        assert source.opened == [None, "2026-01-01T00:00:02.000000000Z"]
        assert await here.text() == [b"line"] * 5

    run(test)


class EndlessStream(Stream):
    """Of a container that runs on: the stream waits for more."""

    async def stream_log(self, *arguments: Any, **options: Any) -> AsyncGenerator[bytes, None]:
        async for chunk in super().stream_log(*arguments, **options):
            yield chunk
        await asyncio.Event().wait()


def test_a_log_whose_worker_leaves_is_left_open_for_the_next_one() -> None:
    async def test(here: World) -> None:
        leaving = asyncio.create_task(follower(here, EndlessStream([(1, b"early")])).run())
        while not await here.text():  # noqa: ASYNC110 - a key in Redis has no event
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert not (await here.reader.entries(JOB, ATTEMPT))["run"].complete

        following = follower(here, Stream([(1, b"early"), (2, b"late")]))
        following.container_ended()
        await following.run()
        assert await here.text() == [b"early", b"late"]
        assert (await here.reader.entries(JOB, ATTEMPT))["run"].complete

    run(test)


def test_large_logs_move_to_the_object_store_and_leave_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "PIECE_BYTES", 50_000)
    lines = [(n % 60, b"x" * 100) for n in range(60)] * 50
    lines.sort()

    async def test(here: World) -> None:
        following = follower(here, Stream(lines))
        following.container_ended()
        await following.run()
        entry = (await here.reader.entries(JOB, ATTEMPT))["run"]
        assert entry.durable == entry.size == len(Stream(lines).data(None))
        assert len(entry.pieces) > 5
        assert await here.redis.xlen(wire.log_stream_key(JOB, ATTEMPT, "run")) <= log_writer.KEPT_ENTRIES
        await here.redis.delete(wire.log_stream_key(JOB, ATTEMPT, "run"))
        assert await here.text() == [content for _, content in lines]

    run(test)


def test_of_two_writers_only_one_goes_on() -> None:
    async def test(here: World) -> None:
        old, new = here.writer(), here.writer()
        await old.open()
        await old.append(b"2026-01-01T00:00:01Z a\n", LogCursor("2026-01-01T00:00:01Z", 1))
        await new.open()
        await new.append(b"2026-01-01T00:00:02Z b\n", LogCursor("2026-01-01T00:00:02Z", 1))
        with pytest.raises(LogFencedError):
            await old.append(b"2026-01-01T00:00:02Z b\n", LogCursor("2026-01-01T00:00:02Z", 1))
        assert await here.text() == [b"a", b"b"]

    run(test)


def test_a_writer_takes_up_what_is_not_durable_yet() -> None:
    async def test(here: World) -> None:
        first = here.writer()
        await first.open()
        await first.append(b"2026-01-01T00:00:01Z a\n", LogCursor("2026-01-01T00:00:01Z", 1))
        second = here.writer()
        await second.open()
        await second.append(b"2026-01-01T00:00:02Z b\n", LogCursor("2026-01-01T00:00:02Z", 1))
        await second.close()
        assert (await here.reader.entries(JOB, ATTEMPT))["run"].pieces == (46,)
        assert await here.text() == [b"a", b"b"]

    run(test)


def test_what_redis_lost_is_declared_at_its_place() -> None:
    async def test(here: World) -> None:
        first = here.writer()
        await first.open()
        await first.append(b"2026-01-01T00:00:01Z a\n", LogCursor("2026-01-01T00:00:01Z", 1))
        await here.redis.delete(wire.log_stream_key(JOB, ATTEMPT, "run"))
        second = here.writer()
        await second.open()
        await second.append(b"2026-01-01T00:00:02Z b\n", LogCursor("2026-01-01T00:00:02Z", 1))
        await second.close()
        assert await here.text() == [b"[dynapod] 23 bytes of the log were lost by Redis", b"b"]

    run(test)


@pytest.mark.parametrize("complete", [True, False])
def test_another_pod_of_the_attempt_begins_its_log_anew_behind_a_border(*, complete: bool) -> None:
    """Redis had forgotten the first pod, but not that a worker, not yet aware of it, went on with its log."""

    async def test(here: World) -> None:
        first = here.writer(pod="one")
        await first.open()
        await first.append(b"2026-01-01T00:00:05Z a\n", LogCursor("2026-01-01T00:00:05Z", 1))
        if complete:
            await first.close()
        second = here.writer(pod="two")
        stream = Stream([(1, b"b"), (2, b"c")])  # on a node whose clock is behind: its cursor would hide them all
        following = LogFollower(stream, second, "pod", "run", secrets=None, limit=10**9, metrics=here.metrics)
        following.container_ended()
        await following.run()
        assert await here.text() == [b"a", b"[dynapod] " + ANOTHER_POD.encode(), b"b", b"c"]
        entry = (await here.reader.entries(JOB, ATTEMPT))["run"]
        assert (entry.complete, entry.pod) == (True, "two")

    run(test)


def test_a_log_that_no_other_pod_wrote_to_has_no_border() -> None:
    async def test(here: World) -> None:
        await here.writer(pod="one").open()
        for pod in ("one", "one", ""):
            writer = here.writer(pod=pod)
            await writer.open()
            await writer.append(b"2026-01-01T00:00:01Z a\n", LogCursor("2026-01-01T00:00:01Z", 1))
        assert await here.text() == [b"a", b"a", b"a"]

    run(test)


def test_an_empty_log_of_another_pod_is_simply_taken_over() -> None:
    async def test(here: World) -> None:
        first, second = here.writer(pod="one"), here.writer(pod="two")
        await first.open()
        await first.close()
        await second.open()
        assert not second.entry.complete
        await second.append(b"2026-01-01T00:00:01Z a\n", LogCursor("2026-01-01T00:00:01Z", 1))
        assert await here.text() == [b"a"]

    run(test)


def test_a_log_over_the_limit_says_so() -> None:
    async def test(here: World) -> None:
        following = follower(here, Stream([(1, b"x" * 90)] * 200), limit=5000)
        following.container_ended()
        await following.run()
        text = await here.text()
        assert text[-1] == b"[dynapod] this log is longer than the limit of 5000 bytes: the rest is not stored"

    run(test)


def test_secrets_never_reach_the_store() -> None:
    async def test(here: World) -> None:
        following = follower(here, Stream([(1, b"token s3cret!")]), secrets=[b"s3cret"])
        following.container_ended()
        await following.run()
        assert await here.text() == [b"token [masked]!"]

    run(test)


def test_a_log_whose_secrets_are_not_known_is_withheld() -> None:
    async def test(here: World) -> None:
        async def unknown() -> list[bytes] | None:
            return None

        source = Stream([(1, b"token s3cret!")])
        following = LogFollower(source, here.writer(), "pod", "run", secrets=unknown, limit=10**9, metrics=here.metrics)
        following.container_ended()
        await following.run()
        assert await here.text() == [b"[dynapod] this log is withheld: the secrets to hide in it are not known"]
        assert source.opened == []

    run(test)


def test_bytes_that_are_no_text_survive() -> None:
    async def test(here: World) -> None:
        following = follower(here, Stream([(1, b"\xff\x00\xfe\r")]))
        following.container_ended()
        await following.run()
        assert await here.text() == [b"\xff\x00\xfe\r"]

    run(test)


def test_containers_are_merged_by_time() -> None:
    async def test(here: World) -> None:
        for container, second in (("run", 2), ("checkout", 1), ("upload", 3)):
            writer = here.writer(container)
            await writer.open()
            stamp = f"2026-01-01T00:00:0{second}Z"
            await writer.append(f"{stamp} {container}\n".encode(), LogCursor(stamp, 1))
            await writer.close()
        assert await here.text() == [b"checkout", b"run", b"upload"]
        assert await here.text("upload") == [b"upload"]

    run(test)


def test_following_shows_the_stages_of_a_quick_job_in_their_order() -> None:
    async def test(here: World) -> None:
        for container, second in (("upload", 3), ("checkout", 1), ("run", 2)):
            writer = here.writer(container)
            await writer.open()
            stamp = f"2026-01-01T00:00:0{second}Z"
            await writer.append(f"{stamp} {container}\n".encode(), LogCursor(stamp, 1))
        await here.redis.hset(wire.attempts_key(JOB), str(ATTEMPT), "{}")
        lines = [line.text async for line in here.reader.read(JOB, ATTEMPT, follow=True)]
        assert lines == [b"checkout", b"run", b"upload"]

    run(test)


def test_following_shows_lines_as_they_come_until_the_end_is_recorded() -> None:
    async def test(here: World) -> None:
        writer = here.writer()
        await writer.open()
        lines = here.reader.read(JOB, ATTEMPT, follow=True)
        await writer.append(
            b"2026-01-01T00:00:01Z one\n2026-01-01T00:00:01Z tw", LogCursor("2026-01-01T00:00:01Z", 1, 2)
        )
        first, part = await anext(lines), await anext(lines)
        assert (first.text, part.text, part.partial) == (b"one", b"tw", True)
        await writer.append(b"o\n", LogCursor("2026-01-01T00:00:01Z", 2))
        assert (await anext(lines)).text == b"o"
        await writer.close()
        await here.redis.hset(wire.attempts_key(JOB), str(ATTEMPT), "{}")
        assert [line async for line in lines] == []

    run(test)


def test_following_an_attempt_that_the_ledger_has_forgotten_ends() -> None:
    async def test(here: World) -> None:
        writer = here.writer()
        await writer.open()
        await writer.append(b"2026-01-01T00:00:01Z one\n", LogCursor("2026-01-01T00:00:01Z", 1))
        await here.redis.hset(f"rq:job:{JOB}", wire.FIELD_ATTEMPT, ATTEMPT)
        lines = here.reader.read(JOB, ATTEMPT, follow=True)
        assert (await anext(lines)).text == b"one"
        await writer.append(b"2026-01-01T00:00:02Z two\n", LogCursor("2026-01-01T00:00:02Z", 1))
        assert (await anext(lines)).text == b"two"
        await here.redis.hset(f"rq:job:{JOB}", wire.FIELD_ATTEMPT, ATTEMPT + 1)
        async with asyncio.timeout(10):
            assert [line async for line in lines] == []

    run(test)


class Ghost(Stream):
    """While the stream is read, a write that was given up for lost takes effect after all."""

    def __init__(self, here: World, lines: list[tuple[int, bytes]]) -> None:
        super().__init__(lines)
        self.writer: LogWriter | None = here.writer()

    async def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        if self.writer is not None:
            ghost, self.writer = self.writer, None
            await ghost.open()
            await ghost.append(b"2026-01-01T00:00:01.000000000Z a\n", LogCursor("2026-01-01T00:00:01.000000000Z", 1))
        async for chunk in super().stream_log(pod, container, since_time=since_time, follow=follow, previous=previous):
            yield chunk


def test_a_write_that_was_given_up_for_lost_and_arrives_late_leaves_no_hole() -> None:
    async def test(here: World) -> None:
        following = follower(here, Ghost(here, [(1, b"a"), (2, b"b")]))
        following.container_ended()
        await following.run()
        assert await here.text() == [b"a", b"b"]
        assert (await here.reader.entries(JOB, ATTEMPT))["run"].complete

    run(test)


def test_a_server_that_is_loading_is_waited_for_and_other_refusals_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(here: World) -> None:
        answers: list[object] = [exceptions.BusyLoadingError("LOADING"), exceptions.ResponseError("WRONGTYPE")]

        class Pipeline:
            def execute_command(self, *_: object) -> None:
                return

            async def execute(self, *, raise_on_error: bool) -> list[object]:
                assert not raise_on_error
                return [answers.pop(0)]

        monkeypatch.setattr(here.redis, "pipeline", lambda **_: Pipeline())
        with pytest.raises(RedisUnavailable):
            await here.batch.execute("GET", "a")
        with pytest.raises(RedisRefused):
            await here.batch.execute("GET", "a")

    run(test)

"""Services that crash while streams break, kubelets fail, pods go: complete logs, or ones that say what they miss."""

import asyncio

import pytest

from adapters.kubernetes_api import ApiError
from adapters.object_store import StoreRefused
from runner_spec import wire
from runner_spec.log_cursor import LogCursor
from tests.worker.test_log_pipeline import ATTEMPT, JOB, Stream, World, run
from tests.worker.test_log_restarts import AGAIN, FIRST, SECOND, THIRD, Line, Sidecar, follower, pod_with
from worker import log_follower, log_streams, log_writer
from worker.cancellation import end_tasks
from worker.log_follower import LogFollower
from worker.log_store import LogEntry, LogStarts
from worker.log_streams import LogKeeper, LogStreams

AFTER_ONE = len(b"2026-01-01T00:00:01.000000000Z one\n")
CUT = b"[dynapod] lines are missing here: the log was rotated, or its container started again, before they were read"
ROTATED = b"[dynapod] lines are missing here: Kubernetes had rotated the log before it was read"
ONE_START = b"[dynapod] the container was started again before the log of one of its starts could be read"
POD_GONE = b"[dynapod] the pod was gone before the end of this log could be confirmed"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between tries, shortened."""
    monkeypatch.setattr(log_follower, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(log_follower, "BACKOFF_MAX_S", 0.01)


async def to_the_end(here: World, followed: LogFollower) -> list[bytes]:
    await asyncio.wait_for(followed.run(), 10)
    assert (await here.reader.entries(JOB, ATTEMPT))["db"].complete
    return await here.text("db")


def crash(source: Sidecar, followed: LogFollower, *starts: list[Line], told: int) -> None:
    """When the stream that is open now has been read: the container is started again, and that is its end."""

    def again() -> None:
        source.starts += [list(start) for start in starts]
        source.when_read = lambda: None
        if told:
            followed.container_restarted(told)
        followed.container_ended()

    source.when_read = again


def test_the_end_that_a_broken_stream_missed_is_read_though_the_next_start_prints_nothing() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = AFTER_ONE
        followed = follower(here, source)
        crash(source, followed, [], told=1)
        assert await to_the_end(here, followed) == [b"one", b"FATAL one"]

    run(test)


def test_it_is_read_even_if_the_status_never_told_of_the_restart() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = AFTER_ONE
        followed = follower(here, source)
        crash(source, followed, [], told=0)
        assert await to_the_end(here, followed) == [b"one", b"FATAL one"]

    run(test)


def test_a_lost_end_is_declared_though_the_starts_after_it_print_nothing() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = AFTER_ONE
        followed = follower(here, source)
        crash(source, followed, [], [], told=2)
        assert await to_the_end(here, followed) == [b"one", AGAIN]

    run(test)


def test_a_lost_end_before_a_silent_start_is_declared() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = AFTER_ONE
        followed = follower(here, source)
        crash(source, followed, [], THIRD, told=2)
        assert await to_the_end(here, followed) == [b"one", AGAIN, b"three"]

    run(test)


def test_starts_that_nobody_read_are_declared_with_the_end_before_them() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = AFTER_ONE
        followed = follower(here, source)
        crash(source, followed, SECOND, [(21, b"x")], THIRD, told=3)
        lines = await to_the_end(here, followed)
        assert lines == [b"one", AGAIN + b", with the log of one of its starts after it", b"x", b"three"]

    run(test)


@pytest.mark.parametrize(("first", "declared"), [(FIRST, ROTATED), ([], CUT)])
def test_a_rotation_after_a_restart_is_declared(first: list[Line], declared: bytes) -> None:
    async def test(here: World) -> None:
        source = Sidecar(first, SECOND)
        followed = follower(here, source)
        followed.container_restarted(1)

        def rotated_while_the_stream_was_broken() -> None:
            source.starts[-1] = [(15, b"later")]
            source.when_read = lambda: None
            followed.container_ended()
            raise ApiError(0, "Unreachable", "cut")

        source.when_read = rotated_while_the_stream_was_broken
        expected = [*(text for _, text in first), b"two", b"FATAL two", declared, b"later"]
        assert await to_the_end(here, followed) == expected

    run(test)


def test_the_end_of_a_log_that_was_rotated_into_nothing_is_declared() -> None:
    async def test(here: World) -> None:
        source = Stream([(1, b"one"), (2, b"FATAL one")], breaks=[AFTER_ONE])
        followed = LogFollower(source, here.writer("db"), "pod", "db", secrets=None, limit=10**9, metrics=here.metrics)
        task = asyncio.create_task(followed.run())
        while not source.opened:  # noqa: ASYNC110 - the double has no event of its own
            await asyncio.sleep(0)
        source.lines.clear()
        followed.container_ended()
        await asyncio.wait_for(task, 10)
        assert await here.text("db") == [b"one", ROTATED]

    run(test)


def test_a_stream_that_ran_ahead_of_the_status_misses_no_start() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, SECOND)
        followed = follower(here, source)

        def told() -> None:
            followed.container_restarted(1)
            followed.container_ended()

        source.when_read = told
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_a_start_that_the_status_did_not_tell_of_in_time_is_declared_when_it_does() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, SECOND, THIRD)
        followed = follower(here, source)
        crash(source, followed, told=2)  # nothing had been told while the third start was read
        source.starts[-1:] = [THIRD]
        assert await to_the_end(here, followed) == [
            b"two",
            b"FATAL two",
            b"three",
            ONE_START + b": it would stand before this",
        ]

    run(test)


def test_a_start_that_was_not_read_before_the_pod_was_deleted_is_declared() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        followed = follower(here, source)

        def restart_and_delete() -> None:
            source.starts.append(SECOND)
            followed.container_restarted(1)
            source.gone = True
            followed.container_ended()

        source.when_read = restart_and_delete
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", POD_GONE]

    run(test)


def test_a_log_read_to_its_end_before_the_pod_was_deleted_has_no_gap() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, SECOND)
        followed = follower(here, source)
        followed.container_restarted(1)

        def read_and_deleted() -> None:
            source.gone = True
            followed.container_ended()

        source.when_read = read_and_deleted
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_a_silent_log_read_to_its_end_before_the_pod_was_deleted_has_no_gap() -> None:
    async def test(here: World) -> None:
        source = Sidecar([])
        followed = follower(here, source)

        def deleted() -> None:
            source.gone = True
            followed.container_ended()

        source.when_read = deleted
        assert await to_the_end(here, followed) == []

    run(test)


def test_a_start_that_printed_before_the_silent_one_that_was_read_first_is_not_lost() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, [])
        followed = follower(here, source)
        source.when_read = followed.container_ended
        assert await to_the_end(here, followed) == [b"one", b"FATAL one"]

    run(test)


def test_a_log_read_to_its_end_before_the_status_told_of_its_start_has_no_gap() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        followed = follower(here, source)

        def told_and_deleted() -> None:
            source.when_read = lambda: None
            followed.container_restarted(1)
            source.gone = True
            followed.container_ended()

        def restarted() -> None:
            source.starts.append(SECOND)
            source.when_read = read_once

        def read_once() -> None:
            source.when_read = told_and_deleted

        source.when_read = restarted
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_a_service_that_crashes_again_and_again_without_a_word_has_no_gap_and_is_not_asked_for_ever() -> None:
    async def test(here: World) -> None:
        source = Sidecar([])
        followed = follower(here, source)
        polls = 0

        def poll() -> None:
            nonlocal polls
            polls += 1
            if len(source.starts) == 30:
                followed.container_ended()
            elif polls % 5 == 0:  # between two starts the log is looked at a few times
                source.starts.append([])
                followed.container_restarted(len(source.starts) - 1)

        source.when_read = poll
        assert await to_the_end(here, followed) == []
        assert sum(previous for _, previous in source.asked) == 30  # once for each start

    run(test)


def test_a_silent_start_that_was_read_is_not_declared_though_the_kubelet_has_removed_it() -> None:
    async def test(here: World) -> None:
        source = Sidecar([])
        source.previous_removed = True
        followed = follower(here, source)

        def again() -> None:
            source.starts.append([])
            followed.container_restarted(len(source.starts) - 1)
            source.when_read = followed.container_ended

        def read() -> None:  # only a stream that has ended was read: the status may tell of the next start after that
            source.when_read = again

        source.when_read = read
        assert await to_the_end(here, followed) == []

    run(test)


def test_a_service_that_prints_before_each_crash_is_stored_whole() -> None:
    async def test(here: World) -> None:
        source = Sidecar([(1, b"start 0")])
        followed = follower(here, source)
        polls = 0

        def poll() -> None:
            nonlocal polls
            polls += 1
            number = len(source.starts)
            source.waits = polls % 3 == 1
            if number == 12:
                followed.container_ended()
            elif polls % 3 == 0:
                source.starts.append([(number + 1, b"start %d" % number)])
                followed.container_restarted(number)

        source.when_read = poll
        assert await to_the_end(here, followed) == [b"start %d" % number for number in range(12)]

    run(test)


def test_a_start_that_was_over_before_it_was_looked_at_is_declared_while_the_next_one_is_awaited() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        followed = follower(here, source)

        def crash_twice() -> None:
            source.starts += [SECOND, THIRD]
            source.waits = True  # so `previous` is the third start's log, not the second one's
            source.when_read = lambda: None
            followed.container_restarted(2)
            followed.container_ended()

        source.when_read = crash_twice
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", ONE_START, b"three"]

    run(test)


def test_a_start_that_was_over_before_it_was_looked_at_is_declared_though_the_waiting_one_printed_nothing() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, SECOND, [])
        source.waits = True
        followed = follower(here, source)
        followed.container_restarted(2, waits=True)
        followed.container_ended()
        two = b"[dynapod] the container was started again before the logs of 2 of its starts could be read"
        assert await to_the_end(here, followed) == [two]

    run(test)


@pytest.mark.parametrize("cut", [False, True])
def test_the_last_start_is_read_though_the_kubelet_has_removed_the_one_before_it(cut: bool) -> None:  # noqa: FBT001 - a case
    async def test(here: World) -> None:
        source = Sidecar(FIRST)
        source.cut_after = AFTER_ONE if cut else None
        source.previous_removed = True
        followed = follower(here, source)
        crash(source, followed, SECOND, told=1)
        first = [b"one", AGAIN] if cut else [b"one", b"FATAL one"]
        assert await to_the_end(here, followed) == [*first, b"two", b"FATAL two"]

    run(test)


@pytest.mark.parametrize("failures", [3, 1000])
def test_what_a_kubelet_does_not_serve_for_a_moment_is_asked_again_and_then_declared_once(failures: int) -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, SECOND)
        source.previous_fails = failures
        followed = follower(here, source)
        followed.container_restarted(1)
        source.when_read = followed.container_ended
        first = [b"one", b"FATAL one"] if failures == 3 else [ONE_START]
        assert await to_the_end(here, followed) == [*first, b"two", b"FATAL two"]

    run(test)


def test_how_far_the_starts_are_read_is_known_to_the_worker_that_takes_over() -> None:
    async def test(here: World) -> None:
        source = Sidecar([], [], [])
        source.runs_on.clear()
        for _ in range(3):  # workers, one after the other
            followed = follower(here, source)
            followed.container_restarted(2)
            source.taken.clear()
            task = asyncio.create_task(followed.run())
            await asyncio.wait_for(source.following.wait(), 10)
            source.following.clear()
            await end_tasks([task])
        source.runs_on.set()
        followed = follower(here, source)
        followed.container_restarted(2)
        followed.container_ended()
        # Of the first start nothing is known: it may have printed something.
        assert await to_the_end(here, followed) == [ONE_START]
        assert sum(previous for _, previous in source.asked) == 1

    run(test)


def test_a_log_that_an_earlier_version_began_is_gone_on_with() -> None:
    async def test(here: World) -> None:
        writer = here.writer("db")
        await writer.open()
        await writer.append(b"2026-01-01T00:00:01.000000000Z one\n", LogCursor("2026-01-01T00:00:01.000000000Z", 1))
        assert "starts" not in str(await here.redis.hget(wire.log_index_key(JOB, ATTEMPT), "db"))
        followed = follower(here, Sidecar(FIRST, SECOND))
        followed.container_restarted(3)
        followed.container_ended()
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", b"two", b"FATAL two"]

    run(test)


def test_how_far_the_starts_are_read_survives_json() -> None:
    entry = LogEntry(starts=LogStarts(3, ended=True, caught_up=4))
    assert LogEntry.from_json(entry.to_json()) == entry
    assert LogEntry.from_json(LogEntry().to_json()) == LogEntry()


def test_a_last_line_without_newline_is_ended_before_the_next_start_goes_on() -> None:
    async def test(here: World) -> None:
        source = Sidecar(FIRST, SECOND)
        source.unfinished.add(0)
        followed = follower(here, source)
        followed.container_restarted(1)
        followed.container_ended()
        assert await to_the_end(here, followed) == [b"one", b"FATAL one", b"two", b"FATAL two"]
        stamps = [line.timestamp[17:19] async for line in here.reader.read(JOB, ATTEMPT)]
        assert stamps == ["01", "02", "11", "12"]

    run(test)


def test_a_line_that_was_cut_for_good_is_ended_before_the_gap_is_declared() -> None:
    async def test(here: World) -> None:
        source = Sidecar([(1, b"half")])
        source.unfinished.add(0)
        followed = follower(here, source)

        def crash_in_the_middle() -> None:
            source.starts = [[(3, b"lost")], [(5, b"also")], SECOND]
            source.kept = 1
            source.when_read = followed.container_ended
            followed.container_restarted(2)

        source.when_read = crash_in_the_middle
        lines = await to_the_end(here, followed)
        assert lines == [b"half", ONE_START, b"two", b"FATAL two"]

    run(test)


def test_the_previous_log_counts_towards_the_limit() -> None:
    async def test(here: World) -> None:
        source = Sidecar([(second, b"x" * 90) for second in range(50)], SECOND)
        followed = LogFollower(
            source, here.writer("db"), "pod", "db", secrets=None, limit=1000, metrics=here.metrics, may_restart=True
        )
        followed.container_restarted(1)
        followed.container_ended()
        lines = await to_the_end(here, followed)
        assert lines[-1] == b"[dynapod] this log is longer than the limit of 1000 bytes: the rest is not stored"
        assert b"two" not in lines

    run(test)


def test_the_same_gap_is_declared_once_at_its_place_and_all_gaps_are_bounded() -> None:
    async def test(here: World) -> None:
        writer = here.writer("db")
        await writer.open()
        assert [await writer.gap("first"), await writer.gap("second"), await writer.gap("first")] == [True, True, False]
        for second in range(300):
            stamp = f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}Z"
            await writer.append(f"{stamp} line\n".encode(), LogCursor(stamp, 1))
            await writer.gap("first")
        gaps = (await here.reader.entries(JOB, ATTEMPT))["db"].gaps
        assert len(gaps) == log_writer.MAX_GAPS
        assert gaps[-1].why.endswith("(and more may be missing from here on: no more gaps of this log are listed)")

    run(test)


def test_a_store_that_refuses_keeps_no_job_from_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def test(here: World) -> None:
        async def refuse(path: str, data: bytes) -> None:
            raise StoreRefused(f"{path}: access denied ({len(data)} bytes)")

        here.store.put = refuse  # type: ignore[method-assign]  # the permission is the operator's to give
        keeper = LogKeeper(Sidecar(FIRST), here.redis, here.store, here.metrics)
        streams = LogStreams(keeper, JOB, ATTEMPT, "pod", has_secrets=False, limit=10**9)
        ended = {"terminated": {"startedAt": "x", "exitCode": 0}}
        streams.update(pod_with(ended, ended))
        for _ in range(2):
            await asyncio.wait_for(streams.finish(), 10)
        entries = await here.reader.entries(JOB, ATTEMPT)
        assert set(entries) == {"db", "run"}
        for entry in entries.values():
            assert (entry.complete, entry.gaps, entry.durable) == (True, (), 0)
        assert await here.text("db") == [b"one", b"FATAL one"]
        assert "stay in Redis, for 604800 s: StoreRefused" in caplog.text

    run(test)


def test_a_log_that_waits_for_a_store_that_refuses_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "PIECE_BYTES", 10)
    monkeypatch.setattr(log_writer, "WAITING_BYTES", 20)
    monkeypatch.setattr(log_streams, "IDLE_LIMIT_S", 0.05)

    async def test(here: World) -> None:
        async def refuse(path: str, data: bytes) -> None:
            raise StoreRefused(f"access denied to {len(data)} bytes" if path else "")

        here.store.put = refuse  # type: ignore[method-assign]  # the permission is the operator's to give
        keeper = LogKeeper(Sidecar(FIRST), here.redis, here.store, here.metrics)
        streams = LogStreams(keeper, JOB, ATTEMPT, "pod", has_secrets=False, limit=10**9)
        ended = {"terminated": {"startedAt": "x", "exitCode": 0}}
        streams.update(pod_with(ended, ended))
        for _ in range(2):
            await asyncio.wait_for(streams.finish(), 10)
        *lines, last = await here.text("db")
        assert lines == [b"one", b"FATAL one"]
        assert last.startswith(b"[dynapod] the end of this log is not stored: the object store takes nothing (Store")

    run(test)

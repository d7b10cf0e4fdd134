"""What the checker reads out of Redis and the object store: raw, whole, and nothing that is not there."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters import redis_server
from adapters.object_store import ObjectStore
from runner_spec import storage, wire
from tests.chaos.records import StoredArtifacts, StoredLog
from tests.chaos.redis_evidence import left_keys, parse_stored, read_artifacts, read_evidence
from worker.log_store import LogEntry, LogGap, piece_path

T = b"2026-01-01T00:00:00.000000001Z "
Redis = Any  # redis-py's commands are typed as sync or async at once


def stored(*gaps: int, size: int, pieces: tuple[int, ...] = (), complete: bool = True) -> LogEntry:
    return LogEntry(size, pieces, complete, gaps=tuple(LogGap(offset, f"gap {offset}") for offset in gaps))


def with_redis(url: str, test: Callable[[Redis], Awaitable[None]]) -> None:
    async def run() -> None:
        async with redis_server.connect(url) as connections:
            await test(connections.control)

    asyncio.run(run())


def test_timestamps_are_taken_out_and_gaps_keep_their_place() -> None:
    raw = T + b"one\r\n" + T + b"\n" + T + b"a\x0bb\n" + T + b"cut" + T + b"late\n"
    gap = len(raw) - len(T + b"late\n")
    found = parse_stored(raw, stored(0, gap, len(raw), size=len(raw)))
    assert found.content == b"one\r\n\na\x0bb\ncutlate\n"
    assert [offset for offset, _ in found.gaps] == [0, found.content.index(b"late"), len(found.content)]
    assert found.complete


def test_bytes_that_nobody_has_are_missing_from_a_complete_log() -> None:
    assert not parse_stored(T + b"one\n", stored(size=len(T) + 99)).complete


@pytest.mark.redis
def test_a_job_is_read_with_its_ledger_ends_registries_and_logs(redis_url: str, tmp_path: Path) -> None:
    store = ObjectStore.from_url(str(tmp_path))

    async def test(redis: Redis) -> None:
        await redis.hset("rq:job:a:b", mapping={"status": "finished", wire.FIELD_ATTEMPT: "2"})
        await redis.hset(wire.attempts_key("a:b"), mapping={"1": '{"action":"requeue"}', "2": '{"action":"finish"}'})
        for status in ("queued", "finished"):
            await redis.xadd(wire.EVENTS_KEY, {"job": "a:b", "attempt": "2", "status": status})
        await redis.zadd("rq:finished:jobs", {"a:b": 1})
        await redis.zadd("rq:wip:jobs", {"a:b:execution": 1})
        await redis.rpush("rq:queue:jobs", "a:b")
        # Of attempt 2, a piece is durable, one more entry overlaps it, and the rest is in the stream alone.
        first, rest = T + b"one\n" + T + b"tw", b"o\n" + T + b"three"
        await store.put(piece_path("a:b", 2, "run", 0, len(first)), first)
        stream = wire.log_stream_key("a:b", 2, "run")
        await redis.xadd(stream, {"o": len(first) - 2, "d": first[-2:] + rest[:3]})
        await redis.xadd(stream, {"o": len(first) + 3, "d": rest[3:]})
        size = len(first) + len(rest)
        entry = stored(size, size=size, pieces=(len(first),), complete=False)
        await redis.hset(wire.log_index_key("a:b", 2), "run", entry.to_json())
        # Of attempt 1, the piece that the index names is not in the store.
        await redis.hset(wire.log_index_key("a:b", 1), "run", stored(size=9, pieces=(9,)).to_json())

        found = await read_evidence(redis, store, ["a:b", "unknown"])

        job = found.jobs["a:b"]
        assert (job.status, job.attempt) == ("finished", 2)
        assert {attempt: entry["action"] for attempt, entry in job.ledger.items()} == {1: "requeue", 2: "finish"}
        assert [(end["status"], end["attempt"]) for end in job.ends] == [("finished", "2")]
        assert sorted(job.registries) == ["finished", "queue", "wip"]
        content = b"one\ntwo\nthree"
        assert job.logs[2, "run"] == StoredLog(content, ((len(content), f"gap {size}"),), complete=False)
        assert job.logs[1, "run"] == StoredLog(b"", (), complete=False)
        assert (found.jobs["unknown"].status, found.jobs["unknown"].attempt) == (None, 0)
        assert found.left_keys == ("dynapod:attempts:a:b", *logs_left("a:b"), "rq:queue:jobs", "rq:wip:jobs")

    with_redis(redis_url, test)


def test_artifacts_are_read_as_the_manifest_of_the_attempt_names_them(tmp_path: Path) -> None:
    store = ObjectStore.from_url(str(tmp_path))
    files = [{"path": "out/a"}, {"path": "out/gone"}]
    report = {"reason": "ok", "artifacts": [{"name": "x", "files": files}, {"name": "skipped", "files": []}]}

    async def test() -> None:
        assert await read_artifacts(store, "a:b", 2) == StoredArtifacts(None)
        await store.put(storage.manifest_path("a:b", 2), json.dumps(report).encode())
        await store.put(storage.artifact_path("a:b", 2, "x", "out/a"), b"content")
        await store.put(storage.artifact_path("a:b", 1, "x", "out/gone"), b"of another attempt")
        found = await read_artifacts(store, "a:b", 2)
        assert found == StoredArtifacts(report, {("x", "out/a"): b"content", ("x", "out/gone"): None})

    asyncio.run(test())


def logs_left(job: str) -> tuple[str, ...]:
    """This test gave no TTL to them."""
    return (wire.log_stream_key(job, 2, "run"), wire.log_index_key(job, 1), wire.log_index_key(job, 2))


@pytest.mark.redis
@pytest.mark.parametrize(
    ("key", "seconds", "left"),
    [
        ("rq:execution:a:1", 1000, True),
        ("rq:executions:a", 1000, True),
        ("rq:worker:w:executions", 1000, True),
        ("rq:wip:jobs", None, True),
        ("rq:queue:jobs", None, True),
        ("rq:queue:jobs:intermediate", None, True),
        ("rq:scheduled:jobs", None, True),
        ("dynapod:stop:a", None, True),
        ("dynapod:attempts:a", None, True),
        ("dynapod:attempts:a", 1000, False),
        ("dynapod:state:a", 1000, False),
        ("dynapod:leases", None, False),
        ("dynapod:events", None, False),
        ("rq:job:a", None, False),
        ("rq:finished:jobs", None, False),
        ("rq:worker:w", 60, False),
    ],
)
def test_a_key_is_left_behind_if_it_should_be_gone_or_never_goes(
    redis_url: str, key: str, seconds: int | None, *, left: bool
) -> None:
    async def test(redis: Redis) -> None:
        await redis.set(key, "x", ex=seconds)
        assert await left_keys(redis) == [key] * left

    with_redis(redis_url, test)


@pytest.mark.redis
def test_more_jobs_and_events_than_a_page_holds_are_all_read(redis_url: str, tmp_path: Path) -> None:
    count = 5100

    async def test(redis: Redis) -> None:
        pipeline = redis.pipeline(transaction=False)
        for number in range(count):
            pipeline.hset(f"rq:job:{number}", mapping={"status": "finished", wire.FIELD_ATTEMPT: "1"})
            pipeline.hset(wire.attempts_key(str(number)), "1", json.dumps({"action": "finish"}))
            pipeline.xadd(wire.EVENTS_KEY, {"job": number, "attempt": "1", "status": "finished"})
        await pipeline.execute()
        found = await read_evidence(redis, ObjectStore.from_url(str(tmp_path)), list(map(str, range(count))))
        assert all(job.status == "finished" and len(job.ends) == 1 for job in found.jobs.values())
        assert len(found.jobs) == len(found.left_keys) == count

    with_redis(redis_url, test)

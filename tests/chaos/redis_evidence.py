"""What Redis and the object store say, read in batches: tens of thousands of jobs in seconds.

Everything is read raw, not through the product's readers: a reader that hides a hole would hide it from the checker.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final

from adapters.object_store import NotFound, ObjectStore, StoreError
from adapters.redis_server import AsyncClient
from runner_spec import storage, wire
from tests.chaos.records import JobRecord, StoredArtifacts, StoredLog
from worker.log_store import LogEntry, piece_path

BATCH: Final = 500
EVENTS_PAGE: Final = 5000
SCAN_PAGE: Final = 5000
# Objects read at once.
READS: Final = 32
# rq's registries of one queue by key prefix (rq/registry.py); members of `wip` are `<job>:<execution>`.
REGISTRIES: Final = ("wip", "finished", "failed", "canceled", "deferred", "scheduled", "ready")
# Nothing of these may be there once every job has ended: the first whatever their TTL, the last two without one.
LEFT: Final = (
    "rq:execution:*",
    "rq:executions:*",
    "rq:worker:*:executions",
    "rq:wip:*",
    "rq:scheduled:*",
    "rq:deferred:*",
    "rq:ready:*",
    "rq:queue:*",
    "dynapod:*",
)
# The leases (of live workers) and the events (a bounded stream).
PERMANENT: Final = frozenset({wire.LEASES_KEY, wire.EVENTS_KEY})

# Both scripts only read, and leave most of what they see behind: redis-py takes 10 µs for each string of a reply.
# ARGV: first id, entries. Returns the last id seen ('' at the end) and, as JSON, [[name, value, …] of each end].
_READ_ENDS: Final = """
local ends = {}
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
for _, entry in ipairs(page) do
    for at = 1, #entry[2], 2 do
        local status = entry[2][at] == 'status' and entry[2][at + 1]
        if status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled' then
            ends[#ends + 1] = entry[2]
        end
    end
end
local last = #page == tonumber(ARGV[2]) and page[#page][1] or ''
return {last, #ends > 0 and cjson.encode(ends) or '[]'}
"""
# ARGV: cursor, keys. Returns the next cursor and the keys that are neither a job's own nor will expire by themselves.
_SCAN_KEYS: Final = """
local reply, found = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2]), {}
for _, key in ipairs(reply[2]) do
    local going = string.find(key, '^dynapod:') or string.find(key, '^rq:queue:')
    local own = string.find(key, '^rq:job:') or string.find(key, '^rq:results:')
    if not own and not (going and redis.call('TTL', key) >= 0) then
        found[#found + 1] = key
    end
end
return {reply[1], found}
"""

Log = tuple[str, int, str]  # job, attempt, container


@dataclass(frozen=True, slots=True)
class RedisEvidence:
    """The part of `Evidence` that is Redis'."""

    jobs: Mapping[str, JobRecord]
    left_keys: tuple[str, ...]


async def read_evidence(
    redis: AsyncClient,
    store: ObjectStore,
    job_ids: Sequence[str],
    *,
    with_artifacts: Collection[str] = (),
    queue: str = wire.DEFAULT_QUEUE,
) -> RedisEvidence:
    """Read all that is known of the jobs; to be called when nobody works on them any more.

    `with_artifacts` are those of the jobs that declare artifacts.

    Raises:
        redis.exceptions.RedisError: no answer; nothing is guessed.
    """
    ends, registries = await _ends(redis), await _registries(redis, queue)
    records: list[tuple[str, Any, Any, dict[int, Any]]] = []
    for batch in _batches(job_ids):
        pipeline = redis.pipeline(transaction=False)
        for job in batch:
            pipeline.hmget(f"rq:job:{job}", "status", wire.FIELD_ATTEMPT)
            pipeline.hgetall(wire.attempts_key(job))
        replies: list[Any] = await pipeline.execute()
        for job, (status, attempt), entries in zip(batch, replies[::2], replies[1::2], strict=True):
            records.append((job, status, attempt, {int(n): json.loads(entry) for n, entry in entries.items()}))
    logs = await _logs(redis, store, {job: _attempts(attempt, ledger) for job, _, attempt, ledger in records})
    artifacts = {
        job: await read_artifacts(store, job, max(numbers))
        for job, _, attempt, ledger in records
        if job in with_artifacts and (numbers := _attempts(attempt, ledger))
    }
    jobs = {
        job: JobRecord(
            job=job,
            status=status.decode() if status else None,
            attempt=max(_attempts(attempt, ledger), default=0),
            ledger=ledger,
            ends=tuple(ends.get(job, ())),
            registries=tuple(registries.get(job, ())),
            logs=logs.get(job, {}),
            artifacts=artifacts.get(job),
        )
        for job, status, attempt, ledger in records
    }
    return RedisEvidence(jobs, tuple(await left_keys(redis)))


def _attempts(newest: bytes | None, ledger: Mapping[int, object]) -> range:
    """All numbers ever given, as far as Redis remembers."""
    return range(1, max(int(newest or 0), *ledger, 0) + 1)


async def _ends(redis: AsyncClient) -> dict[str, list[dict[str, str]]]:
    """Job → the events that ended it for good; the others (`queued`, `scheduled`, `started`) end an attempt only."""
    found: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    evaluate: Any = redis.eval
    start = b"-"
    while start:
        last, text = await evaluate(_READ_ENDS, 1, wire.EVENTS_KEY, start, EVENTS_PAGE)
        for words in json.loads(text.decode(errors="replace")):
            fields = dict(zip(words[::2], words[1::2], strict=True))
            found[fields["job"]].append(fields)
        start = last and b"(" + last
    return found


async def _registries(redis: AsyncClient, queue: str) -> dict[str, list[str]]:
    """Job → the registries that list it, and `queue` when it waits."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in REGISTRIES:
        members: Any = await redis.zrange(f"rq:{name}:{queue}", 0, -1)
        for member in members:
            text = member.decode(errors="replace")
            found[text.rpartition(":")[0] if name == "wip" else text].append(name)
    lrange: Any = redis.lrange
    for member in await lrange(f"rq:queue:{queue}", 0, -1):
        found[member.decode(errors="replace")].append("queue")
    return found


async def left_keys(redis: AsyncClient) -> list[str]:
    """Keys that should be gone once every job has ended, or that have no TTL and should; sorted."""
    found: set[str] = set()  # a key may be met twice in a scan
    evaluate: Any = redis.eval
    cursor = b"0"
    while True:
        cursor, page = await evaluate(_SCAN_KEYS, 0, cursor, SCAN_PAGE)
        names = {key.decode(errors="replace") for key in page} - PERMANENT
        found |= {name for name in names if any(fnmatchcase(name, pattern) for pattern in LEFT)}
        if cursor == b"0":
            return sorted(found)


# -- artifacts


async def read_artifacts(store: ObjectStore, job: str, attempt: int) -> StoredArtifacts:
    """The manifest of an attempt, and every file that it names.

    Raises:
        StoreError: the store does not answer; nothing is guessed.
    """
    found = await _object(store, storage.manifest_path(job, attempt))
    if found is None:
        return StoredArtifacts(None)
    manifest = json.loads(found)
    named = [(artifact["name"], file["path"]) for artifact in manifest["artifacts"] for file in artifact["files"]]
    files = {
        (name, path): await _object(store, storage.artifact_path(job, attempt, name, path)) for name, path in named
    }
    return StoredArtifacts(manifest, files)


async def _object(store: ObjectStore, path: str) -> bytes | None:
    try:
        return await store.get(path)
    except NotFound:
        return None


# -- logs


async def _logs(
    redis: AsyncClient, store: ObjectStore, attempts: Mapping[str, range]
) -> dict[str, dict[tuple[int, str], StoredLog]]:
    entries: dict[Log, LogEntry] = {}
    wanted = [(job, attempt) for job, numbers in attempts.items() for attempt in numbers]
    for batch in _batches(wanted):
        pipeline = redis.pipeline(transaction=False)
        for job, attempt in batch:
            pipeline.hgetall(wire.log_index_key(job, attempt))
        for (job, attempt), found in zip(batch, await pipeline.execute(), strict=True):
            entries |= {(job, attempt, name.decode()): LogEntry.from_json(text) for name, text in found.items()}
    durable = await _pieces(store, entries)
    live = await _streams(redis, [log for log, entry in entries.items() if entry.durable < entry.size])
    logs: defaultdict[str, dict[tuple[int, str], StoredLog]] = defaultdict(dict)
    for log, entry in entries.items():
        stored = bytes(durable.get(log, b""))
        if len(stored) == entry.durable:  # else a piece is missing, and what comes after it has no place
            stored = _joined(stored, live.get(log, []))[: entry.size]
        logs[log[0]][log[1:]] = parse_stored(stored, entry)
    return logs


async def _pieces(store: ObjectStore, entries: Mapping[Log, LogEntry]) -> dict[Log, bytearray]:
    """What lies in the object store, up to the first piece that is missing or has another length than it says."""
    slots, found = asyncio.Semaphore(READS), dict[Log, bytearray]()

    async def read(log: Log, pieces: Sequence[int]) -> None:
        job, attempt, container = log
        content = found.setdefault(log, bytearray())
        async with slots:
            for length in pieces:
                try:
                    data = await store.get(piece_path(job, attempt, container, len(content), length))
                except StoreError:
                    return
                content.extend(data[:length])
                if len(data) != length:
                    return

    await asyncio.gather(*(read(log, entry.pieces) for log, entry in entries.items() if entry.pieces))
    return found


async def _streams(redis: AsyncClient, logs: Sequence[Log]) -> dict[Log, list[tuple[int, bytes]]]:
    """What lies in Redis: offset and bytes, in order."""
    found: dict[Log, list[tuple[int, bytes]]] = {}
    for batch in _batches(logs):
        pipeline = redis.pipeline(transaction=False)
        for log in batch:
            pipeline.xrange(wire.log_stream_key(*log))
        for log, stream in zip(batch, await pipeline.execute(), strict=True):
            found[log] = [(int(fields[b"o"]), fields[b"d"]) for _, fields in stream]
    return found


def _joined(stored: bytes, rest: Iterable[tuple[int, bytes]]) -> bytes:
    """The pieces, and what of the stream joins on to them without a hole."""
    content = bytearray(stored)
    for offset, data in rest:
        if offset > len(content):
            break
        content += data[len(content) - offset :]
    return bytes(content)


def parse_stored(stored: bytes, entry: LogEntry) -> StoredLog:
    """Take the timestamps out of stored bytes. What follows a gap begins with a line, and its timestamp, of its own."""
    content = bytearray()
    gaps: list[tuple[int, str]] = []
    begin = 0
    for gap in [*entry.gaps, None]:
        end = entry.size if gap is None else gap.offset
        content += b"".join(_contents(stored[begin:end]))
        begin = end
        if gap is not None:
            gaps.append((len(content), gap.why))
    # Bytes that the entry promises and nobody has: no log is complete without them.
    return StoredLog(bytes(content), tuple(gaps), entry.complete and len(stored) == entry.size)


def _contents(lines: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(lines):
        end = lines.find(b"\n", at) + 1 or len(lines)  # not `splitlines`: a log may hold other line breaks
        yield lines[at:end].partition(b" ")[2]
        at = end


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(items)
    while batch := list(islice(left, BATCH)):
        yield batch

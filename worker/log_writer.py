"""Writes one container's log: first to the Redis stream, where followers read it, then to the object store for good.

Every append names the log's entry as this worker knows it and fails when it has changed: of two workers that follow
the same pod (one of them paused and adopted from), only one can go on, so nothing is stored twice or skipped.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from adapters.object_store import ObjectStore, StoreError
from runner_spec import wire
from runner_spec.log_cursor import LogCursor
from worker.log_batch import LogBatch, Word
from worker.log_store import LogEntry, LogGap, LogStarts, piece_path

log = logging.getLogger(__name__)

# Bytes that gather in Redis before they go to the object store as one piece.
PIECE_BYTES: Final = 1024 * 1024
# Entries that stay in the stream after they became durable, for followers that lag a little.
KEPT_ENTRIES: Final = 16
# Beyond this the writer waits for the object store instead of filling Redis; Kubernetes keeps the log meanwhile.
WAITING_BYTES: Final = 8 * PIECE_BYTES
# Of all logs of a worker. Beyond this, they go to the object store in smaller pieces, and none gathers more than one:
# a thousand talkative jobs must fill neither the worker nor Redis when the object store is away.
BACKLOG_BYTES: Final = 64 * PIECE_BYTES
SMALL_PIECE_BYTES: Final = PIECE_BYTES // 4
RETENTION_S: Final = 7 * 24 * 3600
STORE_RETRY_S: Final = 1.0
# For a piece of 8 MiB at most. A store that takes the connection and never answers must not hold up a job's end.
STORE_PATIENCE_S: Final = 30.0
# Of one log: every write sends the entry with all its gaps, and a container that crashes for days must not fill Redis.
MAX_GAPS: Final = 100
ANOTHER_POD: Final = "what stands before this was read from another pod of this attempt, and may not be all of it"

# KEYS: index, stream. ARGV: container, entry as known, entry from now on, retention, offset, data ('' for none),
# entries to keep ('' for all: only what is durable may go).
_APPEND: Final = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[6] ~= '' then redis.call('XADD', KEYS[2], '*', 'o', ARGV[5], 'd', ARGV[6]) end
if ARGV[7] ~= '' then redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[7]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('EXPIRE', KEYS[2], ARGV[4]) end
return 1
"""


class LogFencedError(Exception):
    """Another worker writes this log now: stop, without a trace."""


class LogWriter:
    """The one writer of one container's log.

    Call `open` first, and again after `RedisUnavailable` (the write may have taken effect, or not). Not for concurrent
    use. `pod` is the uid of the pod whose log it is; empty when none was seen. `begun`: somebody may have stored some
    of it; where this is the attempt's first worker, nobody is asked (should that be wrong, the first write is fenced).
    """

    def __init__(
        self,
        batch: LogBatch,
        store: ObjectStore,
        job_id: str,
        attempt: int,
        container: str,
        *,
        pod: str = "",
        begun: bool = True,
    ) -> None:
        self._batch = batch
        self._store = store
        self._job_id, self._attempt, self._container, self._pod = job_id, attempt, container, pod
        self._index = wire.log_index_key(job_id, attempt)
        self._stream = wire.log_stream_key(job_id, attempt, container)
        self._begun = begun
        self._known = ""  # the entry's text in Redis
        self._pending = bytearray()  # stored in Redis, not yet durable
        self.entry = LogEntry()
        self.store_trouble = ""  # why the object store did not take the last piece

    async def open(self) -> None:
        """Take up the log where it was left, by this worker or another one."""
        if not self._begun:
            self._begun = True  # from the second time on: what this worker has written, or whoever has fenced it
            return
        found = await self._batch.execute("HGET", self._index, self._container)
        self._known = found.decode() if found else ""
        self.entry = LogEntry.from_json(found)
        self.let_go()
        await self._recover()
        if self._pod and self.entry.pod not in {"", self._pod}:
            await self._begin_anew()

    async def _recover(self) -> None:
        """Hold again what is in Redis only; what Redis has lost of it is declared."""
        missing = self.entry.size - self.entry.durable
        if not missing:
            return
        at = self.entry.durable
        for _, fields in await self._batch.execute("XRANGE", self._stream, "-", "+"):
            begin, data = int(fields[b"o"]), fields[b"d"]
            if begin <= at < min(begin + len(data), self.entry.size):
                # Not beyond the entry's size: what another writer has added since may be lost again in a failover,
                # and then this entry is the newest one after all.
                part = data[at - begin : self.entry.size - begin]
                self._hold(part)
                at += len(part)
        if at < self.entry.size:  # Redis lost them: keep what is left in its place, and say so
            entry = replace(self.entry, size=at)
            await self._write(_with_gap(entry, f"{self.entry.size - at} bytes of the log were lost by Redis"))

    async def _begin_anew(self) -> None:
        """What is stored was read from another pod of this attempt, of which Redis knew nothing any more.

        Its cursor says nothing about this pod's log; its bytes are kept, with a border.
        """
        entry = replace(self.entry, complete=False, cursor=LogCursor(), starts=None, pod=self._pod)
        await self._write(_with_gap(entry, ANOTHER_POD) if entry.size else entry)

    async def append(self, data: bytes, cursor: LogCursor, starts: LogStarts | None = None) -> None:
        """Store more of the log, as one entry of the stream; `cursor` is the place after it, in the log of `starts`.

        Waits for the object store when too much is not durable yet, also for one that refuses: the operator may set
        its permissions right, and Kubernetes keeps the log meanwhile.

        Raises:
            LogFencedError: another worker has taken over.
        """
        await self._write(replace(self.entry.grown(len(data), cursor), starts=starts), data)
        self._hold(data)
        crowded = self._batch.backlog > BACKLOG_BYTES
        if len(self._pending) >= (SMALL_PIECE_BYTES if crowded else PIECE_BYTES):
            await self._make_durable(wait=crowded or len(self._pending) >= WAITING_BYTES)

    async def mark(self, starts: LogStarts) -> None:
        """Record how far the logs of the container's starts are read, if that is news.

        Raises:
            LogFencedError: another worker has taken over.
        """
        if self.entry.starts != starts:
            await self._write(replace(self.entry, starts=starts))

    async def gap(self, why: str) -> bool:
        """Declare that something is missing here; false when just that is declared here already.

        The hundredth gap of a log stands for all that follow it, and says so.

        Raises:
            LogFencedError: another worker has taken over.
        """
        entry = _with_gap(self.entry, why)
        if entry is self.entry:
            return False
        await self._write(entry)
        return True

    async def close(self) -> None:
        """The log's end was seen: make the rest durable and say that it is complete.

        When the object store is away, or refuses, the rest stays in Redis, where it can be read for as long as results
        are kept; nobody moves it to the object store later.

        Raises:
            LogFencedError: another worker has taken over.
        """
        await self._make_durable(wait=False)
        await self._write(replace(self.entry, complete=True))
        if self._pending:
            log.warning(
                "the last %d bytes of the log of %s stay in Redis, for %d s: %s",
                len(self._pending),
                self._container,
                RETENTION_S,
                self.store_trouble,
                extra={"action": "log_not_durable", "job": self._job_id, "attempt": self._attempt},
            )

    async def _make_durable(self, *, wait: bool) -> None:
        while self._pending:
            data = bytes(self._pending)
            path = piece_path(self._job_id, self._attempt, self._container, self.entry.durable, len(data))
            try:
                async with asyncio.timeout(STORE_PATIENCE_S):
                    await self._store.put(path, data)
            except (StoreError, TimeoutError) as error:
                self.store_trouble = f"{type(error).__name__}: {error or 'no answer'}"
                if not wait:
                    return
                await asyncio.sleep(STORE_RETRY_S)
                continue
            self.store_trouble = ""
            await self._write(replace(self.entry, pieces=(*self.entry.pieces, len(data))), keep=KEPT_ENTRIES)
            self.let_go()

    def _hold(self, data: bytes) -> None:
        self._pending += data
        self._batch.backlog += len(data)

    def let_go(self) -> None:
        """Hold nothing in memory any more; `open` reads what is not durable from Redis again."""
        self._batch.backlog -= len(self._pending)
        self._pending.clear()

    async def _write(self, entry: LogEntry, data: bytes = b"", *, keep: int | None = None) -> None:
        entry = replace(entry, pod=self._pod or entry.pod)
        text = entry.to_json()
        arguments: list[Word] = [self._container, self._known, text, RETENTION_S, self.entry.size, data]
        arguments.append("" if keep is None else keep)
        written = await self._batch.execute("EVAL", _APPEND, 2, self._index, self._stream, *arguments)
        if not written:
            raise LogFencedError(f"log of {self._container} of {self._job_id!r}, attempt {self._attempt}")
        self._known, self.entry = text, entry


def _with_gap(entry: LogEntry, why: str) -> LogEntry:
    """The entry with one more gap; the same entry when it says so already."""
    gap = LogGap(entry.size, why)
    if gap in entry.gaps or len(entry.gaps) >= MAX_GAPS:
        return entry
    if len(entry.gaps) == MAX_GAPS - 1:
        gap = LogGap(entry.size, f"{why} (and more may be missing from here on: no more gaps of this log are listed)")
    return replace(entry, gaps=(*entry.gaps, gap))

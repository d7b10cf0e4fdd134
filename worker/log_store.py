r"""Where the logs of attempts are kept, and how they are read back.

A container's log is one sequence of bytes: the lines as Kubernetes sends them (`<timestamp> <content>\n`), masked.
Its beginning lies in the object store, in pieces (`LogEntry.pieces` holds their lengths, in order); the rest, and a
little more for followers, in a Redis stream of `o` (offset of the first byte) and `d` (bytes). The entry in the log
index says how far both reach, and is the fence: whoever writes must name the entry it saw (see `LogWriter`).
A piece's name holds its length, so that a worker that lost the race cannot replace a longer piece by a shorter one.
"""

import asyncio
import heapq
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

from adapters.object_store import ObjectStore
from adapters.redis_server import AsyncClient, translated
from runner_spec import anatomy, storage, wire
from runner_spec.log_cursor import LogCursor, time_key

FOLLOW_BLOCK_MS: Final = 500
READ_ENTRIES: Final = 64
# Their logs are waited for before they begin; how a job's services are called is not known here.
OWN_CONTAINERS: Final = (anatomy.CHECKOUT, anatomy.RUN, anatomy.UPLOAD)
# Of a log, for its last lines.
LAST_BYTES: Final = 16 * 1024
LAST_LINE_CHARACTERS: Final = 300
# A line longer than this is shown in parts.
READ_PART_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogGap:
    """Something is missing before the byte at `offset`; `why` is a sentence for people."""

    offset: int
    why: str


_BEGINNING: Final = LogCursor()


@dataclass(frozen=True, slots=True)
class LogStarts:
    """How far the logs of a container that is started again and again are read: each start has a log of its own.

    `at` is the start that the entry's cursor is in (0: the first one). `ended`: its log was read to its end, or what
    is missing of it is declared. `caught_up`: of the starts before this one nothing is left to be read or declared.
    """

    at: int = 0
    ended: bool = False
    caught_up: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """How far one container's log is stored; `complete` only when its very end was seen.

    `starts` is None for a container that is not started again, and where a worker of an earlier version wrote last.
    `pod` is the uid of the pod that the log is read from; empty where none was seen, or by an earlier version.
    """

    size: int = 0
    pieces: tuple[int, ...] = ()
    complete: bool = False
    cursor: LogCursor = _BEGINNING
    gaps: tuple[LogGap, ...] = ()
    starts: LogStarts | None = None
    pod: str = ""

    @property
    def durable(self) -> int:
        """Bytes in the object store."""
        return sum(self.pieces)

    def to_json(self) -> str:
        """Stable text: it is compared to tell whether somebody else wrote."""
        gaps = [asdict(gap) for gap in self.gaps]
        data: dict[str, Any] = {
            "size": self.size,
            "pieces": self.pieces,
            "complete": self.complete,
            "cursor": self.cursor.as_list(),
            "gaps": gaps,
        }
        if self.starts is not None:
            data["starts"] = asdict(self.starts)
        if self.pod:
            data["pod"] = self.pod
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes | None) -> "LogEntry":
        """Read what `to_json` wrote; None is an empty log."""
        if not text:
            return cls()
        data: dict[str, Any] = json.loads(text)
        gaps = tuple(LogGap(**gap) for gap in data["gaps"])
        cursor = LogCursor.from_list(data["cursor"])
        starts = LogStarts(**data["starts"]) if "starts" in data else None
        return cls(data["size"], tuple(data["pieces"]), data["complete"], cursor, gaps, starts, data.get("pod", ""))

    def grown(self, length: int, cursor: LogCursor) -> "LogEntry":
        """The entry after `length` more bytes."""
        return replace(self, size=self.size + length, cursor=cursor)


def piece_path(job_id: str, attempt: int, container: str, offset: int, length: int) -> str:
    """The object that holds the `length` bytes from `offset`."""
    return f"{storage.log_path(job_id, attempt, container, offset)}-{length}"


class LogChunk(NamedTuple):
    """A line of a log, or a part of an overlong one (`partial`); a `notice` is a statement of dynapod itself."""

    container: str
    timestamp: str
    text: bytes
    partial: bool = False
    notice: bool = False


class LogReader:
    """Reads the logs of attempts, finished or running."""

    def __init__(self, connection: AsyncClient, store: ObjectStore) -> None:
        self._redis = connection
        self._store = store

    async def entries(self, job_id: str, attempt: int) -> dict[str, LogEntry]:
        """The state of each container's log that has begun."""
        with translated():
            found: Any = await self._redis.hgetall(wire.log_index_key(job_id, attempt))
        return {name.decode(): LogEntry.from_json(text) for name, text in found.items()}

    async def read(
        self, job_id: str, attempt: int, *, container: str | None = None, follow: bool = False
    ) -> AsyncGenerator[LogChunk, None]:
        """The lines of one container, or of all, merged by time.

        With `follow`, lines come as they are written, until the attempt's end is recorded.
        """
        lines = self._follow(job_id, attempt, container) if follow else self._merged(job_id, attempt, container)
        async with aclosing(lines):
            async for line in lines:
                yield line

    async def last_lines(self, job_id: str, attempt: int, container: str, count: int) -> list[str]:
        """The last lines that a container printed, at most `count`, each cut to `LAST_LINE_CHARACTERS`.

        Of a long log only the end is read. What is declared missing there stands between the lines.
        """
        entry = (await self.entries(job_id, attempt)).get(container)
        if entry is None:
            return []
        tail = self._tail(job_id, attempt, container)
        begins_within = tail.skip_to(entry, max(0, entry.size - LAST_BYTES))
        lines: deque[str] = deque(maxlen=count)
        beheaded = ""
        async for chunk in tail.lines(entry, last=True):
            text = chunk.text.decode("utf-8", "replace")
            if begins_within and not chunk.notice:
                # What was taken for the timestamp is a piece of the line, too.
                begins_within, beheaded = False, "…" + f"{chunk.timestamp} {text}"[1 - LAST_LINE_CHARACTERS :]
            else:
                lines.append(text if len(text) <= LAST_LINE_CHARACTERS else text[: LAST_LINE_CHARACTERS - 1] + "…")
        return list(lines) or [beheaded][: bool(beheaded)]

    def _tail(self, job_id: str, attempt: int, container: str) -> "_LogTail":
        return _LogTail(self._redis, self._store, job_id, attempt, container)

    async def _merged(self, job_id: str, attempt: int, wanted: str | None) -> AsyncGenerator[LogChunk, None]:
        entries = await self.entries(job_id, attempt)
        sources = [
            self._tail(job_id, attempt, name).lines(entry, last=True)
            for name, entry in entries.items()
            if wanted in (None, name)
        ]
        heap: list[tuple[str, int, LogChunk]] = []
        for number, source in enumerate(sources):
            if line := await anext(source, None):
                heapq.heappush(heap, (time_key(line.timestamp), number, line))
        while heap:
            key, number, line = heapq.heappop(heap)
            yield line
            if following := await anext(sources[number], None):
                # A notice or the rest of a line has no time of its own: it stays behind the line before it.
                key = time_key(following.timestamp) if following.timestamp else key
                heapq.heappush(heap, (key, number, following))

    async def _follow(self, job_id: str, attempt: int, wanted: str | None) -> AsyncGenerator[LogChunk, None]:
        tails: dict[str, _LogTail] = {}
        while True:
            # Asked before reading: the log is stored before the end is recorded, so the last round misses nothing.
            with translated():
                ended = await self._has_ended(job_id, attempt)
            sources = []
            entries = await self.entries(job_id, attempt)
            early = _early(entries) if wanted is None and not ended else set()
            for name, entry in entries.items():
                if wanted in (None, name) and name not in early:
                    tail = tails.setdefault(name, self._tail(job_id, attempt, name))
                    sources.append(tail.lines(entry, last=ended))
            async for line in _in_turn(sources):
                yield line
            if ended:
                return
            await self._wait(job_id, attempt, tails, (wanted,) if wanted else OWN_CONTAINERS, early)

    async def _has_ended(self, job_id: str, attempt: int) -> bool:
        """Whether its end is recorded, or a later attempt took its place: the ledger forgets waits, and the oldest."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hexists(wire.attempts_key(job_id), str(attempt))
        pipeline.hget(f"rq:job:{job_id}", wire.FIELD_ATTEMPT)
        recorded, newest = await pipeline.execute()
        return bool(recorded) or (newest is not None and newest.isdigit() and int(newest) > attempt)

    async def _wait(
        self, job_id: str, attempt: int, tails: dict[str, "_LogTail"], expected: tuple[str, ...], early: set[str]
    ) -> None:
        """Until something is appended to a log known or expected here; not long, since a service's may begin."""
        # Redis waits for streams that do not exist yet, too: the first line of `run` is shown as soon as it is stored.
        # What is there of an early one is no news.
        awaited: dict[Any, Any] = {
            wire.log_stream_key(job_id, attempt, name): b"$" if name in early else b"0" for name in expected
        }
        awaited |= {tail.stream: tail.last_id for tail in tails.values()}
        with translated():
            news: Any = await self._redis.xread(awaited, count=1, block=FOLLOW_BLOCK_MS)
        if not news:  # the embedded Redis does not block
            await asyncio.sleep(0.02)
            return
        by_stream = {tail.stream.encode(): tail for tail in tails.values()}
        for stream, found in news:
            if stream in by_stream:
                by_stream[stream].skip(found)


def _early(entries: Mapping[str, LogEntry]) -> set[str]:
    """What `upload` tells comes after all that `run` has printed, also where it is stored before the end of that."""
    return set() if entries.get(anatomy.RUN, LogEntry()).complete else {anatomy.UPLOAD}


async def _in_turn(sources: list[AsyncGenerator[LogChunk, None]]) -> AsyncIterator[LogChunk]:
    """What is new in each, the one that begins first going first: a quick job's stages come in their order."""
    begun = [(await anext(source, None), source) for source in sources]
    for first, source in sorted(begun, key=lambda pair: time_key(pair[0].timestamp) if pair[0] else ""):
        if first is not None:
            yield first
            async for line in source:
                yield line


class _LogTail:
    """One container's log from where the last call of `lines` left it."""

    def __init__(self, connection: AsyncClient, store: ObjectStore, job_id: str, attempt: int, container: str) -> None:
        self._redis, self._store = connection, store
        self._job_id, self._attempt, self._container = job_id, attempt, container
        self.stream = wire.log_stream_key(job_id, attempt, container)
        self.last_id = b"0"
        self._offset = 0
        self._gaps = 0
        self._line = b""  # the timestamp of a line whose end has not come yet

    def skip_to(self, entry: LogEntry, offset: int) -> bool:
        """Begin at a byte of the log, and leave out the gaps before it; true unless that is the log's beginning."""
        self._offset = offset
        self._gaps = sum(gap.offset <= offset for gap in entry.gaps) if offset else 0
        return offset > 0

    def skip(self, found: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Entries of the stream that were read as a piece already are no news: pass over them."""
        for stream_id, fields in found:
            if int(fields[b"o"]) + len(fields[b"d"]) <= self._offset:
                self.last_id = stream_id

    async def lines(self, entry: LogEntry, *, last: bool) -> AsyncGenerator[LogChunk, None]:
        """What came since the last call, with declared gaps where they are; `last`: nothing will come any more."""
        rest = b""
        async for piece in self._pieces(entry):
            if isinstance(piece, LogGap):
                for line in self._parse([rest]):
                    yield line
                rest, self._line = b"", b""
                yield LogChunk(self._container, "", f"[dynapod] {piece.why}".encode(), notice=True)
                continue
            *whole, rest = (rest + piece).split(b"\n")
            parts = [line + b"\n" for line in whole]
            if len(rest) > READ_PART_BYTES:
                parts, rest = [*parts, rest], b""
            for line in self._parse(parts):
                yield line
        for line in self._parse([rest]):
            yield line
        if last and self._offset < entry.size:
            why = f"[dynapod] {entry.size - self._offset} bytes of this log are no longer stored"
            yield LogChunk(self._container, "", why.encode(), notice=True)

    async def _pieces(self, entry: LogEntry) -> AsyncIterator[bytes | LogGap]:
        """The new bytes, with each new gap at its place between them."""
        async for data in self._bytes(entry):
            at, begin = 0, self._offset - len(data)
            for gap in self._gaps_before(entry, self._offset):
                yield data[at : gap.offset - begin]
                yield gap
                at = gap.offset - begin
            yield data[at:]
        for gap in self._gaps_before(entry, entry.size + 1):
            yield gap

    def _gaps_before(self, entry: LogEntry, offset: int) -> list[LogGap]:
        found = [gap for gap in entry.gaps[self._gaps :] if gap.offset < offset]
        self._gaps += len(found)
        return found

    def _parse(self, pieces: list[bytes]) -> Iterator[LogChunk]:
        for piece in pieces:
            if not piece:
                continue
            partial = not piece.endswith(b"\n")
            content = piece.removesuffix(b"\n")
            if self._line:  # the end of a line whose beginning was shown before
                stamp = b""
            else:
                stamp, _, content = content.partition(b" ")
            self._line = (self._line or stamp) if partial else b""
            yield LogChunk(self._container, stamp.decode(errors="replace"), content, partial)

    async def _bytes(self, entry: LogEntry) -> AsyncIterator[bytes]:
        """From the present offset to the entry's size; `_offset` is moved before each yield."""
        start = 0
        for length in entry.pieces:
            if self._offset < start + length:
                path = piece_path(self._job_id, self._attempt, self._container, start, length)
                _, chunks = await self._store.open(path, start=self._offset - start)
                async for chunk in chunks:
                    self._offset += len(chunk)
                    yield bytes(chunk)
            start += length
        while self._offset < entry.size:
            with translated():
                found: Any = await self._redis.xrange(self.stream, min=b"(" + self.last_id, max="+", count=READ_ENTRIES)
            for stream_id, fields in found:
                begin, data = int(fields[b"o"]), fields[b"d"]
                if begin > self._offset:
                    return  # trimmed under our eyes: what is missing is in a piece that a newer entry names
                self.last_id = stream_id
                if self._offset < begin + len(data):
                    fresh = data[self._offset - begin :]
                    self._offset += len(fresh)
                    yield fresh
            if not found:
                return

"""Reading a container's log: the kubelet's ReadLogs (k8s.io/cri-client/pkg/logs) over `container_init`'s files."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from devcluster.clock import timestamp

CHUNK_BYTES: Final = 64 * 1024
# `2026-01-01T00:00:00.000000000Z stdout F `: the time, then fixed columns.
STAMP_BYTES: Final = 30
_FLAG_AT: Final = STAMP_BYTES + 8
_CONTENT_AT: Final = _FLAG_AT + 2
_FULL: Final = ord("F")


class ContainerLog:
    """One container's log file while it is being written, and after."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished = False
        self._waiters: set[asyncio.Future[None]] = set()

    def grew(self) -> None:
        """Followers may read on."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def finish(self) -> None:
        """Nothing will be added."""
        self.finished = True
        self.grew()

    async def more(self) -> None:
        """Return when there may be more to read."""
        if self.finished:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What part of a log is wanted; `since` in unix seconds, `tail` in records, `limit` in bytes sent."""

    follow: bool = False
    timestamps: bool = False
    since: float | None = None
    tail: int | None = None
    limit: int | None = None


async def read_log(log: ContainerLog, options: LogOptions) -> AsyncIterator[bytes]:
    """The log's bytes, in chunks of bounded size, until its end (`follow`: until the container's end)."""
    if not log.path.exists():
        return
    writer = _Formatter(options)
    with log.path.open("rb") as file:
        if options.tail is not None:
            file.seek(_tail_offset(file, options.tail))
        # Without follow, a tail of N is N records even when more arrive meanwhile.
        remaining = options.tail if options.tail is not None and not options.follow else -1
        rest = b""
        while remaining != 0:
            # Asked before reading: what is written after this is found by the next round.
            finished = log.finished
            data = file.read(CHUNK_BYTES)
            if not data:
                if not options.follow or finished:
                    return
                await log.more()
                continue
            *records, rest = (rest + data).split(b"\n")
            if remaining > 0:
                records = records[:remaining]
                remaining -= len(records)
            if out := writer.format(records):
                yield out
            if writer.exhausted:
                return
            await asyncio.sleep(0)  # a long log must not keep the cluster from its other work


class _Formatter:
    """Records to bytes, one timestamp per full line, cut at the limit."""

    def __init__(self, options: LogOptions) -> None:
        self._timestamps = options.timestamps
        self._since = b"" if options.since is None else timestamp(options.since)[:-1].encode() + b".000000000Z"
        self._remaining = options.limit
        self._at_line_start = True

    @property
    def exhausted(self) -> bool:
        return self._remaining == 0

    def format(self, records: list[bytes]) -> bytes:
        parts: list[bytes] = []
        add = parts.append
        since, stamps, at_start = self._since, self._timestamps, self._at_line_start
        for record in records:
            full = record[_FLAG_AT] == _FULL
            if record[:STAMP_BYTES] >= since:
                if stamps and at_start:
                    add(record[: STAMP_BYTES + 1])
                add(record[_CONTENT_AT:])
                if full:
                    add(b"\n")
            at_start = full
        self._at_line_start = at_start
        out = b"".join(parts)
        if self._remaining is not None:
            out = out[: self._remaining]
            self._remaining -= len(out)
        return out


def _tail_offset(file: BufferedReader, records: int) -> int:
    """Where the last `records` records begin; reads backwards, so the cost is that of the tail."""
    position = file.seek(0, 2)
    missing = records + 1  # the file ends with a newline: that of the last record
    while position > 0:
        start = max(0, position - CHUNK_BYTES)
        file.seek(start)
        block = file.read(position - start)
        count = block.count(b"\n")
        if count >= missing:
            at = len(block)
            for _ in range(missing):
                at = block.rindex(b"\n", 0, at)
            return start + at + 1
        missing -= count
        position = start
    return 0

"""The body of a watch or a log on its way through the proxy, and the events that went before."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web

from devcluster.status_error import StatusError, expired
from tests.chaos.faults import Close, Cut, Expire, HalfOpen, KubernetesFault, Replay, Reset
from tests.chaos.listener import reset

_CHANGES: Final = (b'{"type":"ADDED"', b'{"type":"MODIFIED"', b'{"type":"DELETED"')
_DELETION: Final = _CHANGES[2]
# Faults that happen to a stream when so many seconds have passed.
TIMED: Final = (Close, Cut, Expire, HalfOpen, Replay)


class EventHistory:
    """The last events that were sent, of all watches together: many watches must not need more memory than one.

    Args:
        size: how many events are kept; one is about 4 KB.
    """

    def __init__(self, size: int) -> None:
        self._events: deque[tuple[str, bytes]] = deque(maxlen=size)

    def of(self, query: str) -> "QueryHistory":
        """The part of those watches that ask the same."""
        return QueryHistory(self._events, query)


@dataclass(frozen=True, slots=True)
class QueryHistory:
    """Events of the watches of one query."""

    events: deque[tuple[str, bytes]]
    query: str

    def add(self, lines: bytes) -> None:
        """Remember events that are being sent: whole lines."""
        for line in lines.splitlines(keepends=True):
            if line.startswith(_CHANGES):
                self.events.append((self.query, line))

    def last(self, count: int, *, deletions: bool) -> bytes:
        """The last so many, oldest first."""
        wanted = [
            line for query, line in self.events if query == self.query and (deletions or not line.startswith(_DELETION))
        ]
        return b"".join(wanted[-count:])


class Stream:
    """One body, and what happens to it.

    Args:
        request: whose answer it is.
        response: the answer, prepared.
        history: of a watch; its events are forwarded whole, so that something can be said between two of them.
        fault: what happens; faults that are not about streams do nothing here.
        counts: gets the fault's class name when it happens: a stream may end before.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        history: QueryHistory | None,
        fault: KubernetesFault | None,
        counts: Counter[str],
    ) -> None:
        self._request = request
        self._response = response
        self._history = history
        self._fault = fault
        self._counts = counts
        self._left = fault.after_bytes if isinstance(fault, Reset) else None
        self._part = b""  # of an event

    async def run(self, chunks: AsyncIterator[bytes]) -> None:
        """Forward until the end, or what the fault makes of it; a break upstream reaches the client as a reset."""
        after = self._fault.after_seconds if isinstance(self._fault, TIMED) else None
        try:
            if after is not None and not await self._forward_for(after, chunks) and not await self._happen():
                return
            await self._forward(chunks)
        except aiohttp.ClientPayloadError:
            await self._send(self._part)
            reset(self._request.transport)
        except _Over:
            reset(self._request.transport)

    async def _forward_for(self, seconds: float, chunks: AsyncIterator[bytes]) -> bool:
        """Whether the end came sooner."""
        try:
            async with asyncio.timeout(seconds) as limit:
                await self._forward(chunks)
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True

    async def _forward(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            if self._history is None:
                await self._send(chunk)
                continue
            end = chunk.rfind(b"\n") + 1
            if end:
                lines, self._part = self._part + chunk[:end], chunk[end:]
                self._history.add(lines)
                await self._send(lines)
            else:
                self._part += chunk
        await self._send(self._part)
        self._part = b""

    async def _send(self, data: bytes) -> None:
        if self._left is not None and len(data) >= self._left:
            self._counts[Reset.__name__] += 1
            piece = data[: self._left]
            await self._response.write(piece[:-1] if piece.endswith(b"\n") else piece)
            raise _Over
        if self._left is not None:
            self._left -= len(data)
        if data:
            await self._response.write(data)

    async def _happen(self) -> bool:
        """The fault, when its time has come; whether the stream goes on afterwards."""
        self._counts[type(self._fault).__name__] += 1
        match self._fault:
            case Cut():
                reset(self._request.transport)
            case HalfOpen(seconds):
                await asyncio.sleep(seconds)
                reset(self._request.transport)
            case Expire():
                await self._response.write(_error_event(expired("too old resource version: 1 (2)")))
            case Replay(count, _, deletions):
                assert self._history is not None
                await self._send(self._history.last(count, deletions=deletions))
                return True
        return False


class _Over(Exception):  # noqa: N818 - no error: the place where the stream was to be cut
    """So many bytes have been sent."""


def _error_event(error: StatusError) -> bytes:
    return json.dumps({"type": "ERROR", "object": error.as_status()}).encode() + b"\n"

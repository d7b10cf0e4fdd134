"""What every handler may use: the stores, the limits and the metrics of the application, and facts of the request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from adapters.object_store import ObjectStore
from gateway.identity import PodIdentity, Refused, TokenReviewer
from gateway.masks import MaskSink
from gateway.metrics import Metrics
from gateway.problem import unavailable
from gateway.settings import Limits


@dataclass(slots=True)
class Gateway:
    """The application's parts. `draining` turns true when it is about to stop; `waits_for` says what is away."""

    store: ObjectStore
    reviewer: TokenReviewer
    masks: MaskSink
    limits: Limits
    metrics: Metrics
    draining: bool = False
    waits_for: Callable[[], str] = str
    saving: set[str] = field(default_factory=set)  # cache entries (object names) being uploaded right now
    _slots: asyncio.Semaphore = field(init=False)
    _requests: int = field(default=0, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.limits.transfers)
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around every request: what `idle` counts."""
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no request is being handled."""
        await self._idle.wait()

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """A place among the transfers that may run at once: what bounds the gateway's memory.

        Raises:
            Problem: 503 when none became free in time.
        """
        try:
            async with asyncio.timeout(self.limits.stall_seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise unavailable("busy", f"{self.limits.transfers} transfers are running already") from error
        try:
            yield
        finally:
            self._slots.release()


@dataclass(slots=True)
class Traffic:
    """What passed for one request, in bytes; `reason` when it was refused."""

    received: int = 0
    sent: int = 0
    reason: str = ""


GATEWAY: Final = web.AppKey("gateway", Gateway)
POD: Final = web.RequestKey("pod", PodIdentity)
REFUSED: Final = web.RequestKey("refused", Refused)
REQUEST_ID: Final = web.RequestKey("request_id", str)
TRAFFIC: Final = web.RequestKey("traffic", Traffic)

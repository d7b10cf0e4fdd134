"""One LIST and one WATCH per worker: every change of this worker's pods, and only of those.

The selector names worker incarnations (this one and those it has adopted from), so the API server sends each event to
one worker. A watch ends often and for many reasons; whatever ends it, the next LIST finds what was missed: pods that
are gone are reported as vanished. The official client's own watch re-uses an expired resourceVersion, hence this one.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, Protocol

from adapters.kubernetes_api import ApiError, WatchEvent
from runner_spec import anatomy
from worker.cancellation import end_tasks
from worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

Pod = dict[str, Any]

# The server ends a watch after this many seconds; jittered so that the watches of many workers do not end together.
WATCH_SECONDS: Final = (240, 300)
# A pod of a dead incarnation may still appear while its request lies in the API server; no request lives this long.
FORGET_AFTER_S: Final = 900.0
# A watch that ended sooner was cut: do not open the next one in a spin.
SHORTEST_WATCH_S: Final = 0.5
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0


class PodSource(Protocol):
    """What the Kubernetes adapter offers."""

    async def list_pods(self, label_selector: str) -> tuple[list[Pod], str]:
        """See `adapters.kubernetes_api.KubernetesApi.list_pods`."""

    def watch_pods(
        self, label_selector: str, resource_version: str, *, seconds: int
    ) -> AsyncGenerator[WatchEvent, None]:
        """See `adapters.kubernetes_api.KubernetesApi.watch_pods`."""


class Reflector:
    """Calls `seen` with each pod that is new or changed, and `gone` with the name and uid of each that went.

    `gone` gets the last object too when the server sent it (a watch's DELETED event), else None.
    """

    def __init__(
        self,
        source: PodSource,
        worker: str,
        *,
        seen: Callable[[Pod], None],
        gone: Callable[[str, str, Pod | None], None],
        metrics: WorkerMetrics,
    ) -> None:
        self._source = source
        self._me = worker
        self._workers = {worker: 0.0}  # incarnation → when its pods were last asked for
        self._seen = seen
        self._gone = gone
        self._metrics = metrics
        self._known: dict[str, tuple[str, str]] = {}  # name → uid, creator
        self._listed: set[str] = set()  # workers whose pods a LIST has covered
        self._changed = asyncio.Event()  # the selector is wider than that of the running watch
        self._covered = asyncio.Condition()

    @property
    def synced(self) -> bool:
        """Whether a LIST has covered every incarnation asked for."""
        return self._workers.keys() <= self._listed

    def knows(self, name: str) -> bool:
        """Whether a pod of this name has been seen and not gone."""
        return name in self._known

    def include(self, workers: set[str]) -> None:
        """Widen the selector to the pods of these incarnations."""
        self._workers |= dict.fromkeys(workers, time.monotonic())
        if not workers <= self._listed:
            self._changed.set()

    async def cover(self, workers: set[str]) -> None:
        """Widen the selector to the pods of these incarnations, and wait until a LIST has reported them."""
        self.include(workers)
        async with self._covered:
            await self._covered.wait_for(lambda: workers <= self._listed)

    async def run(self) -> None:
        """Until cancelled."""
        delay = BACKOFF_FIRST_S
        while True:
            began = time.monotonic()
            try:
                version = await self._relist()
                await self._watch_until_change(version)
                delay = BACKOFF_FIRST_S
            except ApiError as error:
                if time.monotonic() - began > BACKOFF_MAX_S:
                    delay = BACKOFF_FIRST_S
                end = "expired" if error.expired else "failed"
                self._metrics.watches.labels(end).inc()
                log.warning("watch ended: %s", error, extra={"action": "watch_ended", "status": error.status})
                # Also when expired: watches that fail at once must not become LISTs at full speed.
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
                delay = min(delay * 2, BACKOFF_MAX_S)

    def _narrow(self) -> None:
        """Leave out incarnations whose pods are gone: the selector must not grow with every deployment for ever."""
        since = time.monotonic() - FORGET_AFTER_S
        busy = {creator for _, creator in self._known.values()}
        self._workers = {
            worker: asked
            for worker, asked in self._workers.items()
            # One not listed yet stays, however long Kubernetes is away: somebody waits for it in `cover`.
            if worker == self._me or asked > since or worker in busy or worker not in self._listed
        }
        self._listed &= self._workers.keys()

    def _selector(self, workers: Iterable[str]) -> str:
        names = ",".join(sorted(workers))
        return f"{anatomy.LABEL_MANAGED_BY}={anatomy.MANAGED_BY},{anatomy.LABEL_WORKER} in ({names})"

    async def _relist(self) -> str:
        self._changed.clear()
        self._narrow()
        workers = set(self._workers)
        pods, version = await self._source.list_pods(self._selector(workers))
        before, self._known = self._known, {}
        for pod in pods:
            self._remember(pod)
        # First what went: another pod may have the name now.
        for name, known in before.items():
            if self._known.get(name) != known:
                self._gone(name, known[0], None)
        for pod in pods:
            self._seen(pod)
        async with self._covered:
            self._listed |= workers
            self._covered.notify_all()
        return version

    async def _watch_until_change(self, version: str) -> None:
        """Watch, again and again from where the last one ended, until the selector changes."""
        while not self._changed.is_set():
            began = time.monotonic()
            watching = asyncio.create_task(self._watch(version))
            changing = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait({watching, changing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changing.cancel()
                await end_tasks([watching])
            if watching.cancelled():
                self._metrics.watches.labels("selector").inc()
                return
            version = watching.result()
            self._metrics.watches.labels("timeout").inc()
            await asyncio.sleep(max(0.0, SHORTEST_WATCH_S - (time.monotonic() - began)))

    async def _watch(self, version: str) -> str:
        """One watch to its end; returns the resourceVersion reached."""
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, no secret
        events = self._source.watch_pods(self._selector(self._workers), version, seconds=seconds)
        async with aclosing(events):
            async for event in events:
                metadata = event.object["metadata"]
                version = metadata["resourceVersion"]
                if event.kind == "DELETED":
                    self._known.pop(metadata["name"], None)
                    self._gone(metadata["name"], metadata["uid"], event.object)
                elif event.kind != "BOOKMARK":
                    self._remember(event.object)
                    self._seen(event.object)
        return version

    def _remember(self, pod: Pod) -> None:
        metadata = pod["metadata"]
        self._known[metadata["name"]] = (metadata["uid"], metadata["labels"].get(anatomy.LABEL_WORKER, ""))

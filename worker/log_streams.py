"""The logs of one attempt: a follower per container, from the container's start to the confirmed end of its log."""

import asyncio
import base64
import json
import logging
import time
from typing import Any, Final

from adapters.object_store import ObjectStore
from adapters.redis_server import AsyncClient, translated
from runner_spec import anatomy, pod_status, wire
from worker.cancellation import end_tasks
from worker.earlier_logs import LogSource
from worker.log_batch import LogBatch
from worker.log_follower import LogFollower, ReadLog
from worker.log_store import LogReader
from worker.log_writer import LogWriter
from worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

# After the pod's end: how long its logs may take to be read to the end before the rest is declared missing. Counted
# anew while bytes keep coming.
IDLE_LIMIT_S: Final = 30.0
# And in all: bytes that trickle for ever are no end either. 256 MiB, the largest log kept, need 0.3 MB/s.
READ_LIMIT_S: Final = 900.0


class LogKeeper:
    """Where logs come from and go to: shared by all attempts of a worker."""

    def __init__(self, source: LogSource, connection: AsyncClient, store: ObjectStore, metrics: WorkerMetrics) -> None:
        self.source = source
        self.metrics = metrics
        self.connection = connection
        self.store = store
        self._batch = LogBatch(connection)

    def writer(self, job_id: str, attempt: int, container: str, pod: str, *, begun: bool = True) -> LogWriter:
        """The writer of the log of one container of the pod with this uid; see `LogWriter`."""
        return LogWriter(self._batch, self.store, job_id, attempt, container, pod=pod, begun=begun)

    def reader(self) -> LogReader:
        """Reads what the writers stored."""
        return LogReader(self.connection, self.store)

    async def secrets(self, job_id: str, attempt: int) -> list[bytes] | None:
        """The values that checkout asked to hide; None when they are not (or no longer) known."""
        with translated():
            found: Any = await self.connection.get(wire.masks_key(job_id, attempt))
        return None if found is None else [base64.b64decode(value) for value in json.loads(found)]


class LogStreams:
    """Follows the containers of one pod. `update` is called with every state of the pod, `finish` once at the end.

    Where the job has secrets, only `checkout` (which prints none: it masks its own) is followed from the start; the
    others once checkout has ended, because it is checkout that reports what to hide.

    `begun`: another worker may have stored some of these logs.
    """

    def __init__(
        self,
        keeper: LogKeeper,
        job_id: str,
        attempt: int,
        pod: str,
        *,
        has_secrets: bool,
        limit: int,
        begun: bool = True,
    ) -> None:
        self._keeper = keeper
        self._begun = begun
        self._job_id, self._attempt, self._pod = job_id, attempt, pod
        self._has_secrets = has_secrets
        self._limit = limit
        self._uid = ""  # the pod's, once it was seen
        self._followers: dict[str, LogFollower] = {}
        self._complete: dict[str, ReadLog] = {}  # instead of their followers: a thousand bytes less for each
        self._read_before = 0  # bytes, by the followers of those
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._given_up: dict[str, str] = {}  # to be declared missing, and why
        self._restarts: dict[str, int] = {}
        self._sidecars: frozenset[str] = frozenset()
        self._running: frozenset[str] = frozenset()
        self._forsaken = ""  # why these logs are not read any more
        self._owed: dict[str, str] = {}  # containers that may have run unseen, and why nothing of their logs was read
        self._held_back: frozenset[str] = frozenset()  # started, but what to hide in their logs is not known yet

    def update(self, pod: dict[str, Any]) -> None:
        """Start to follow containers that have started, and note those that have ended."""
        self._uid = pod["metadata"]["uid"]
        status, spec = pod.get("status", {}), pod.get("spec", {})
        self._sidecars |= {c["name"] for c in spec.get("initContainers", ()) if c.get("restartPolicy") == "Always"}
        states = {c["name"]: c for kind in ("initContainerStatuses", "containerStatuses") for c in status.get(kind, ())}
        checkout_over = anatomy.CHECKOUT not in states or _terminated(states[anatomy.CHECKOUT])
        for name, container in states.items():
            if not _started(container):
                if _lost(container):
                    self.owe(name, "the node lost this container, and its log")
                continue
            if checkout_over or not self._has_secrets or name == anatomy.CHECKOUT:
                self._follow(name)
            else:
                self._held_back |= {name}
            if restarts := container.get("restartCount", 0):
                self._restarts[name] = restarts
            if name in self._followers:
                waits = "waiting" in container.get("state", {})
                self._followers[name].container_restarted(restarts, waits=waits)
            if "running" in container.get("state", {}):
                self._running |= {name}
            else:
                self._running -= {name}
            # A sidecar that has ended may start again, and goes on writing its log, until the whole pod is over.
            if name in self._followers and _terminated(container) and name not in self._sidecars:
                self._followers[name].container_ended()

    def _follow(self, container: str) -> None:
        if container not in self.names:
            self._followers[container] = self._follower(container)
            self._start(container)

    def _start(self, container: str) -> None:
        reading = self._read(container, self._followers[container])
        self._tasks[container] = asyncio.create_task(reading, name=f"log {self._pod}/{container}")

    async def _read(self, container: str, follower: LogFollower) -> None:
        await follower.run()
        self._complete[container] = follower.read_log
        self._read_before += follower.bytes_read
        del self._followers[container], self._tasks[container]

    def _follower(self, container: str) -> LogFollower:
        before = self._complete.pop(container, None)
        begun = self._begun or before is not None
        follower = LogFollower(
            self._keeper.source,
            self._keeper.writer(self._job_id, self._attempt, container, self._uid, begun=begun),
            self._pod,
            container,
            limit=self._limit,
            secrets=self._secrets if self._has_secrets and container != anatomy.CHECKOUT else None,
            metrics=self._keeper.metrics,
            may_restart=container in self._sidecars,
            before=before,
        )
        follower.container_restarted(self._restarts.get(container, 0))
        return follower

    async def _secrets(self) -> list[bytes] | None:
        return await self._keeper.secrets(self._job_id, self._attempt)

    def forsake(self, why: str) -> None:
        """These logs are not to be read any more: `finish` only declares what is missing of those that were begun."""
        self._forsaken = why

    def owe(self, container: str, why: str) -> None:
        """It may have run without being seen: unless its log is read, `finish` declares that it is missing."""
        self._owed[container] = why

    async def _give_up(self) -> None:
        """Find the logs that nobody reads, and that are owed."""
        lost = dict(self._owed)
        if self._forsaken:
            begun = await self._keeper.reader().entries(self._job_id, self._attempt)
            lost |= {name: self._forsaken for name, entry in begun.items() if not entry.complete}
        for name, why in lost.items():
            if name not in self.names:
                self._followers[name] = self._follower(name)
                self._given_up[name] = why

    @property
    def names(self) -> list[str]:
        """The containers whose logs were followed, or declared missing."""
        return [*self._complete, *self._followers]

    async def finish_again(self, *, pod_gone: bool = False) -> None:
        """Redis has forgotten what `finish` had stored: read what is not complete again, or declare it missing."""
        self._followers |= {name: self._follower(name) for name in list(self._complete)}
        for name, follower in self._followers.items():
            follower.container_ended()
            self._start(name)
        await self.finish(pod_gone=pod_gone)

    async def finish(self, *, pod_gone: bool = False) -> None:
        """Every log read to its end, or the rest of it declared missing.

        Of containers that run on, such as the services of a job that is given up, what they have printed by now.
        `pod_gone`: they are being ended, and their streams will end with them.
        """
        for name in sorted(self._held_back):
            self._follow(name)
        await self._give_up()
        for follower in self._followers.values():
            follower.container_ended()
        if not pod_gone:
            await self._cut_short()
        waiting = await self._read_on(dict(self._tasks))
        failed = await self.cancel()
        for name in waiting.keys() & self._followers.keys():  # but for those that were complete in the last moment
            log.warning("log given up", extra={"action": "log_abandoned", "pod": self._pod, "container": name})
            if trouble := self._followers[name].store_trouble:
                failed[name] = f"the end of this log is not stored: the object store takes nothing ({trouble})"
            else:
                failed[name] = "the end of this log could not be read from Kubernetes"
        self._given_up |= failed
        # At once: where the object store is silent, each of them waits for it.
        results = await asyncio.gather(*map(self._abandon, list(self._given_up)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _abandon(self, name: str) -> None:
        await self._followers[name].abandon(self._given_up[name])
        self._given_up.pop(name, None)  # only now: a second `finish` goes on where the first one failed

    async def _cut_short(self) -> None:
        """There is no end to wait for: read anew, and only what there is."""
        running = {name: task for name, task in self._tasks.items() if name in self._running and not task.done()}
        await end_tasks(running.values())
        for name in running.keys() & self._followers.keys():
            self._start(name)

    async def _read_on(self, waiting: "dict[str, asyncio.Task[None]]") -> "dict[str, asyncio.Task[None]]":
        """Wait while bytes keep coming; returns the logs that have come to a standstill before their end."""
        read, deadline = self._bytes_read, time.monotonic() + READ_LIMIT_S
        while waiting:
            await asyncio.wait(waiting.values(), timeout=IDLE_LIMIT_S)
            waiting = {name: task for name, task in waiting.items() if not task.done()}
            progress = self._bytes_read
            # While Redis is away nothing can be recorded anyway, and Kubernetes keeps the log.
            redis_away = any(self._followers[name].waits_for_redis for name in waiting)
            if not redis_away and (progress == read or time.monotonic() > deadline):
                break
            read = progress
        return waiting

    @property
    def _bytes_read(self) -> int:
        return self._read_before + sum(follower.bytes_read for follower in self._followers.values())

    async def cancel(self) -> dict[str, str]:
        """Stop following: what is stored stays, and another worker goes on from there.

        Returns the containers whose logs could not be stored, with why: nobody has declared that yet.
        """
        await end_tasks(self._tasks.values())
        results = await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        failed = {}
        for name, result in zip(self._tasks, results, strict=True):
            if isinstance(result, Exception):
                log.error("log of %s failed", name, exc_info=result, extra={"action": "log_failed", "pod": self._pod})
                failed[name] = f"this log could not be stored: {type(result).__name__}"
        self._tasks.clear()
        return failed


def _started(container: dict[str, Any]) -> bool:
    state, last = container.get("state", {}), container.get("lastState", {})
    return "running" in state or _terminated(container) or "terminated" in last


def _lost(container: dict[str, Any]) -> bool:
    """It may have run, and even been followed by a worker that is no more; nobody can read the rest of its log."""
    return (container.get("state", {}).get("terminated") or {}).get("reason") in pod_status.LOST


def _terminated(container: dict[str, Any]) -> bool:
    # A terminated state without startedAt never ran: it has no log (the kubelet answers 400 for it).
    terminated = container.get("state", {}).get("terminated")
    return terminated is not None and terminated.get("startedAt") is not None

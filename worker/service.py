"""A worker as a process: its parts put together, its signals, its end."""

import asyncio
import contextlib
import gc
import logging
import os
import platform
import resource
import signal
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry

from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore
from adapters.redis_fitness import until_fit
from adapters.redis_server import Connections, RedisUnavailable
from runner_spec.document import load_document
from runner_spec.policy import DEFAULT_POLICY, Policy, parse_policy
from worker.cancellation import end_tasks
from worker.capabilities import settle
from worker.gateway_address import pinned
from worker.health import HealthServer
from worker.log_streams import LogKeeper
from worker.metrics import WorkerMetrics
from worker.queue import JobQueue, QueueRefused, QueueUnavailable
from worker.queue.keys import require_default_prefix
from worker.settings import SettingsError, WorkerSettings
from worker.state_board import StateBoard
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)

LEAVE_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
Result = TypeVar("Result")


def incarnation() -> str:
    """A new name for a worker: its host, and what no other incarnation ever had. Valid as a label's value."""
    host = "".join(c for c in platform.node().lower() if c.isalnum() or c == "-")[:24].strip("-")
    return f"{host or 'worker'}-{uuid.uuid4().hex}"


def raise_file_limit() -> None:
    """Allow as many open files as the system permits: every running pod has a log stream, and defaults are 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Worker:
    """One worker incarnation from parts that are connected already; `start` and `stop` it in the running loop.

    `ended` tells when it has ended by itself: its lease was lost, or a bug. `policy` is as its cluster settled it: an
    `auto` in it counts as no. `name` is one that no other incarnation ever had; a new one when empty.
    """

    def __init__(
        self,
        *,
        connections: Connections,
        api: KubernetesApi,
        store: ObjectStore,
        policy: Policy,
        settings: WorkerSettings,
        registry: CollectorRegistry,
        name: str = "",
    ) -> None:
        self.name = name or incarnation()
        self.metrics = WorkerMetrics(registry)
        self.queue = JobQueue(
            connections,
            settings.queues,
            self.name,
            lease_seconds=settings.lease_seconds,
            worker_losses=policy.worker_losses,
        )
        self.supervisor = Supervisor(
            queue=self.queue,
            api=api,
            policy=policy,
            keeper=LogKeeper(api, connections.control, store, self.metrics),
            board=StateBoard(connections.control),
            metrics=self.metrics,
            capacity=settings.capacity,
            lease_seconds=settings.lease_seconds,
        )
        self._connections = connections
        self._task: asyncio.Task[None] | None = None

    @property
    def why_not(self) -> str:
        """Why it takes no jobs just now; empty when it does."""
        if why := self._connections.outage.why or self.supervisor.refused:
            return why
        return "" if self.supervisor.ready else "the cluster's pods are not listed yet"

    async def start(self) -> None:
        """Register with the queue and begin to claim. May be called again when Redis was away.

        Raises:
            QueueUnavailable, QueueRefused: the queue cannot be used.
        """
        raise_file_limit()
        await self.queue.start()
        self._task = asyncio.create_task(self.supervisor.run(), name=f"worker {self.name}")

    async def ended(self) -> None:
        """Until the worker ends by itself; raises what ended it."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Leave at once: pods run on, other workers adopt them. While Redis is away, the lease lapses by itself."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # `ended` is who reports it
            await self._task
        try:
            await self.supervisor.leave()
        except (QueueUnavailable, QueueRefused) as error:
            log.warning("left without a word to Redis: %s", error, extra={"action": "left"})


def read_policy(path: str) -> Policy:
    """The operator's policy from its file; the default one for an empty path.

    Raises:
        SettingsError: the file cannot be read.
        InvalidPolicy, InvalidDocument: what it says cannot be used.
    """
    if not path:
        return DEFAULT_POLICY
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"policy: {path!r} cannot be read: {error}") from error
    return parse_policy(load_document(data).data)


async def run_worker(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT, which make it leave, or until it fails. Waits for a Redis that is away.

    Raises:
        SettingsError, InvalidPolicy, StoreConfigError, BadRedisURL, UnfitRedis: it cannot start; the message says why.
        ApiError, QueueError: a service it needs is not there, or its lease was lost.
    """
    policy = _usable_policy(settings)
    store = ObjectStore.from_url(settings.store)
    registry, name = CollectorRegistry(), incarnation()
    async with contextlib.AsyncExitStack() as stack:
        connections = await stack.enter_async_context(redis_server.connect(settings.redis_url))
        standing = _Standing(asyncio.Event())
        leaving = standing.leaving
        api = await KubernetesApi.connect(policy.namespace, kubeconfig=settings.kubeconfig or None)
        stack.push_async_callback(api.close)
        health = HealthServer(registry, standing.why_not, host=settings.health_host, port=settings.health_port)
        await health.start()
        stack.push_async_callback(health.stop)
        _on_signals(leaving.set)
        settled = await _unless(leaving, _settled(policy, api, name))
        if settled is None:
            return
        worker = standing.worker = Worker(
            connections=connections,
            api=api,
            store=store,
            policy=settled,
            settings=settings,
            registry=registry,
            name=name,
        )
        if not await _unless(leaving, _started(worker, connections)):
            return
        stack.push_async_callback(worker.stop)
        log.info(
            "worker %s serves %s; health on port %s",
            worker.name,
            ", ".join(settings.queues),
            health.port,
            extra={"action": "started", "pid": os.getpid()},
        )
        _spare_collector()
        await _first(leaving.wait(), worker.supervisor.shutdown.wait(), worker.ended())
        log.info("leaving", extra={"action": "leaving", "in_flight": worker.supervisor.in_flight})


def _spare_collector() -> None:
    """What was loaded stays: looked through again at each full collection, it would stop everything for 50 ms."""
    gc.collect()
    gc.freeze()


def _usable_policy(settings: WorkerSettings) -> Policy:
    policy = read_policy(settings.policy)
    if not settings.store:
        raise SettingsError("store: not set; name where logs are kept: --store or DYNAPOD_STORE, a folder or s3://…")
    if settings.namespace not in {"", policy.namespace}:
        # Pods would be made in one namespace and watched in the other.
        raise SettingsError(
            f"namespace: {settings.namespace!r} is not the policy's, {policy.namespace!r}; leave the setting out, or "
            "set `namespace` in the policy"
        )
    return policy


async def _settled(policy: Policy, api: KubernetesApi, name: str) -> Policy:
    """The policy as cluster and network settle it."""
    return await pinned(await settle(policy, api, asker=name))


async def _started(worker: Worker, connections: Connections) -> bool:
    """True once it has started: Redis may be away, now or the moment after it was looked at."""
    try:
        require_default_prefix()
        while True:
            await until_fit(connections)
            try:
                await worker.start()
            except (QueueUnavailable, RedisUnavailable) as error:
                await connections.outage.pause(error)
            else:
                return True
    except QueueRefused as error:
        raise SettingsError(str(error)) from error


async def _unless(leaving: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What the work returns; None: told to leave before it was done."""
    working = asyncio.create_task(work)
    told = asyncio.create_task(leaving.wait())
    try:
        await asyncio.wait([working, told], return_when=asyncio.FIRST_COMPLETED)
        return None if told.done() else working.result()
    finally:
        await end_tasks([working, told])


@dataclass
class _Standing:
    """How far the process has come."""

    leaving: asyncio.Event
    worker: Worker | None = None

    def why_not(self) -> str:
        """Why it takes no jobs; empty when it does."""
        if self.leaving.is_set():
            return "leaving"
        if self.worker is None:
            return "not known yet: whether the cluster offers user namespaces, and where the gateway is (see the log)"
        return self.worker.why_not


def _on_signals(leave: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in LEAVE_SIGNALS:
        loop.add_signal_handler(number, leave)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them ends; raises what it raises."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end_tasks(tasks)

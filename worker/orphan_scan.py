"""Pods whose worker nobody remembers: found by a LIST now and then, and shown to the reflector like those of the dead.

Every worker sees the pods of incarnations whose lease has lapsed (`Adoption`). A lease can vanish from Redis
altogether: forgotten before a request of its worker took effect, or lost in a failover. What is to become of such a
pod, `Orphans` decides, by what Redis says about its attempt.

A Redis that does not know a job is no proof against its pod unless the pod's worker was one of this Redis: another
installation may use the same namespace, and this Redis may have been flushed. Hence the list of incarnations, which
outlives their leases. Pods of any others are named in the log, and left to people.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, Protocol

from adapters.kubernetes_api import ApiError
from adapters.redis_server import AsyncClient, RedisError, translated
from runner_spec import anatomy, wire
from runner_spec.names import label_value
from worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

# Seconds between two scans, of all workers together.
INTERVAL_S: Final = 60.0
LOCK_KEY: Final = wire.PREFIX + "maintenance:pods"
# zset: incarnation → when it last had a lease. Entries outlive by far whatever a pod of theirs may last.
INCARNATIONS_KEY: Final = wire.PREFIX + "incarnations"
REMEMBERED_S: Final = 60 * 24 * 3600
# Each makes the watch's selector, and so its URL, some 60 bytes longer. Taken at random, so that all have their turn.
WORKERS_AT_ONCE: Final = 50

_ALL_PODS: Final = f"{anatomy.LABEL_MANAGED_BY}={anatomy.MANAGED_BY},{anatomy.LABEL_WORKER}"


class PodMetadata(Protocol):
    """What the Kubernetes adapter offers."""

    def pod_metadata(self, label_selector: str) -> AsyncGenerator[dict[str, Any], None]:
        """See `adapters.kubernetes_api.KubernetesApi.pod_metadata`."""


class OrphanScan:
    """Calls `include` with the incarnations that have pods and are not known to Redis."""

    def __init__(
        self,
        pods: PodMetadata,
        connection: AsyncClient,
        worker: str,
        include: Callable[[set[str]], None],
        metrics: WorkerMetrics,
    ) -> None:
        self._pods = pods
        self._worker = worker
        self._redis = connection
        self._include = include
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled; one worker scans in each interval, whoever comes first."""
        while True:
            try:
                await self._remember({self._worker})
                with translated():
                    lifetime = int(INTERVAL_S * 900)  # a little less than the interval, in milliseconds
                    mine = await self._redis.set(LOCK_KEY, "1", nx=True, px=lifetime)
                if mine:
                    await self.scan()
            except (ApiError, RedisError) as error:
                self._metrics.maintenance_failures.labels("pods").inc()
                log.warning("pods not scanned: %s", error, extra={"action": "orphan_scan_failed"})
            await asyncio.sleep(INTERVAL_S * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret

    async def scan(self) -> set[str]:
        """One LIST; returns the incarnations that are to be looked after again, at most `WORKERS_AT_ONCE`.

        Raises:
            ApiError: Kubernetes does not answer, or refuses.
            RedisError: Redis does not.
        """
        found: set[str] = set()
        async with aclosing(self._pods.pod_metadata(_ALL_PODS)) as pods:
            async for metadata in pods:
                if not metadata.get("deletionTimestamp"):
                    found.add(metadata["labels"][anatomy.LABEL_WORKER])
        # Asked last: the pods of a worker that has started meanwhile are no orphans.
        with translated():
            leases: Any = await self._redis.zrange(wire.LEASES_KEY, 0, -1)
        living = {name.decode("utf-8", "surrogateescape") for name in leases}
        await self._remember(living)
        unknown = found - set(map(label_value, living))
        ours = unknown & await self._remembered()
        if strangers := unknown - ours:
            log.warning(
                "pods of workers that this Redis never knew are left alone; if no other installation uses the "
                "namespace, delete those labelled %s=%s",
                anatomy.LABEL_WORKER,
                min(strangers),
                extra={"action": "foreign_pods", "workers": sorted(strangers)[:WORKERS_AT_ONCE]},
            )
        ours = set(random.sample(sorted(ours), min(len(ours), WORKERS_AT_ONCE)))
        if ours:
            facts = {"action": "orphan_scan", "workers": sorted(ours)}
            log.warning("pods of %d workers without a lease", len(ours), extra=facts)
            self._include(ours)
        return ours

    async def _remember(self, workers: set[str]) -> None:
        if not workers:
            return
        with translated():
            now, _ = await self._redis.time()
            pipeline: Any = self._redis.pipeline(transaction=True)
            pipeline.zadd(INCARNATIONS_KEY, dict.fromkeys(workers, now))
            pipeline.zremrangebyscore(INCARNATIONS_KEY, "-inf", now - REMEMBERED_S)
            pipeline.expire(INCARNATIONS_KEY, REMEMBERED_S)
            await pipeline.execute()

    async def _remembered(self) -> set[str]:
        with translated():
            names: Any = await self._redis.zrange(INCARNATIONS_KEY, 0, -1)
        return {label_value(name.decode("utf-8", "surrogateescape")) for name in names}

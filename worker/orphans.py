"""Pods that carry this worker's name, or that of one it adopted from, but belong to no attempt it holds.

Such a pod is left over when a worker died between the commit and the deletion, or when its creation took effect after
the attempt had been superseded. Redis says which; until then it is left alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.redis_server import AsyncClient, translated
from runner_spec import anatomy, wire
from worker.ending import Ending
from worker.metrics import WorkerMetrics
from worker.queue.claim import whole
from worker.queue.errors import queue_errors

log = logging.getLogger(__name__)

SWEEP_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class _Pod:
    name: str
    uid: str
    job_id: str
    attempt: int


class Orphans:
    """Deletes pods whose attempt is recorded as ended, or superseded by a later one."""

    def __init__(self, connection: AsyncClient, ending: Ending, metrics: WorkerMetrics) -> None:
        self._redis = connection
        self._ending = ending
        self._metrics = metrics
        self._pods: dict[str, _Pod] = {}

    def seen(self, pod: dict[str, Any]) -> None:
        """A pod that no held attempt accounts for."""
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        job_id = metadata.get("annotations", {}).get(anatomy.ANNOTATION_JOB)
        number = metadata["labels"].get(anatomy.LABEL_ATTEMPT, "")
        if job_id is not None and number.isdecimal():
            self._pods[metadata["name"]] = _Pod(metadata["name"], metadata["uid"], job_id, int(number))

    def gone(self, name: str) -> None:
        """The pod is no more."""
        self._pods.pop(name, None)

    async def sweep(self) -> None:
        """Ask Redis about each, a batch at a time, and delete those that nobody will ever look at again.

        Raises:
            QueueUnavailable: no answer; the next sweep asks again.
        """
        batch = list(self._pods.values())[:SWEEP_BATCH]
        for pod, is_over in zip(batch, await self._are_over(batch), strict=True):
            if self._pods.get(pod.name) is not pod:
                continue  # gone, or held again, meanwhile
            self._pods[pod.name] = self._pods.pop(pod.name)  # to the end: those behind must have their turn
            if is_over:
                log.warning(
                    "orphan pod deleted",
                    extra={"action": "orphan", "pod": pod.name, "job": pod.job_id, "attempt": pod.attempt},
                )
                self._metrics.orphans.inc()
                if await self._ending.delete(pod.name, pod.uid):
                    self._pods.pop(pod.name, None)

    async def _are_over(self, pods: Sequence[_Pod]) -> list[bool]:
        """For each whether its attempt is recorded, superseded by a later one, or its job deleted."""
        if not pods:
            return []
        pipeline = self._redis.pipeline(transaction=True)
        for pod in pods:
            pipeline.hexists(wire.attempts_key(pod.job_id), str(pod.attempt))
            pipeline.hget(f"rq:job:{pod.job_id}", wire.FIELD_ATTEMPT)
        with queue_errors(), translated():
            found: list[Any] = await pipeline.execute()
        return [
            bool(recorded) or newest is None or (whole(newest) or 0) > pod.attempt
            for pod, recorded, newest in zip(pods, found[::2], found[1::2], strict=True)
        ]

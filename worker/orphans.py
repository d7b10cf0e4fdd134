"""Pods that carry this worker's name, or that of one it adopted from, but belong to no attempt it holds.

Such a pod is left over when a worker died between the commit and the deletion, or when its creation took effect after
the attempt had been superseded. Redis says which; until then it is left alone.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from adapters.redis_server import AsyncClient, translated
from runner_spec import anatomy, wire
from worker.ending import Ending
from worker.metrics import WorkerMetrics

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
        """Ask Redis about each, and delete those that nobody will ever look at again."""
        for pod in list(self._pods.values())[:SWEEP_BATCH]:
            if await self._is_over(pod):
                log.warning(
                    "orphan pod deleted",
                    extra={"action": "orphan", "pod": pod.name, "job": pod.job_id, "attempt": pod.attempt},
                )
                self._metrics.orphans.inc()
                if await self._ending.delete(pod.name, pod.uid):
                    self._pods.pop(pod.name, None)

    async def _is_over(self, pod: _Pod) -> bool:
        """Whether the attempt is on record, superseded by a later one, or its job deleted."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hexists(wire.attempts_key(pod.job_id), str(pod.attempt))
        pipeline.hget(f"rq:job:{pod.job_id}", wire.FIELD_ATTEMPT)
        with translated():
            recorded, newest = await pipeline.execute()
        return bool(recorded) or newest is None or int(newest) > pod.attempt

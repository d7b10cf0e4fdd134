"""Pods that carry this worker's name, or that of one it adopted from, but belong to no attempt it holds.

Such a pod is left over when a worker died between the commit and the deletion, when its creation took effect after the
attempt had been superseded, or when Redis has lost its newest writes. Redis says which; until then it is left alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.kubernetes_api import ApiError, KubernetesApi
from adapters.redis_server import AsyncClient, translated
from runner_spec import anatomy, names, wire
from runner_spec.ownership import Fate, Record, orphan_fate
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
    """Deletes pods that nobody will ever look at again (`runner_spec.ownership.orphan_fate`)."""

    def __init__(self, connection: AsyncClient, api: KubernetesApi, ending: Ending, metrics: WorkerMetrics) -> None:
        self._redis = connection
        self._api = api
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
        if job_id is None or metadata["labels"].get(anatomy.LABEL_JOB) != names.label_value(job_id):
            return  # an id that an annotation cannot hold: Redis could not be asked about it
        if number.isdecimal():
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
        for pod, record in zip(batch, await self._records(batch), strict=True):
            fate = orphan_fate(pod.attempt, record)
            is_over = fate is Fate.DELETE or (fate is Fate.ASK and await self._has_predecessor(pod))
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

    async def _records(self, pods: Sequence[_Pod]) -> list[Record]:
        """What Redis knows of each pod's job."""
        if not pods:
            return []
        pipeline = self._redis.pipeline(transaction=True)
        for pod in pods:
            job = f"rq:job:{pod.job_id}"
            pipeline.exists(job)
            pipeline.hmget(job, ["status", wire.FIELD_ATTEMPT])
            pipeline.hkeys(wire.attempts_key(pod.job_id))
        with queue_errors(), translated():
            found: list[Any] = await pipeline.execute()
        return [_record(*facts) for facts in zip(found[::3], found[1::3], found[2::3], strict=True)]

    async def _has_predecessor(self, pod: _Pod) -> bool:
        """Whether the pod of the attempt before is there: no answer means no proof."""
        try:
            return await self._api.get_pod(names.pod_name(pod.job_id, pod.attempt - 1)) is not None
        except ApiError as error:
            log.warning("pod not looked up: %s", error, extra={"action": "get_failed", "pod": pod.name})
            return False


def _record(exists: int, fields: Sequence[bytes | None], numbers: Sequence[bytes]) -> Record:
    recorded = frozenset(number for number in map(whole, numbers) if number is not None)
    # As claim.lua counts on: the job's own field went with its hash, if that was deleted; the ledger remembers.
    newest = whole(fields[1]) or max(recorded, default=0)
    return Record(bool(exists), (fields[0] or b"").decode("utf-8", "replace"), newest, recorded)

"""Pods that no held attempt accounts for: deleted when Redis says that nobody will look for them, and only then."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client import CollectorRegistry

from adapters.redis_server import embed
from runner_spec import anatomy, wire
from runner_spec.names import pod_name
from worker.metrics import WorkerMetrics
from worker.orphans import Orphans

if TYPE_CHECKING:
    from adapters.kubernetes_api import KubernetesApi
    from worker.ending import Ending


class Hand:
    """Stands for `Ending`: notes what it is asked to delete."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, str]] = []

    async def delete(self, name: str, uid: str, *, grace_seconds: int | None = None) -> bool:
        del grace_seconds
        self.deleted.append((name, uid))
        return True


def pod(attempt: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": pod_name("j", attempt),
            "uid": "u",
            "labels": {
                anatomy.LABEL_ATTEMPT: str(attempt),
                anatomy.LABEL_JOB: "j",
                anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY,
            },
            "annotations": {anatomy.ANNOTATION_JOB: "j"},
        }
    }


def sweep(attempt: int, job: dict[str, str], *recorded: int) -> bool:
    """Whether the pod of this attempt is deleted, for what Redis knows of its job and of recorded attempts."""

    async def test() -> bool:
        async with embed() as connections:
            redis: Any = connections.control
            if job:
                await redis.hset("rq:job:j", mapping=job)
            for number in recorded:
                await redis.hset(wire.attempts_key("j"), str(number), "{}")
            hand = Hand()
            api = cast("KubernetesApi", None)  # asked for pods of attempts beyond the newest only
            orphans = Orphans(redis, api, cast("Ending", hand), WorkerMetrics(CollectorRegistry()))
            orphans.seen(pod(attempt))
            await orphans.sweep()
            assert hand.deleted in ([], [(pod_name("j", attempt), "u")])
            return bool(hand.deleted)

    return asyncio.run(test())


@pytest.mark.parametrize("status", ["started", "queued", "scheduled", "canceled"])
def test_a_pod_whose_attempt_somebody_may_still_look_for_is_left_alone(status: str) -> None:
    assert not sweep(2, {"status": status, wire.FIELD_ATTEMPT: "2"}, 1)


def test_a_pod_whose_attempt_is_recorded_superseded_or_nobodys_is_deleted() -> None:
    assert sweep(2, {"status": "finished", wire.FIELD_ATTEMPT: "2"}, 1, 2)
    assert sweep(1, {"status": "started", wire.FIELD_ATTEMPT: "2"})
    assert sweep(1, {})

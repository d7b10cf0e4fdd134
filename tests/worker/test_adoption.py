"""Whoever takes over an attempt finds its pod, or mints the next one; it never takes a stranger's pod for it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import KubernetesApi
from devcluster.sleep_runtime import SleepRuntime
from runner_spec import anatomy
from runner_spec.names import label_value, pod_name
from tests.integration.clusters import NAMESPACE, Site, site
from tests.integration.worlds import job
from worker.adoption import Adoption
from worker.attempt import Attempt, Phase
from worker.metrics import WorkerMetrics
from worker.queue import Claim, JobQueue

pytestmark = pytest.mark.redis

PATIENCE_S = 60.0
OURS = {anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY, anatomy.LABEL_WORKER: "somebody"}


async def die_with(here: Site, job_id: str) -> None:
    """A worker claims the job and leaves before it has created the pod."""
    async with JobQueue(here.connections, ["jobs"], "dead") as dead:
        (claim,) = await dead.claim(1)
        assert (claim.job_id, claim.attempt) == (job_id, 1)
        await dead.release()


async def create(here: Site, name: str, labels: dict[str, str], annotations: dict[str, str]) -> None:
    api = await KubernetesApi.connect(NAMESPACE, kubeconfig=here.cluster.kubeconfig())
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "run", "image": "local", "command": ["true"]}]},
    }
    try:
        await api.create_pod(manifest)
    finally:
        await api.close()


@pytest.mark.parametrize(
    ("labels", "annotations"),
    [
        pytest.param({}, {}, id="a stranger's"),
        pytest.param({**OURS, anatomy.LABEL_ATTEMPT: "1"}, {anatomy.ANNOTATION_JOB: "b"}, id="of another job"),
        pytest.param({**OURS, anatomy.LABEL_ATTEMPT: "7"}, {anatomy.ANNOTATION_JOB: "a"}, id="of another attempt"),
    ],
)
def test_a_pod_that_only_has_the_name_is_not_followed(
    labels: dict[str, str], annotations: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.1)) as here:
            await here.client.submit(job("true"), job_id="a")
            await die_with(here, "a")
            await create(here, pod_name("a", 1), {anatomy.LABEL_JOB: label_value("a"), **labels}, annotations)
            async with here.worker(), asyncio.timeout(PATIENCE_S):
                status = await here.client.wait("a", interval=0.05)
            assert (status.status, status.attempt) == ("finished", 2)
            assert [attempt.result["reason"] for attempt in status.attempts] == ["worker-lost", "ok"]
            assert here.created_pods() == [pod_name("a", 1), pod_name("a", 2)]

    asyncio.run(test())


@pytest.mark.parametrize("phase", [Phase.LAUNCHING, Phase.FOLLOWING, Phase.FINISHING])
def test_a_stopped_attempt_whose_pod_comes_up_while_its_log_is_given_up_ends_with_its_pod(phase: Phase) -> None:
    """Ended here as well, it would be recorded twice: as what its pod has done, and as canceled."""
    claim = Claim("a", 1, "e", "jobs", {}, adopted=True, minted_by="w", claimed_at=0.0, started_at=0.0)
    attempt, ends = Attempt(claim, "p", stop="somebody"), []

    async def find(_: str) -> None:
        return None

    async def finish(*, pod_gone: bool) -> None:
        assert pod_gone
        attempt.phase = phase  # as the supervisor does, when the watch shows the pod

    attempt.streams = cast("Any", SimpleNamespace(forsake=str, owe=lambda *_: None, finish=finish))
    adoption = Adoption(
        queue=cast("Any", None),
        roster=cast("Any", None),
        reflector=cast("Any", None),
        launcher=cast("Any", SimpleNamespace(find=find)),
        hands=cast("Any", SimpleNamespace(end=lambda _, outcome: ends.append(outcome.verdict))),
        metrics=WorkerMetrics(CollectorRegistry()),
        lease_seconds=1.0,
    )
    asyncio.run(adoption.find_or_mint(attempt))
    assert ends == (["canceled"] if phase is Phase.LAUNCHING else [])

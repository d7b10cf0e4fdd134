"""The order of an attempt's end: the proof, the record, and only then the deletion of its pod; come what may."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.kubernetes_api import KubernetesApi
from devcluster.sleep_runtime import SleepRuntime
from runner_spec import anatomy, wire
from runner_spec.names import pod_name
from runner_spec.outcome import Running
from tests.integration.clusters import NAMESPACE, Site, site
from tests.integration.worlds import job
from tests.worker.queue.scene import finish
from worker import supervisor
from worker.attempt import Phase
from worker.queue import JobQueue, Settlement

pytestmark = pytest.mark.redis

PATIENCE_S = 60.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S / 3):
        while not condition():  # noqa: ASYNC110 - the cluster's state has no event
            await asyncio.sleep(0.05)


def test_a_pod_is_there_until_its_end_is_recorded(redis_url: str, tmp_path: Path) -> None:
    left = []

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.1)) as here, here.worker() as worker:
            settle = worker.queue.settle

            async def looked_at(settlement: Settlement) -> bool:
                left.append(here.cluster.pods)
                return await settle(settlement)

            worker.queue.settle = looked_at  # type: ignore[method-assign]  # the same, and a look at the cluster
            await here.client.submit(job("true"), job_id="a")
            async with asyncio.timeout(PATIENCE_S):
                assert (await here.client.wait("a", interval=0.05)).status == "finished"

    asyncio.run(test())
    assert left == [1]


def test_a_success_whose_artifacts_are_not_stored_is_none(redis_url: str, tmp_path: Path) -> None:
    """Every container of this cluster says that all went well, and stores nothing."""

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.1)) as here, here.worker() as worker:
            description = {**job("true"), "artifacts": [{"name": "a", "paths": ["a"]}]}
            await here.client.submit(description, job_id="a")
            async with asyncio.timeout(PATIENCE_S):
                while not (attempts := (await here.client.status("a")).attempts):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.05)
            assert attempts[0].result["reason"] == "upload-unconfirmed"
            assert worker.metrics.settled.labels("succeeded", "none", "ok")._value.get() == 0

    asyncio.run(test())


def test_a_record_that_something_stood_in_the_way_of_is_tried_again(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FINISH_RETRY_S", 0.1)
    trouble = [RuntimeError("a bug"), RuntimeError("another one")]

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.1)) as here, here.worker() as worker:
            settle = worker.queue.settle

            async def troubled(settlement: Settlement) -> bool:
                if trouble:
                    raise trouble.pop()
                return await settle(settlement)

            worker.queue.settle = troubled  # type: ignore[method-assign]  # the same, after some trouble
            await here.client.submit(job("true"), job_id="a")
            async with asyncio.timeout(PATIENCE_S / 3):
                status = await here.client.wait("a", interval=0.05)
            assert (status.status, status.attempt) == ("finished", 1)
            await until(lambda: here.cluster.pods == 0)

    asyncio.run(test())
    assert trouble == []


def test_an_event_of_the_past_changes_nothing(redis_url: str, tmp_path: Path) -> None:
    """A watch that begins at an older version replays what was; so may the reply to a creation come late."""

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(60.0)) as here, here.worker() as worker:
            await here.client.submit(job("true"), job_id="a")
            name = pod_name("a", 1)
            held = worker.supervisor._roster
            await until(lambda: (a := held.of_pod(name)) is not None and a.observation == Running("run"))
            attempt = held.of_pod(name)
            assert attempt is not None
            assert attempt.pod is not None
            known: dict[str, Any] = attempt.pod
            old = {**known, "metadata": {**known["metadata"], "resourceVersion": "1"}, "status": {"phase": "Pending"}}
            worker.supervisor._seen(old)
            assert (attempt.observation, attempt.pod) == (Running("run"), known)

    asyncio.run(test())


def test_the_end_of_another_pod_of_the_same_name_is_not_the_attempts(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(60.0)) as here, here.worker() as worker:
            await here.client.submit(job("true"), job_id="a")
            name = pod_name("a", 1)
            held = worker.supervisor._roster
            await until(lambda: (a := held.of_pod(name)) is not None and a.observation == Running("run"))
            attempt = held.of_pod(name)
            assert attempt is not None
            worker.supervisor._gone(name, "the uid of an earlier one", attempt.pod)
            assert (attempt.phase, attempt.pod_gone) == (Phase.FOLLOWING, False)

    asyncio.run(test())


def test_a_job_that_was_told_to_stop_before_it_began_gets_no_pod(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(60.0)) as here:
            await here.client.submit(job("true"), job_id="a")
            await here.connections.control.set(wire.stop_key("a"), "a test")
            async with here.worker(), asyncio.timeout(PATIENCE_S):
                status = await here.client.wait("a", interval=0.05)
            assert (status.status, status.result["verdict"]) == ("stopped", "canceled")
            assert here.created_pods() == []

    asyncio.run(test())


def test_the_pod_of_a_worker_that_died_between_record_and_deletion_is_deleted(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(600.0)) as here:
            await here.client.submit(job("true"), job_id="a")
            async with JobQueue(here.connections, ["jobs"], "dead") as dead:
                (claim,) = await dead.claim(1)
                await create(here, claim.job_id, "dead")
                assert await dead.settle(finish(claim))
                await dead.release()
            assert here.cluster.pods == 1
            async with here.worker():
                await until(lambda: here.cluster.pods == 0)

    asyncio.run(test())


async def create(here: Site, job_id: str, worker: str) -> None:
    """The pod of the job's first attempt, as far as whoever finds it can tell."""
    labels = {
        anatomy.LABEL_JOB: job_id,
        anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY,
        anatomy.LABEL_ATTEMPT: "1",
        anatomy.LABEL_WORKER: worker,
    }
    metadata = {"name": pod_name(job_id, 1), "labels": labels, "annotations": {anatomy.ANNOTATION_JOB: job_id}}
    container = {"name": "run", "image": "local", "command": ["true"]}
    spec = {"restartPolicy": "Never", "containers": [container]}
    api = await KubernetesApi.connect(NAMESPACE, kubeconfig=here.cluster.kubeconfig())
    try:
        await api.create_pod({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    finally:
        await api.close()

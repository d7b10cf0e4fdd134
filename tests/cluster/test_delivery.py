"""The shim as a volume of the runner's image: a job that needs no source and no cache is a pod of one container.

Not together with user namespaces, which this node offers otherwise: so the policy turns them off.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.site import Site, WorkerProcess, ended, job, said

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

LINES = 2000
TIMEOUT_S = 3
# What the kubelet and the watch add to the times that dynapod itself keeps.
SLACK_S = 15.0


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[WorkerProcess]:
    with site.worker("delivery", shim_delivery="image-volume", user_namespaces=False) as running:
        yield running


def containers(pod: dict[str, Any]) -> list[str]:
    spec = pod["spec"]
    return [entry["name"] for kind in ("initContainers", "containers") for entry in spec.get(kind) or []]


def test_a_job_of_steps_alone_is_a_pod_of_one_container(worker: WorkerProcess) -> None:
    async def test() -> None:
        async with worker.site.client() as client:
            it = await client.submit(job("echo begun; sleep 600"), queue=worker.queue)
            await said(client, it, b"begun")
            async with worker.site.api() as api:
                pod = await api.get_pod((await client.status(it)).pod)
            assert pod is not None
            assert containers(pod) == ["run"]
            asked = time.monotonic()
            await client.cancel(it, by="the test")
            end = await ended(client, it)
            assert time.monotonic() - asked < SLACK_S
            assert (end.verdict, end.status.result["message"]) == ("canceled", "stopped by the test"), end
            assert list(end.logs) == ["run"]

    asyncio.run(test())


def test_it_succeeds_with_its_whole_log(worker: WorkerProcess) -> None:
    async def test() -> None:
        end = await worker.run(job(f"seq {LINES}", "echo second"))
        assert (end.verdict, end.reason) == ("succeeded", "ok"), end
        assert end.output.splitlines() == [*(str(number).encode() for number in range(1, LINES + 1)), b"second"]
        assert [step["exit_code"] for step in end.status.result["steps"]] == [0, 0]

    asyncio.run(test())


def test_its_failure_is_the_jobs_with_the_steps_code(worker: WorkerProcess) -> None:
    async def test() -> None:
        end = await worker.run(job("echo before", "exit 42", "echo never", after=[{"run": "echo tidied"}]))
        result = end.status.result
        assert (end.verdict, result["fault"], end.reason, result["exit_code"]) == ("failed", "job", "exit", 42), end
        assert end.output.splitlines() == [b"before", b"tidied"]

    asyncio.run(test())


def test_its_timeout_is_told_as_one(worker: WorkerProcess) -> None:
    async def test() -> None:
        end = await worker.run(job("echo begun; sleep 600", timeout=f"{TIMEOUT_S}s"))
        result = end.status.result
        assert (end.verdict, result["fault"], end.reason) == ("failed", "job", "timeout"), end
        assert TIMEOUT_S <= result["timings"]["run"] < TIMEOUT_S + SLACK_S
        assert end.output == b"begun"

    asyncio.run(test())


def test_a_job_with_artifacts_has_the_runner_beside_it_as_ever(worker: WorkerProcess) -> None:
    async def test() -> None:
        end = await worker.run(job("echo it > file", artifacts=[{"name": "file", "paths": ["file"]}]))
        assert (end.verdict, end.reason) == ("succeeded", "ok"), end
        assert [artifact["result"] for artifact in end.status.result["artifacts"]] == ["uploaded"]

    asyncio.run(test())

"""Workers die, are paused, leave: jobs go on, once, with their whole log."""

import asyncio
import signal
from pathlib import Path

import pytest

from runner_spec import wire
from tests.integration.clusters import LEASE_S, Site, site
from tests.integration.worlds import job
from worker.job_status import JobStatus

pytestmark = pytest.mark.redis

PATIENCE_S = 60.0
LINES = 60
# Prints a line every 50 ms, so that some fall before, into and after the change of hands.
TALKS = f"n=0; while [ $n -lt {LINES} ]; do echo line $n; n=$((n+1)); sleep 0.05; done"


async def running(here: Site, job_id: str) -> None:
    """Until the job's steps run."""
    async with asyncio.timeout(PATIENCE_S):
        async for status in here.client.changes(job_id, interval=0.02):
            if status.stage == "run":
                return


async def ended(here: Site, job_id: str) -> JobStatus:
    async with asyncio.timeout(PATIENCE_S):
        return await here.client.wait(job_id, interval=0.05)


async def spoken(here: Site, job_id: str) -> list[bytes]:
    lines = [line async for line in here.client.logs(job_id, 1, container="run")]
    return [line.text for line in lines if line.notice or not line.text.startswith(b"[dynapod]")]


async def assert_ran_once(here: Site, job_id: str) -> None:
    status = await ended(here, job_id)
    assert (status.status, status.attempt) == ("finished", 1)
    assert await spoken(here, job_id) == [b"line %d" % n for n in range(LINES)]
    assert len(here.created_pods()) == 1


def test_a_killed_workers_job_goes_on_in_the_same_pod_with_its_whole_log(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here:
            async with here.worker_process() as first:
                submitted = await here.client.submit(job(TALKS))
                await running(here, submitted)
                first.send_signal(signal.SIGKILL)
                await first.wait()
            async with here.worker_process():
                await assert_ran_once(here, submitted)

    asyncio.run(test())


def test_sigterm_leaves_at_once_and_the_next_worker_takes_over_without_waiting_for_the_lease(
    redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker_process() as first:
            submitted = await here.client.submit(job(TALKS))
            await running(here, submitted)
            async with here.worker_process():
                await leases(here, 2)
                first.send_signal(signal.SIGTERM)
                async with asyncio.timeout(5):
                    assert await first.wait() == 0
                await assert_ran_once(here, submitted)

    asyncio.run(test())


def test_a_paused_worker_wakes_up_and_harms_nobody(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker_process() as first:
            submitted = await here.client.submit(job(TALKS))
            await running(here, submitted)
            first.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE_S)  # the very thing under test: a pause longer than the lease
            async with here.worker_process():
                await running_elsewhere(here, submitted)
                first.send_signal(signal.SIGCONT)
                await assert_ran_once(here, submitted)

    asyncio.run(test())


async def leases(here: Site, count: int) -> None:
    """Until so many workers have registered."""
    async with asyncio.timeout(PATIENCE_S):
        while await here.connections.control.zcard(wire.LEASES_KEY) < count:  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.05)


async def running_elsewhere(here: Site, job_id: str) -> None:
    """Until another worker owns the job."""
    owner = (await here.client.status(job_id)).worker
    async with asyncio.timeout(PATIENCE_S):
        while (await here.client.status(job_id)).worker == owner:  # noqa: ASYNC110 - a change in Redis has no event
            await asyncio.sleep(0.05)


def test_a_worker_killed_before_the_record_leaves_the_end_to_the_next_one(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here:
            go = tmp_path / "go"
            async with here.worker_process() as first:
                submitted = await here.client.submit(job(f"echo line 0; while [ ! -e {go} ]; do sleep 0.05; done"))
                await running(here, submitted)
                first.send_signal(signal.SIGKILL)
                await first.wait()
            go.touch()  # the pod ends while nobody looks
            async with here.worker_process():
                status = await ended(here, submitted)
            assert (status.status, status.attempt) == ("finished", 1)
            assert await spoken(here, submitted) == [b"line 0"]
            assert len(here.created_pods()) == 1

    asyncio.run(test())


def test_a_pod_that_somebody_deletes_is_the_platforms_fault_and_tried_again(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker_process():
            mark = tmp_path / "second"
            script = f"if [ -e {mark} ]; then exit 0; fi; touch {mark}; sleep 60"
            submitted = await here.client.submit(job(script))
            await running(here, submitted)
            async with asyncio.timeout(PATIENCE_S):
                while not mark.exists():  # noqa: ASYNC110 - written by the job itself
                    await asyncio.sleep(0.02)
            await delete_all_pods(here)
            status = await ended(here, submitted)
            assert (status.status, status.attempt) == ("finished", 2)
            first = status.attempts[0].result
            assert (first["fault"], first["reason"]) == ("platform", "pod-deleted")
            assert len(set(here.created_pods())) == 2

    asyncio.run(test())


async def delete_all_pods(here: Site) -> None:
    from adapters.kubernetes_api import KubernetesApi  # noqa: PLC0415 - only this test acts as a stranger
    from tests.integration.clusters import NAMESPACE  # noqa: PLC0415 - as above

    api = await KubernetesApi.connect(NAMESPACE, kubeconfig=here.cluster.kubeconfig())
    pods, _ = await api.list_pods("app.kubernetes.io/managed-by=dynapod")
    for pod in pods:
        await api.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"], grace_seconds=0)
    await api.close()


def test_canceling_a_running_job_ends_it_gracefully_with_its_after_steps(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker_process():
            description = job("echo begun; sleep 60", after=[{"name": "clean", "run": "echo cleaned up"}])
            submitted = await here.client.submit(description)
            await running(here, submitted)
            await here.client.cancel(submitted, by="a test")
            status = await ended(here, submitted)
            assert status.status == "stopped"
            assert status.result["verdict"] == "canceled"
            assert b"cleaned up" in await spoken(here, submitted)
            assert len(here.created_pods()) == 1

    asyncio.run(test())

"""Redis fails over to a replica that lacks its newest writes: pods that run are found again, and none is doubled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from rq.job import Job

from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from devcluster.audit import Fault, RequestFacts
from devcluster.resources import PODS
from devcluster.sleep_runtime import SleepRuntime
from devcluster.status_error import StatusError
from runner_spec import anatomy, wire
from runner_spec.names import pod_name
from runner_spec.policy import local_policy
from tests.integration.clusters import LEASE_S, NAMESPACE, NO_GATEWAY, Site, site
from tests.integration.worlds import job
from worker.queue import LeaseLost
from worker.service import Worker
from worker.settings import WorkerSettings

pytestmark = pytest.mark.redis

PATIENCE_S = 60.0
AUDIT_S = 0.2

Keys = dict[bytes, tuple[int, bytes]]  # name → remaining lifetime (ms; 0: none), serialised value


async def saved(here: Site) -> Keys:
    """What the replica has when it is promoted."""
    redis: Any = here.connections.control
    return {key: (max(await redis.pttl(key), 0), await redis.dump(key)) for key in await redis.keys("*")}


async def fail_over(here: Site, keys: Keys) -> None:
    pipeline: Any = here.connections.control.pipeline(transaction=True)
    pipeline.flushall()
    for key, (lifetime, value) in keys.items():
        pipeline.restore(key, lifetime, value)
    await pipeline.execute()


@asynccontextmanager
async def working(here: Site, *, capacity: int = 10) -> AsyncIterator[Worker]:
    """A worker in this process that looks often at what Redis says."""
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(redis_server.connect(here.url))
        api = await KubernetesApi.connect(NAMESPACE, kubeconfig=here.cluster.kubeconfig())
        stack.push_async_callback(api.close)
        worker = Worker(
            connections=connections,
            api=api,
            store=here.store,
            policy=local_policy(gateway_url=NO_GATEWAY, grace="1s", platform_retries=1, platform_backoff=["1s"]),
            settings=WorkerSettings(capacity=capacity, lease_seconds=LEASE_S),
            registry=CollectorRegistry(),
        )
        worker.queue._audit_seconds = AUDIT_S
        await worker.start()
        stack.push_async_callback(worker.stop)
        yield worker


async def kill(worker: Worker) -> None:
    """As SIGKILL: without a word to Redis."""
    assert worker._task is not None
    worker._task.cancel()
    await asyncio.wait([worker._task])
    worker.supervisor._leaving = True
    for task in list(worker.supervisor._tasks):
        task.cancel()
    await worker.queue.aclose()


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - states of Redis and of the cluster have no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {PATIENCE_S} s: {what}")


async def runs(here: Site, job_id: str, attempt: int = 1) -> None:
    async def seen() -> bool:
        status = await here.client.status(job_id)
        return (status.attempt, status.stage) == (attempt, "run")

    await until(seen, f"attempt {attempt} of {job_id} runs")


async def is_finished(here: Site, job_id: str) -> dict[str, Any]:
    """Waits for the end; returns the last attempt's ledger entry."""
    async with asyncio.timeout(PATIENCE_S):
        status = await here.client.wait(job_id, interval=0.05)
    assert status.status == "finished", status
    return {"attempt": status.attempt}


async def no_pods(here: Site) -> bool:
    return here.cluster.pods == 0


def only_pod(here: Site) -> dict[str, Any]:
    ((_, pod),) = here.cluster.store[PODS].sorted(NAMESPACE)
    return dict(pod.obj)


def test_a_claim_that_redis_has_lost_is_made_again_and_finds_the_pod_that_runs(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(4.0)) as here, AsyncExitStack() as stack:
            redis: Any = here.connections.control
            await redis.set("rq:suspended", "1")
            workers = [await stack.enter_async_context(working(here, capacity=1)) for _ in range(2)]
            await here.client.submit(job("true"), job_id="a")
            before = await saved(here)
            del before[b"rq:suspended"]
            await redis.delete("rq:suspended")
            await runs(here, "a")
            first = only_pod(here)["metadata"]["labels"][anatomy.LABEL_WORKER]
            (second,) = [worker for worker in workers if worker.name != first]

            await fail_over(here, before)
            assert await is_finished(here, "a") == {"attempt": 1}
            assert second.metrics.settled.labels("succeeded", "none", "ok")._value.get() == 1
            await until(lambda: no_pods(here), "no pod is left")
            assert here.created_pods() == [pod_name("a", 1)]

    asyncio.run(test())


def test_a_commit_that_redis_has_lost_never_makes_the_same_pod_twice(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.5)) as here, working(here):
            await here.client.submit(job("true"), job_id="a")
            await runs(here, "a")
            before = await saved(here)
            assert await is_finished(here, "a") == {"attempt": 1}
            await until(lambda: no_pods(here), "the pod is deleted")

            await fail_over(here, before)
            assert await is_finished(here, "a") == {"attempt": 2}
            await until(lambda: no_pods(here), "no pod is left")
            assert here.created_pods() == [pod_name("a", 1), pod_name("a", 2)]

    asyncio.run(test())


def test_a_worker_whose_lease_redis_has_lost_ends_and_the_next_one_finds_its_pod(
    redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(3.0)) as here:
            await here.client.submit(job("true"), job_id="a")
            before = await saved(here)
            async with working(here) as first:
                await runs(here, "a")
                await kill_claims(first)
                await fail_over(here, before)
                with pytest.raises(LeaseLost):
                    await first.ended()
            async with working(here) as second:
                assert await is_finished(here, "a") == {"attempt": 1}
                assert second.metrics.settled.labels("succeeded", "none", "ok")._value.get() == 1
                await until(lambda: no_pods(here), "no pod is left")
            assert here.created_pods() == [pod_name("a", 1)]

    asyncio.run(test())


async def kill_claims(worker: Worker) -> None:
    """It finds no room from now on: what it would do is the other tests' business."""
    worker.supervisor._roster.capacity = 0


def test_an_adoption_that_redis_has_lost_is_made_again_and_finds_the_later_attempts_pod(
    redis_url: str, tmp_path: Path
) -> None:
    away = True

    def faults(request: RequestFacts) -> Fault | None:
        refused = away and request.verb == "create" and request.resource == "pods"
        return Fault(error=StatusError(503, "ServiceUnavailable", "not yet")) if refused else None

    async def test() -> None:
        nonlocal away
        async with site(redis_url, tmp_path, SleepRuntime(5.0), faults) as here, working(here) as first:
            redis: Any = here.connections.control
            await here.client.submit(job("true"), job_id="a")
            await until(lambda: redis.hget("rq:job:a", wire.FIELD_ATTEMPT), "it is claimed")
            async with working(here), working(here):
                before = await saved(here)
                await kill(first)
                away = False
                await runs(here, "a", attempt=2)

                await fail_over(here, before)
                assert await is_finished(here, "a") == {"attempt": 2}
                await until(lambda: no_pods(here), "no pod is left")
            assert here.created_pods() == [pod_name("a", 2)]

    asyncio.run(test())


@pytest.mark.parametrize("lost", [False, True], ids=["the creation is answered", "its reply is lost"])
def test_the_pod_of_an_ids_earlier_life_never_makes_its_later_one_green(
    redis_url: str, tmp_path: Path, *, lost: bool
) -> None:
    """Without a failover: the id is deleted while it runs and enqueued again, so its attempts count from 1 again."""
    creations = 0

    def faults(request: RequestFacts) -> Fault | None:
        nonlocal creations
        if request.verb != "create" or request.resource != "pods":
            return None
        creations += 1
        return Fault(lose_reply=lost and creations == 2)

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(2.0), faults) as here, working(here) as worker:
            worker.queue._audit_seconds = PATIENCE_S  # nobody tells it that the first is gone
            await here.client.submit(job("true"), job_id="a")
            await runs(here, "a")
            await asyncio.to_thread(Job.fetch("a", here.connections.sync, serializer="json").delete)
            await here.client.submit(job("false"), job_id="a")

            assert await is_finished(here, "a") == {"attempt": 2}
            assert here.created_pods() == [pod_name("a", 1), pod_name("a", 2)]

    asyncio.run(test())


def test_a_pod_whose_status_nobody_can_read_ends_its_own_job_alone(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(1.0)) as here, working(here) as worker:
            await here.client.submit(job("true"), job_id="strange")
            await runs(here, "strange")
            strange = only_pod(here)
            await here.client.submit(job("true"), job_id="other")
            status = {**strange["status"], "containerStatuses": "garbage"}
            version = str(int(strange["metadata"]["resourceVersion"]) + 1)
            metadata = {**strange["metadata"], "resourceVersion": version}
            worker.supervisor._seen({**strange, "metadata": metadata, "status": status})

            assert await is_finished(here, "other") == {"attempt": 1}
            assert await is_finished(here, "strange") == {"attempt": 2}
            first = (await here.client.status("strange")).attempts[0].result
            assert (first["fault"], first["reason"]) == ("platform", "worker")
            await until(lambda: no_pods(here), "no pod is left")

    asyncio.run(test())

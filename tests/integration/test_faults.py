"""Single things that go wrong; `tests/chaos` has them all at once."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from devcluster.audit import Fault, RequestFacts
from devcluster.resources import PODS
from devcluster.sleep_runtime import SleepRuntime
from runner_spec import wire
from runner_spec.names import pod_name
from tests.integration.clusters import NAMESPACE, Site, site
from tests.integration.worlds import job

pytestmark = pytest.mark.redis

PATIENCE_S = 60.0


async def until(condition: Any, what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - states of Redis and of the cluster have no event
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {PATIENCE_S} s: {what}")


async def no_pods(here: Site) -> bool:
    return here.cluster.pods == 0


def test_an_id_enqueued_again_while_it_runs_ends_the_older_pod_on_the_same_worker(
    redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(60.0)) as here, here.worker():
            for attempt in (1, 2):
                await here.client.submit(job("true"), job_id="again", unique=False)
                await until(lambda number=attempt: has_run(here, "again", number), f"attempt {attempt} runs")
            await until(lambda: only_pod(here, pod_name("again", 2)), "the older pod is gone")

    asyncio.run(test())


async def has_run(here: Site, job_id: str, attempt: int) -> bool:
    status = await here.client.status(job_id)
    return (status.attempt, status.stage) == (attempt, "run")


async def only_pod(here: Site, name: str) -> bool:
    return [key[1] for key, _ in here.cluster.store[PODS].sorted(NAMESPACE)] == [name]


def test_a_second_creation_is_never_sent_once_the_pod_was_seen(redis_url: str, tmp_path: Path) -> None:
    """The reply is lost late: when the request would be sent again, the pod has run, was recorded and deleted."""

    def slow_create(request: RequestFacts) -> Fault | None:
        return Fault(lose_reply=True) if request.verb == "create" and request.resource == "pods" else None

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.0), slow_create) as here, here.worker():
            for number in range(20):
                await here.client.submit(job("true"), job_id=f"quick-{number}")
            for number in range(20):
                assert (await here.client.wait(f"quick-{number}", interval=0.05)).status == "finished"
            await until(lambda: no_pods(here), "no pod is left")
            assert Counter(here.created_pods()) == {pod_name(f"quick-{number}", 1): 1 for number in range(20)}

    asyncio.run(test())


@pytest.mark.parametrize("attempt", ["99999999999", "-7", "1.5", "nan", "x"])
def test_an_attempt_number_made_up_by_a_producer_harms_nobody(attempt: str, redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.0)) as here:
            await here.client.submit(job("true"), job_id="odd")
            redis: Any = here.connections.control
            await redis.hset("rq:job:odd", wire.FIELD_ATTEMPT, attempt)
            async with here.worker(), asyncio.timeout(PATIENCE_S):
                assert (await here.client.wait("odd", interval=0.05)).status == "finished"

    asyncio.run(test())

"""Many jobs at once: every one succeeds, with one pod and two writes to the API each."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from rq import Queue

from adapters import redis_server
from devcluster.sleep_runtime import SleepRuntime
from runner_spec import wire
from tests.integration.clusters import Site, site
from tests.integration.worlds import job

JOBS = 2000


def enqueue(url: str) -> None:
    connections = redis_server.connect(url)
    queue = Queue("jobs", connection=connections.sync, serializer="json")
    description = job("true")
    queue.enqueue_many(
        [Queue.prepare_data(wire.RUN_FUNCTION, args=(description,), job_id=f"load-{n}") for n in range(JOBS)]
    )
    connections.sync.close()
    connections.sync.connection_pool.disconnect()


async def ends(here: Site) -> Counter[str]:
    """How many jobs have ended in which way, by rq's own registries."""
    finished = await here.connections.control.zcard("rq:finished:jobs")
    failed = await here.connections.control.zcard("rq:failed:jobs")
    return Counter(finished=finished, failed=failed)


@pytest.mark.redis
@pytest.mark.slow
def test_two_thousand_jobs_at_once_get_one_pod_and_two_writes_each(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(1.0)) as here:
            await asyncio.to_thread(enqueue, redis_url)
            async with here.worker(capacity=JOBS), asyncio.timeout(100):
                last = "$"
                while (await ends(here)).total() < JOBS:
                    await here.connections.blocking.xread({wire.EVENTS_KEY: last}, block=500, count=1)
                while here.cluster.pods:  # noqa: ASYNC110 - the last deletions are on their way; the cluster has no event
                    await asyncio.sleep(0.05)
            assert await ends(here) == Counter(finished=JOBS, failed=0)
            assert len(here.created_pods()) == len(set(here.created_pods())) == JOBS
            assert here.pod_writes() == 2 * JOBS

    asyncio.run(test())

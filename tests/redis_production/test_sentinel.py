import asyncio
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from rq import Queue

from adapters.redis_server import connect
from tests.redis_production.servers import Failover, client, eventually, failover, within
from tests.worker.queue.scene import DESCRIPTION, finish
from worker.queue import Claim, JobQueue, QueueUnavailable

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(120)]

# Seconds: a second of silence, the sentinels' vote, and the longest pause of ours.
BOUND = 20.0


def enqueue(port: int, job_id: str) -> None:
    with client(port) as own:
        Queue("jobs", connection=own, serializer="json").enqueue("worker.tasks.run", DESCRIPTION, job_id=job_id)


async def claim_one(queue: JobQueue) -> Claim:
    """As the supervisor's loops do it."""
    while True:
        try:
            await queue.renew()
            await queue.adopt(1)
            if claims := await queue.claim(1):
                return claims[0]
            await queue.wait(2.0)
        except QueueUnavailable as error:
            await queue.outage.pause(error)


async def lead(site: Failover, by: Any) -> None:
    """A worker's queue over a change of the primary, which is brought about by `by`."""
    async with connect(site.url) as connections, JobQueue(connections, ["jobs"], uuid4().hex) as queue:
        enqueue(site.primary.port, "before")
        held = await claim_one(queue)
        with client(site.primary.port) as own:
            assert own.wait(1, 5000) == 1
        await asyncio.to_thread(by, site)
        async with within(BOUND, "the end of a job claimed before is recorded by the new primary"):
            await asyncio.to_thread(eventually, site.changed, "one primary, the former replica")
            assert await queue.settle(finish(held))
        with client(site.replica.port) as own:
            assert own.hget("rq:job:before", "status") == b"finished"
        async with within(BOUND, "a job enqueued at the new primary is seen and claimed"):
            enqueue(site.replica.port, "after")
            assert (await claim_one(queue)).job_id == "after"
        async with within(BOUND, "a command on rq's channel is heard at the new primary"):
            channel, message = f"rq:pubsub:{queue.worker}", '{"command": "shutdown"}'
            with client(site.replica.port) as own:
                await asyncio.to_thread(eventually, lambda: own.publish(channel, message), "somebody listens")
            await anext(queue.commands())
        async with within(BOUND, "an idle watcher wakes for a job at the new primary"):
            waiting = asyncio.create_task(queue.wait(BOUND))
            await asyncio.sleep(0)
            enqueue(site.replica.port, "watched")
            assert await waiting
        # rq's own code, in threads, has found it as well.
        assert await asyncio.to_thread(connections.sync.hget, "rq:job:after", "status") == b"started"


def kill(site: Failover) -> None:
    site.primary.send(signal.SIGKILL)


def test_a_worker_goes_on_after_its_primary_was_killed(tmp_path: Path) -> None:
    with failover(tmp_path) as site:
        asyncio.run(lead(site, kill))


def test_a_worker_goes_on_after_a_failover_on_request(tmp_path: Path) -> None:
    with failover(tmp_path) as site:
        asyncio.run(lead(site, Failover.fail_over))

"""A job that kills every worker that handles it, among jobs that do no harm: real workers, killed as they take it."""

import asyncio
import json
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from runner_spec.names import pod_name
from tests.integration.clusters import Site, site
from tests.integration.worlds import job
from worker.client import JobClient

pytestmark = pytest.mark.redis

PATIENCE_S = 240.0
INNOCENTS = 20
LOSSES = 2
CREW = 2


class Reaper:
    """Kills whoever owns the poison, as soon as Redis says so, and puts a new worker in its place."""

    def __init__(self, here: Site, stack: AsyncExitStack, poison: str) -> None:
        self._here, self._stack, self._poison = here, stack, poison
        self._redis = here.connections.control
        self.deaths = 0

    async def hire(self) -> None:
        await self._stack.enter_async_context(self._here.worker_process())

    async def run(self) -> None:
        """Until the poison has an end."""
        killed = None
        while (await self._here.client.status(self._poison)).status in {"queued", "started"}:
            owner = await self._owner()
            # From its pod on: killed sooner each time, no worker would ever create one, and there is none to delete.
            if owner is not None and owner != killed and pod_name(self._poison, 1) in self._here.created_pods():
                killed = owner
                pid = await self._redis.hget(f"rq:worker:{owner.decode()}", "pid")
                assert pid is not None
                os.kill(int(pid), signal.SIGKILL)
                self.deaths += 1
                await self.hire()
            await asyncio.sleep(0.01)  # a change in Redis has no event

    async def _owner(self) -> bytes | None:
        """Who handles the poison; nobody once it is given out to be ended only."""
        async for key in self._redis.scan_iter(match=f"rq:execution:{self._poison}:*", count=1000):
            found: Any = await self._redis.hmget(key, ["worker_name", "dynapod_poison"])
            owner: bytes | None = None if found[1] else found[0]
            return owner
        return None


@pytest.mark.slow
def test_a_job_that_kills_its_workers_ends_and_takes_no_other_with_it(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
            here = await stack.enter_async_context(site(redis_url, tmp_path))
            policy = json.loads(here.policy.read_text())
            here.policy.write_text(json.dumps({**policy, "worker_losses": LOSSES}))
            innocents = [await here.client.submit(job("sleep 10; echo fine")) for _ in range(INNOCENTS // 2)]
            poison = await here.client.submit(job("echo begun; sleep 600"))
            innocents += [await here.client.submit(job("sleep 10; echo fine")) for _ in range(INNOCENTS // 2)]
            reaper = Reaper(here, stack, poison)
            for _ in range(CREW):
                await reaper.hire()
            await reaper.run()
            end = await here.client.wait(poison, interval=0.05)
            assert (end.status, end.result["fault"], end.result["reason"]) == ("failed", "platform", "poison")
            assert end.result["evidence"]["workers_lost"] == LOSSES
            assert reaper.deaths <= 8  # 2, then log2 of 21, then 2 alone
            await assert_pod_is_deleted(here, end.result["evidence"]["pod"])

            created = Counter(here.created_pods())
            for innocent in innocents:
                status = await here.client.wait(innocent, interval=0.05)
                assert status.status == "finished"
                names = [pod_name(innocent, attempt) for attempt in range(1, (status.attempt or 0) + 1)]
                assert sum(created[name] for name in names) == 1
            await assert_the_log_says_so(here.client, poison, end.attempt or 0)

    asyncio.run(test())


async def assert_pod_is_deleted(here: Site, name: str) -> None:
    deleted = False
    while not deleted:  # `asyncio.timeout` above ends the wait
        deleted = any((e.verb, e.resource, e.name) == ("delete", "pods", name) for e in here.cluster.audit)
        await asyncio.sleep(0.05)


async def assert_the_log_says_so(client: JobClient, job_id: str, attempt: int) -> None:
    """Either nothing of it was ever read, or it ends with what is missing."""
    lines = [line async for line in client.logs(job_id, attempt, container="run")]
    assert not lines or (lines[-1].notice and b"workers died" in lines[-1].text)

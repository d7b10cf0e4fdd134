"""Whatever way jobs end, every key in Redis that tells of them goes by itself; what stays is listed here."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from runner_spec import wire
from tests.integration.clusters import Site, site
from tests.integration.worlds import job
from worker.queue.record import HISTORY_SECONDS

pytestmark = pytest.mark.redis

PATIENCE_S = 60.0
REGISTRIES = ("wip", "finished", "failed", "canceled", "scheduled")
SHORT = {"result_ttl": 1, "failure_ttl": 1}
# One each for the whole installation; docs/architecture.md says who keeps them small.
PERMANENT = re.compile(
    r"rq:(queues|workers|workers:jobs|clean_registries:jobs|(queue|wip|finished|failed|canceled|deferred|scheduled):jobs)"
    r"|dynapod:(leases|events)"
)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - Redis' own clock has no event
            await asyncio.sleep(0.05)


class Ends:
    """Jobs that end in every way, by stock rq's own means."""

    def __init__(self, here: Site) -> None:
        self.here = here
        self.redis: Any = here.connections.control
        self.sync = here.connections.sync
        self.queue = Queue("jobs", connection=self.sync, serializer="json")

    def enqueue(self, name: str, description: dict[str, Any], **options: Any) -> Job:
        return self.queue.enqueue("worker.tasks.run", description, job_id=name, **SHORT, **options)

    async def runs(self, name: str) -> None:
        async def is_running() -> bool:
            return bool(await self.redis.hget(wire.state_key(name), "stage") == b"run")

        await until(is_running)

    async def attempts(self, name: str) -> list[bytes]:
        return sorted(await self.redis.hkeys(wire.attempts_key(name)))

    async def recorded(self, name: str, attempt: bytes = b"1") -> None:
        async def is_recorded() -> bool:
            return attempt in await self.attempts(name)

        await until(is_recorded)

    async def without_end(self) -> set[str]:
        found = [key for key in await self.redis.keys("*") if await self.redis.ttl(key) == -1]
        return {name for name in map(bytes.decode, found) if not PERMANENT.fullmatch(name)}


def test_after_jobs_of_every_kind_of_end_no_key_stays(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here:
            ends = Ends(here)
            forever = "sleep 600"
            ends.enqueue("canceled-queued", job("true"))
            ends.enqueue("deleted-queued", job("true"))
            await here.client.cancel("canceled-queued")
            ends.queue.fetch_job("deleted-queued").delete()
            async with here.worker() as worker:
                ends.enqueue("good", job("echo good"))
                ends.enqueue("bad", job("exit 3"))
                ends.enqueue("rejected", {"name": "no steps"})
                second_time = f"[ -e {tmp_path}/seen ] || {{ : > {tmp_path}/seen; exit 1; }}"
                ends.enqueue("again", job(second_time, retry={"attempts": 2}))
                for name in ("canceled-running", "canceled-by-rq", "deleted-running"):
                    ends.enqueue(name, job(forever))
                for name in ("canceled-running", "canceled-by-rq", "deleted-running"):
                    await ends.runs(name)
                await here.client.cancel("canceled-running")
                await ends.redis.set(wire.stop_key("deleted-running"), "somebody, too late")
                await asyncio.to_thread(ends.queue.fetch_job("canceled-by-rq").cancel)
                await asyncio.to_thread(ends.queue.fetch_job("deleted-running").delete)
                for name in ("good", "bad", "rejected", "canceled-running", "canceled-by-rq"):
                    await ends.recorded(name)
                await ends.recorded("again", b"2")

                async def no_pods() -> bool:
                    return here.cluster.pods == 0

                async def no_jobs() -> bool:
                    await worker.queue._maintenance._census.take()
                    await worker.queue._maintenance._sweep()
                    listed = [await ends.redis.zcard(f"rq:{registry}:jobs") for registry in REGISTRIES]
                    return not any(listed) and not await ends.redis.keys("rq:job:*")

                await until(no_pods)
                await until(no_jobs)

                for name in ("good", "bad", "canceled-running", "canceled-by-rq", "again"):
                    history = await ends.redis.ttl(wire.attempts_key(name))
                    assert history >= max(
                        [await ends.redis.ttl(key) for key in await ends.redis.keys(f"dynapod:log*:{name}:*")]
                    )
                    assert 0 < history <= HISTORY_SECONDS
                assert await ends.without_end() == set()
                assert await ends.redis.keys("dynapod:stop:*") == []

            # Nor does the worker itself leave anything, but what says for a while that it was there.
            assert await ends.without_end() == set()

    asyncio.run(test())

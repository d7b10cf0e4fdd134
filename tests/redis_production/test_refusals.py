"""What Redis refuses for good ends no worker: it says so, goes on with what it holds, and heals once it is mended."""

import asyncio
import logging
from pathlib import Path

import pytest

from runner_spec import wire
from tests.integration.clusters import Site, site
from tests.integration.worlds import job
from tests.redis_production.servers import within
from worker.service import Worker

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

QUEUE = "rq:queue:jobs"


async def until_said(worker: Worker, words: str) -> None:
    async with within(20, f"the worker says {words!r}"):
        while words not in worker.why_not:  # noqa: ASYNC110 - an attribute has no event
            await asyncio.sleep(0.05)


async def until_ready(worker: Worker) -> None:
    async with within(20, "the worker is ready again"):
        while worker.why_not:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


async def run(here: Site, script: str) -> str:
    async with within(40, "the job's end"):
        return (await here.client.wait(await here.client.submit(job(script)), interval=0.05)).status


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (QUEUE, "no job is claimed"),
        ("rq:scheduled:jobs", "schedules, cancels and maintenance do not work"),
        (wire.LEASES_KEY, "the lease is not renewed"),
    ],
)
def test_a_key_of_the_wrong_type_is_named_and_lived_through(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, words: str
) -> None:
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        async with site(redis_url, tmp_path) as here, here.worker() as worker:
            assert await run(here, "true") == "finished"
            held = await here.client.submit(job("sleep 3"))
            async with within(40, "a job runs"):
                async for status in here.client.changes(held, interval=0.05):
                    if status.stage == "run":
                        break
            kept = await here.connections.control.dump(key)
            await here.connections.control.set(key, "a string")
            await until_said(worker, words)
            assert "WRONGTYPE" in worker.why_not
            if key != wire.LEASES_KEY:  # without a lease, an end waits
                async with within(40, "its job ends, by its hash: `status` reads that key, too"):
                    while await here.connections.control.hget(f"rq:job:{held}", "status") != b"finished":  # noqa: ASYNC110 - as above
                        await asyncio.sleep(0.05)
            await here.connections.control.delete(key)
            if kept is not None:
                await here.connections.control.restore(key, 0, kept)
            await until_ready(worker)
            async with within(40, "the end of the job that it holds"):
                assert (await here.client.wait(held, interval=0.05)).status == "finished"
            assert await run(here, "true") == "finished"

    asyncio.run(scenario())
    said = [record for record in caplog.records if "WRONGTYPE" in record.getMessage()]
    assert 1 <= len(said) <= 20

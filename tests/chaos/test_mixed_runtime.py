"""Real containers among scripted ones, a gateway that is killed and short of disk, and jobs whose files are known."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from runner_spec.policy import DEFAULT_POLICY
from tests.chaos.artifact_rule import unproven
from tests.chaos.gateway_process import GatewayProcess
from tests.chaos.jobs import real_job, tasks
from tests.chaos.ledger import LedgerWriter, read_ledger
from tests.chaos.mixed_runtime import MixedRuntime, read_records
from tests.chaos.redis_evidence import read_artifacts
from tests.integration.clusters import Site, site

PATIENCE_S = 60.0


@asynccontextmanager
async def world(url: str, folder: Path) -> AsyncIterator[tuple[Site, GatewayProcess]]:
    """A site with both kinds of containers, and a gateway that has not been started."""
    with LedgerWriter(folder / "ledger") as ledger:
        async with site(url, folder, MixedRuntime(ledger)) as here, asyncio.timeout(PATIENCE_S):
            gateway = GatewayProcess(
                folder,
                redis_url=url,
                kubeconfig=here.kubeconfig,
                store=folder / "store",
                namespace=DEFAULT_POLICY.namespace,
            )
            fields = json.loads(here.policy.read_text()) | {"gateway_url": gateway.url, "upload_budget": "20s"}
            here.policy.write_text(json.dumps(fields))
            try:
                yield here, gateway
            finally:
                await gateway.close()


async def refused(gateway: GatewayProcess) -> bool:
    """Whether it has answered an upload with an error of its own; False, too, while it does not listen."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{gateway.url}/metrics") as response:
                page = await response.text()
        except aiohttp.ClientConnectionError:
            return False
    return re.search(r'^dynapod_gateway_requests_total\{code="5..",method="PUT"', page, re.MULTILINE) is not None


@pytest.mark.redis
def test_a_real_job_is_green_with_all_its_files_after_a_full_disk_and_a_killed_gateway(
    redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        description, made = real_job("real-1", 20_000)
        async with world(redis_url, tmp_path) as (here, gateway):
            gateway.start()
            gateway.fill_disk(full=True)
            async with here.worker_process():
                await here.client.submit(description, job_id="real-1")
                while not await refused(gateway):  # noqa: ASYNC110 - of another process: no event
                    await asyncio.sleep(0.05)
                await gateway.end()
                assert not gateway.alive
                gateway.start()
                done = await here.client.wait("real-1", interval=0.05)
            assert done.status == "finished"
            assert unproven(await read_artifacts(here.store, "real-1", 1), made) == []
        (run,) = read_ledger(tmp_path / "ledger").runs
        assert (run.job, run.container, run.exit_code) == ("real-1", "run", 0)
        assert run.log is not None
        assert b"real-1 20000\n20000\n" in run.log

    asyncio.run(test())


def test_a_log_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Lines cut into records, an empty one, the very last one without its end, and spaces that belong to them."""
    stamp = b"2026-01-01T00:00:00.000000001Z stdout "
    records = [b"P one ", b"F  two", b"F ", b"F three", b"P four"]
    (tmp_path / "log").write_bytes(b"".join(stamp + record + b"\n" for record in records))
    assert read_records(tmp_path / "log") == b"one  two\n\nthree\nfour"


def test_real_jobs_are_few_however_many_there_are_and_the_same_for_the_same_seed() -> None:
    found = list(tasks(3, 20_000))
    real = [task for task in found if task.facts.artifacts]
    assert 100 < len(real) < 200
    assert all(not task.description.get("env") for task in real)
    assert [task.description for task in tasks(3, 20_000)] == [task.description for task in found]

"""The least job on a real cluster, from the queue to its recorded end; and nothing left of it."""

import asyncio

import pytest

from tests.cluster.site import Site, job

pytestmark = pytest.mark.cluster


def test_a_job_runs_as_a_pod_and_leaves_none(site: Site) -> None:
    async def test() -> None:
        with site.worker("least") as worker:
            ended = await worker.run(job("echo hello from $(id -u)", artifacts=[]))
            assert (ended.verdict, ended.reason) == ("succeeded", "ok"), ended
            assert ended.output.startswith(b"hello from ")
            async with site.api() as api:
                assert (await api.list_pods("dynapod.dev/job"))[0] == []

    asyncio.run(test())

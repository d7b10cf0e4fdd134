"""The least job on a real cluster, from the queue to its recorded end; and nothing left of it."""

import asyncio

import pytest

from runner_spec import names
from tests.cluster.site import Site, job

pytestmark = pytest.mark.cluster


def test_a_job_runs_as_a_pod_and_leaves_none(site: Site) -> None:
    async def test() -> None:
        with site.worker("least") as worker:
            ended = await worker.run(job("echo hello from $(id -u)", artifacts=[]))
            assert (ended.verdict, ended.reason) == ("succeeded", "ok"), ended
            assert ended.output.startswith(b"hello from ")
            async with site.api() as api:
                async with asyncio.timeout(60):
                    while await api.get_pod(names.pod_name(ended.status.id, 1)) is not None:  # noqa: ASYNC110 - only Kubernetes knows when
                        await asyncio.sleep(0.2)

    asyncio.run(test())

"""A devcluster inside the test's own event loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from devcluster.cluster import DevCluster
from devcluster.process_runtime import ProcessRuntime
from devcluster.runtime import Runtime
from tests.devcluster.conformance.api_client import Client, Cluster


@asynccontextmanager
async def local_cluster(
    root: Path, runtime: Runtime | None = None, **options: Any
) -> AsyncIterator[tuple[DevCluster, Client]]:
    cluster = DevCluster(root, runtime or ProcessRuntime(), **options)
    await cluster.start()
    try:
        headers = {"Authorization": f"Bearer {cluster.token}", "User-Agent": "test/1"}
        async with Cluster(cluster.url, "default", headers).client() as client:
            yield cluster, client
    finally:
        await cluster.stop()

"""What a worker needs, without what would slow it down: a hollow cluster and a Redis server of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from adapters import redis_server
from adapters.redis_server import Connections, Server
from benchmarks.crowd import enqueue
from benchmarks.hollow_cluster import HollowCluster, Standing, hollow_cluster
from benchmarks.suite import BenchmarkError, Options
from benchmarks.workers import SILENT_WORKER, Crew

# A job of one step, without source, caches and artifacts: a pod of two containers.
DESCRIPTION: Final[Mapping[str, Any]] = {"name": "bench", "image": "job", "steps": [{"name": "t", "run": "true"}]}
PATIENCE_S: Final = 900.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class HollowSite:
    """The cluster, the Redis server and connections to it."""

    options: Options
    cluster: HollowCluster
    server: Server
    connections: Connections

    def crew(self, capacity: int, *, command: tuple[str, ...] = SILENT_WORKER, lease_seconds: float = 15.0) -> Crew:
        """Workers to hire."""
        folder = self.options.folder / "crew"
        policy, url = self.cluster.policy(), self.server.url
        return Crew(
            self.cluster.kubeconfig,
            url,
            folder,
            policy,
            capacity=capacity,
            lease_seconds=lease_seconds,
            command=command,
        )

    async def enqueue(self, count: int) -> None:
        """More waiting jobs."""
        await enqueue(self.connections.control, dict(DESCRIPTION), count)

    async def until(self, what: str, holds: Callable[[Standing], bool]) -> Standing:
        """Wait for the cluster to stand so.

        Raises:
            BenchmarkError: it does not, in `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not holds(standing := await asyncio.to_thread(self.cluster.standing)):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"not {what} in {PATIENCE_S:g} s: {standing}; see the logs of the workers")
            await asyncio.sleep(POLL_S)
        return standing


@asynccontextmanager
async def hollow_site(
    options: Options, *, lasts: float | None = None, logs: Literal["ended", "open"] = "ended", name: str = "site"
) -> AsyncIterator[HollowSite]:
    """The site while the block runs; `lasts` and `logs` are the cluster's (`hollow_cluster`).

    Raises:
        BenchmarkError: there is no Redis server to start, or the cluster did not.
    """
    folder = options.folder / name
    try:
        with hollow_cluster(folder, lasts=lasts, logs=logs) as cluster, redis_server.start_server(folder) as server:
            async with redis_server.connect(server.url) as connections:
                yield HollowSite(options, cluster, server, connections)
    except redis_server.ServerNotStarted as error:
        raise BenchmarkError(str(error)) from error

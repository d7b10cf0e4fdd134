"""Who waits for jobs to end and disturbs nobody: one watch of a namespace's pods, one blocked reader of the events.

Moments are `time.monotonic()`, as in `benchmarks.clocked_worker`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp

from adapters.redis_server import Connections
from benchmarks.clocked_worker import ENDS
from benchmarks.fake_nodes import FakeNodes
from benchmarks.suite import BenchmarkError
from runner_spec import wire
from runner_spec.anatomy import LABEL_JOB
from tests.chaos_cluster.cluster_api import RefusedError
from worker.cancellation import end_tasks

# The server may end a watch earlier, and does under load.
WATCH_S: Final = 300.0
REST_S: Final = 0.1


class Onlooker:
    """By job: when its pod was seen to have ended, when its end could be read in Redis."""

    def __init__(self) -> None:
        self.finished: dict[str, float] = {}
        self.readable: dict[str, float] = {}
        self._news = asyncio.Condition()

    async def until_readable(self, jobs: Collection[str], seconds: float) -> None:
        """Wait for the ends of all these jobs.

        Raises:
            BenchmarkError: there are some that have not ended after `seconds`.
        """
        wanted = set(jobs)
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: wanted <= self.readable.keys())
        except TimeoutError:
            left = len(wanted - self.readable.keys())
            raise BenchmarkError(f"{left} of {len(wanted)} jobs have not ended after {seconds:g} s") from None

    async def watch(self, nodes: FakeNodes) -> None:
        """Note the ends of pods, for ever. Between two watches one may be missed: the worker knows of it, too."""
        path, version = f"/api/v1/namespaces/{nodes.namespace}/pods", ""
        while True:
            since = version or (await nodes.api.call("GET", path))["metadata"]["resourceVersion"]
            version = ""  # from here on only when there was an event: `since` may have expired
            with suppress(aiohttp.ClientError, TimeoutError, RefusedError):
                async for event in nodes.api.watch(path, since, WATCH_S):
                    version = self._note(event["object"])
            await asyncio.sleep(REST_S)

    def _note(self, pod: dict[str, Any]) -> str:
        """The version from which to go on; empty when the event says that it has expired."""
        metadata = pod["metadata"]
        if pod["kind"] == "Pod" and pod.get("status", {}).get("phase") in ENDS:
            self.finished.setdefault(metadata["labels"][LABEL_JOB], time.monotonic())
        return str(metadata.get("resourceVersion", ""))

    async def read(self, connections: Connections) -> None:
        """Note the entries of `dynapod:events`, for ever.

        A job's status, result, ledger and this entry are written by one script, so who has the entry can read them all.
        """
        xread: Any = connections.blocking.xread
        last = b"0-0"
        while True:
            for _, entries in await xread({wire.EVENTS_KEY: last}, block=0):
                now = time.monotonic()
                for _, fields in entries:
                    self.readable.setdefault(fields[b"job"].decode(), now)
                last = entries[-1][0]
            async with self._news:
                self._news.notify_all()


@asynccontextmanager
async def onlooker(nodes: FakeNodes, connections: Connections) -> AsyncIterator[Onlooker]:
    """One that looks on while the block runs.

    Raises:
        BenchmarkError: it could not look on to the end of the block.
    """
    seen = Onlooker()
    tasks = [asyncio.create_task(work) for work in (seen.watch(nodes), seen.read(connections))]
    try:
        yield seen
    finally:
        ended = [task for task in tasks if task.done()]
        await end_tasks(tasks)
        for task in ended:
            error = task.exception()
            raise BenchmarkError(f"the watch of pods or the reading of events has failed: {error!r}") from error

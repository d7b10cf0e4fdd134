"""What must not grow with the number of jobs, changes and workers: the cost of a job."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from benchmarks import growth_queue, growth_watch, growth_workers
from benchmarks.figure import Figure
from benchmarks.suite import Options

PARTS: Final[tuple[Callable[[Options], Awaitable[list[Figure]]], ...]] = (
    growth_queue.waiting,
    growth_queue.finished,
    growth_watch.flow,
    growth_workers.simulated,
)


def measure(options: Options) -> Iterable[Figure]:
    """A million waiting jobs, 100,000 finished ones, 1,000 changes of status a second, fifty workers.

    Raises:
        BenchmarkError: no Redis server to start.
    """
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> list[Figure]:
    return [figure for part in PARTS for figure in await part(options)]

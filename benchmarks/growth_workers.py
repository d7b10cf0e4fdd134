"""Fifty workers on one queue: what Redis spends on a job, beside what it spends with one worker."""

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

from adapters import redis_server
from benchmarks.crowd import enqueue
from benchmarks.figure import Figure, at_most, ratios
from benchmarks.growth_queue import BATCH, Depot, depot, settlement
from benchmarks.hollow_site import DESCRIPTION
from benchmarks.suite import Options
from worker.queue import JobQueue

WORKERS: Final = 50
JOBS: Final = 20_000
LEASE_SECONDS: Final = 15.0
TICK_S: Final = 1.0
IDLE_S: Final = 5.0


async def simulated(options: Options) -> list[Figure]:
    """One worker and fifty, in alternation: each claims, commits, renews its lease, looks for the dead, ticks."""
    jobs = options.sized(JOBS, at_least=500)
    one: list[float] = []
    many: list[float] = []
    idle: list[float] = []
    for number in range(options.rounds):
        for count, found in ((1, one), (WORKERS, many)) if number % 2 == 0 else ((WORKERS, many), (1, one)):
            async with depot(options, f"workers-{number}-{count}") as place:
                work, rest = await _run(place, count, jobs)
            found.append(work)
            if count == WORKERS:
                idle.append(rest)
    return list(figures(jobs, one, many, idle))


def figures(jobs: int, one: Sequence[float], many: Sequence[float], idle: Sequence[float]) -> Iterator[Figure]:
    """`one`, `many`: microseconds of Redis' CPU per job; `idle`: per worker and second, where there is no job."""
    note = f"CPU of Redis; {jobs:,} jobs claimed and committed"
    yield Figure("n", "a job, 1 worker on the queue", "µs/job", tuple(one), note=note)
    yield Figure("n", f"a job, {WORKERS} workers", "µs/job", tuple(many))
    yield Figure("n", f"… {WORKERS} beside 1", "ratio", ratios(many, one), at_most(1.5))
    yield Figure("n", f"an idle worker, one of {WORKERS}", "µs/s", tuple(idle), note="CPU of Redis: lease, tick, wait")


async def _run(place: Depot, count: int, jobs: int) -> tuple[float, float]:
    """Microseconds of Redis' CPU: per job at work, and per worker and second at rest."""
    async with AsyncExitStack() as stack:
        queues = []
        for _ in range(count):
            connections = await stack.enter_async_context(redis_server.connect(place.server.url))
            queue = JobQueue(connections, ["jobs"], uuid.uuid4().hex, lease_seconds=LEASE_SECONDS)
            queues.append(await stack.enter_async_context(queue))
        async with asyncio.TaskGroup() as group:
            hearts = [group.create_task(_beat(queue)) for queue in queues]
            await asyncio.sleep(TICK_S)
            used = place.cpu()
            await asyncio.sleep(IDLE_S)
            rest = (place.cpu() - used) / IDLE_S / count * 1e6
            await enqueue(place.connections.control, dict(DESCRIPTION), jobs)
            used = place.cpu()
            await asyncio.gather(*(_work(queue) for queue in queues))
            work = (place.cpu() - used) / jobs * 1e6
            for heart in hearts:
                heart.cancel()
    return work, rest


async def _work(queue: JobQueue) -> None:
    """Until the queue is empty."""
    while claims := await queue.claim(BATCH):
        await asyncio.gather(*(queue.settle(settlement(claim)) for claim in claims))


async def _beat(queue: JobQueue) -> None:
    """As `worker.adoption` and the supervisor's tick: a heart beat every third of the lease, a tick every second."""
    due = 0.0
    loop = asyncio.get_running_loop()
    with suppress(asyncio.CancelledError):
        while True:
            if loop.time() >= due:
                due = loop.time() + LEASE_SECONDS / 3
                await queue.renew()
                await queue.lapsed()
                await queue.adopt(BATCH)
            await queue.tick()
            await asyncio.sleep(TICK_S)

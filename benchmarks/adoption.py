"""How long the jobs of a worker that was killed are nobody's: from the end of its lease to the last one adopted."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.figure import Figure, at_most
from benchmarks.hollow_site import HollowSite, hollow_site
from benchmarks.suite import BenchmarkError, Options
from runner_spec import wire
from worker.queue.keys import worker_executions

JOBS: Final = 5000
LEASE_SECONDS: Final = 15.0  # the worker's own default
POLL_S: Final = 0.02
PATIENCE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Handover:
    """Seconds from the end of the dead worker's lease, by Redis' clock.

    To the first and last job adopted; and until a pod that ended right then was recorded and deleted: by then, the new
    worker has listed the pods and reads their logs.
    """

    first: float
    last: float
    at_work: float


def measure(options: Options) -> Iterable[Figure]:
    """See the module's text.

    Raises:
        BenchmarkError: no Redis server to start.
    """
    jobs = options.sized(JOBS, at_least=20)
    found = []
    for number in range(options.rounds):
        found.append(asyncio.run(_round(options, jobs, number)))
        options.say(f"    round {number + 1}: {jobs} jobs adopted {found[-1].last:.2f} s after the lease")
    return list(figures(found, jobs))


def figures(found: Sequence[Handover], jobs: int) -> Iterator[Figure]:
    """One line for the first job, one for the last."""
    note = f"{jobs:,} in flight; lease of {LEASE_SECONDS:g} s; another worker is there"
    yield Figure("h", "lease's end to the first job adopted", "s", tuple(each.first for each in found))
    yield Figure("h", "lease's end to the last job adopted", "s", tuple(each.last for each in found), at_most(3), note)
    at_work = tuple(each.at_work for each in found)
    yield Figure("h", "… until an end at that moment is recorded", "s", at_work, note="and its pod deleted")


async def _round(options: Options, jobs: int, number: int) -> Handover:
    async with hollow_site(options, name=f"round-{number}") as site:
        crew = site.crew(jobs, lease_seconds=LEASE_SECONDS)
        with crew.workers(1) as [doomed]:
            await site.enqueue(jobs)
            await site.until(f"{jobs} pods running", lambda s: s.running == jobs)
            with crew.workers(1):
                dead = await _holder(site)
                doomed.kill()
                handover = await _watch(site, dead, jobs)
                await _untouched(site, jobs)
                return handover


async def _holder(site: HollowSite) -> str:
    """Who holds the jobs."""
    names: Any = await site.connections.control.zrange(wire.LEASES_KEY, 0, -1)
    for name in names:
        worker = str(name.decode())
        if await _held(site, worker):
            return worker
    raise BenchmarkError("no worker holds a job")


async def _watch(site: HollowSite, dead: str, jobs: int) -> Handover:
    """Look at what is registered under the dead worker's name until nothing is."""
    score: Any = await site.connections.control.zscore(wire.LEASES_KEY, dead)
    lapse, first, deadline = float(score), 0.0, time.monotonic() + PATIENCE_S
    while left := await _held(site, dead):
        now = await _clock(site)
        if left < jobs and not first:
            first = now
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{left} of {jobs} jobs not adopted {now - lapse:.0f} s after the lease")
        await asyncio.sleep(POLL_S)
    last = await _clock(site)
    ended = await asyncio.to_thread(site.cluster.end, 1)
    await site.until("its pod deleted", lambda s: s.requests.get("delete", 0) >= ended)
    return Handover((first or last) - lapse, last - lapse, await _clock(site) - lapse)


async def _held(site: HollowSite, worker: str) -> int:
    held: Any = site.connections.control.scard(worker_executions(worker))
    return int(await held)


async def _clock(site: HollowSite) -> float:
    seconds, micros = await site.connections.control.time()
    return float(seconds) + float(micros) / 1e6


async def _untouched(site: HollowSite, jobs: int) -> None:
    """Every job goes on in the pod that it had; one has ended."""
    standing = await asyncio.to_thread(site.cluster.standing)
    if standing.running != jobs - 1 or standing.requests.get("create") != jobs:
        raise BenchmarkError(f"the pods of {jobs} adopted jobs are not what they were: {standing}")

"""A queue that grows: claims among waiting jobs, claims and commits beside finished ones."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psutil

from adapters import redis_server
from adapters.redis_server import Connections, Server
from benchmarks.crowd import enqueue
from benchmarks.figure import Figure, at_most, ratios
from benchmarks.hollow_site import DESCRIPTION
from benchmarks.suite import BenchmarkError, Options
from runner_spec.outcome import Fault, Outcome, Verdict
from worker.queue import Claim, Finish, JobQueue, Settlement

WAITING: Final = (1_000, 100_000, 1_000_000)
FINISHED: Final = 100_000
BATCH: Final = 100  # of a claim: the most that one takes
BATCHES: Final = 5  # a measurement
COMMITTED: Final = 5_000
# What may come on top, for noise: cost is flat, or it grows by a power of ten.
FLAT: Final = at_most(1.5)
DONE: Final = Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "All steps succeeded.", exit_code=0)
# Copies what is kept of one finished job under other ids. KEYS: those whose names hold its id, then the registry.
# ARGV: its id, beginning of the new ids, number of the first one, how many.
_COPY: Final = """
local score = redis.call('ZSCORE', KEYS[#KEYS], ARGV[1])
local at = {}
for k = 1, #KEYS - 1 do
    at[k] = {string.find(KEYS[k], ARGV[1], 1, true)}
end
for n = tonumber(ARGV[3]), ARGV[3] + ARGV[4] - 1 do
    local id = ARGV[2] .. string.format('%08x', n)
    for k = 1, #KEYS - 1 do
        redis.call('COPY', KEYS[k], string.sub(KEYS[k], 1, at[k][1] - 1) .. id .. string.sub(KEYS[k], at[k][2] + 1))
    end
    redis.call('ZADD', KEYS[#KEYS], score, id)
end
"""
_COPIES_AT_ONCE: Final = 5_000
_FINISHED_KEY: Final = "rq:finished:jobs"


@dataclass(frozen=True, slots=True)
class Depot:
    """A Redis server of its own, and one worker's queue there."""

    server: Server
    connections: Connections
    queue: JobQueue

    async def memory(self) -> int:
        """Bytes that its data take."""
        facts: Any = await self.connections.control.info("memory")
        return int(facts["used_memory"])

    async def claim_us(self) -> float:
        """So far, the microseconds that the server spent on scripts: claims are nothing else."""
        facts: Any = await self.connections.control.info("commandstats")
        return float(facts.get("cmdstat_evalsha", {"usec": 0})["usec"])

    def cpu(self) -> float:
        """Seconds that the server has used, sockets included."""
        times = psutil.Process(self.server.pid).cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def depot(options: Options, name: str) -> AsyncIterator[Depot]:
    """A server, and a worker's queue on it.

    Raises:
        BenchmarkError: there is no server to start.
    """
    try:
        with redis_server.start_server(options.folder / name) as server:
            async with (
                redis_server.connect(server.url) as connections,
                JobQueue(connections, ["jobs"], uuid.uuid4().hex) as queue,
            ):
                yield Depot(server, connections, queue)
    except redis_server.ServerNotStarted as error:
        raise BenchmarkError(str(error)) from error


async def waiting(options: Options) -> list[Figure]:
    """Claims from queues of three lengths, in alternation, each on its own server."""
    sizes = [options.sized(size, at_least=BATCH * BATCHES) for size in WAITING]
    async with AsyncExitStack() as stack:
        depots = [await stack.enter_async_context(depot(options, f"waiting-{n}")) for n in range(len(sizes))]
        empty = await depots[-1].memory()
        for size, place in zip(sizes, depots, strict=True):
            began = time.monotonic()
            await enqueue(place.connections.control, dict(DESCRIPTION), size)
            options.say(f"    {size:,} jobs wait ({time.monotonic() - began:.1f} s)")
        per_job = (await depots[-1].memory() - empty) / sizes[-1]
        for place in depots:
            await _claims(place, 1)  # connections and scripts are there from now on
            await enqueue(place.connections.control, dict(DESCRIPTION), BATCH)
        spent: list[list[tuple[float, float]]] = [[] for _ in depots]
        for number in range(options.rounds):
            order = range(len(depots)) if number % 2 == 0 else reversed(range(len(depots)))
            for n in order:
                spent[n].append(await _claims(depots[n], BATCHES))
                await enqueue(depots[n].connections.control, dict(DESCRIPTION), BATCH * BATCHES)
    return list(waiting_figures(sizes, spent, per_job))


def waiting_figures(
    sizes: Sequence[int], spent: Sequence[Sequence[tuple[float, float]]], per_job: float
) -> Iterator[Figure]:
    """`spent`: by size, round by round: microseconds of the server and on the clock, per job."""
    note = f"{sizes[-1]:,} jobs of {len(str(dict(DESCRIPTION)))} characters"
    yield Figure("n", "Redis memory of a waiting job", "bytes", (per_job,), note=note)
    for size, found in zip(sizes, spent, strict=True):
        clock = sum(on_clock for _, on_clock in found) / len(found)
        server = tuple(of_server for of_server, _ in found)
        note = f"Redis' time; on the clock {clock:.0f}; batches of {BATCH}"
        yield Figure("n", f"claim, {size:,} waiting", "µs/job", server, note=note)
    few, many = ([of_server for of_server, _ in spent[n]] for n in (0, -1))
    yield Figure("n", f"… {sizes[-1]:,} beside {sizes[0]:,}", "ratio", ratios(many, few), FLAT)


async def _claims(place: Depot, batches: int) -> tuple[float, float]:
    """Microseconds per claimed job: of the server, and on the clock."""
    await place.queue.renew()  # nobody else is there to take over meanwhile
    used, began, claimed = await place.claim_us(), time.perf_counter(), 0
    for _ in range(batches):
        claimed += len(await place.queue.claim(BATCH))
    seconds = time.perf_counter() - began
    if claimed != batches * BATCH:
        raise BenchmarkError(f"{claimed} of {batches * BATCH} jobs were claimed")
    return (await place.claim_us() - used) / claimed, seconds / claimed * 1e6


async def finished(options: Options) -> list[Figure]:
    """Claims and commits, without and with many finished jobs; in alternation, each on its own server."""
    kept, jobs = options.sized(FINISHED, at_least=1_000), options.sized(COMMITTED, at_least=200)
    async with depot(options, "none-finished") as none, depot(options, "finished") as many:
        per_job = await _finish_copies(many, kept)
        await _commits(none, BATCH)
        spent: dict[str, list[float]] = {"none": [], "many": []}
        for number in range(options.rounds):
            places = [("none", none), ("many", many)]
            for name, place in places if number % 2 == 0 else reversed(places):
                spent[name].append(await _commits(place, jobs))
    return list(finished_figures(kept, jobs, spent["none"], spent["many"], per_job))


def finished_figures(
    kept: int, jobs: int, none: Sequence[float], many: Sequence[float], per_job: float
) -> Iterator[Figure]:
    """`none`, `many`: microseconds of the server's CPU per claimed and committed job, round by round."""
    yield Figure("n", "Redis memory of a finished job", "bytes", (per_job,), note=f"{kept:,} jobs; ledger and result")
    yield Figure("n", "claim and commit, none finished", "µs/job", tuple(none), note=f"CPU of Redis; {jobs:,} jobs")
    yield Figure("n", f"claim and commit, {kept:,} finished", "µs/job", tuple(many))
    yield Figure("n", "… beside none", "ratio", ratios(many, none), FLAT)


async def _finish_copies(place: Depot, count: int) -> float:
    """Finish one job, and have what is kept of it so often; returns its bytes."""
    await _commits(place, 1)
    redis: Any = place.connections.control
    sample = (await redis.zrange(_FINISHED_KEY, 0, 0))[0].decode()
    names = sorted([name.decode() async for name in redis.scan_iter(match=f"*{sample}*", count=1000)])
    before, stem = await place.memory(), str(uuid.uuid4())[:-8]
    for first in range(0, count, _COPIES_AT_ONCE):
        size = min(_COPIES_AT_ONCE, count - first)
        await redis.eval(_COPY, len(names) + 1, *names, _FINISHED_KEY, sample, stem, first, size)
    return (await place.memory() - before) / count


async def _commits(place: Depot, jobs: int) -> float:
    """Microseconds of the server's CPU per job that is claimed and committed."""
    await enqueue(place.connections.control, dict(DESCRIPTION), jobs)
    await place.queue.renew()
    used, done = place.cpu(), 0
    while done < jobs:
        claims = await place.queue.claim(min(BATCH, jobs - done))
        await asyncio.gather(*(place.queue.settle(settlement(claim)) for claim in claims))
        done += len(claims)
    return (place.cpu() - used) / jobs * 1e6


def settlement(claim: Claim) -> Settlement:
    """The record of a success, with what a worker writes into the ledger."""
    result = {"verdict": "succeeded", "attempt": claim.attempt, "exit_code": 0, "message": DONE.message}
    ledger = {"started_at": claim.claimed_at, "ended_at": claim.claimed_at + 1, "pod": f"dp-{claim.job_id}-1"}
    return Settlement(claim, DONE, Finish(result), ledger)

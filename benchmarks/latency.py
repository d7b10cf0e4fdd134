"""How long a job waits for dynapod: from its enqueueing to its pod's creation, from its pod's end to its result.

Four moments of each job, by one clock (`time.monotonic()`, shared by the processes of a machine):

- enqueued: a producer on this machine is about to call `JobClient.submit`. What it needs itself is part of the figure.
- sent: the worker writes the request that creates the pod to its connection (`benchmarks.clocked_worker`).
- finished: the pod's phase has become `Succeeded`, as the first of two knows it: the worker, or the benchmark's own
  watch (`benchmarks.onlooker`). What the API server needs until then is not part of the figure.
- readable: a blocked reader has dynapod's event of the end; result, status and event are written at once.

Idle: one job at a time, at random moments. Loaded: jobs that arrive by chance (Poisson), four for every five that the
same worker carried a moment before, from a full queue. One worker, whose logs are empty, on fake nodes.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from adapters import redis_server
from adapters.redis_server import Connections
from benchmarks.fake_nodes import DESCRIPTION, FakeNodes, fake_nodes
from benchmarks.figure import Figure, Target, at_most, percentile
from benchmarks.onlooker import Onlooker, onlooker
from benchmarks.suite import BenchmarkError, Options
from benchmarks.workers import Crew
from worker.client import JobClient

IDLE_JOBS: Final = 120
FULL_JOBS: Final = 800
LOADED_JOBS: Final = 1200
LOAD: Final = 0.8
# Jobs that go before, and are not counted: connections, caches, the scheduler.
WARM_UP: Final = 8
# Seconds of peace between two idle jobs, at most; the worker's own clockwork (state, commands, lease) is met at random.
PEACE_S: Final = 0.3
# kwok's pods can be told how long they run (docs/performance.md names the stages); idle jobs need not last a second.
SHORT: Final[Mapping[str, Any]] = {"metadata": {"annotations": {"test/run-ms": "100"}}}
PATIENCE_S: Final = 300.0
IDLE_MS: Final = 20.0
LOADED_MS: Final = 100.0
SHARES: Final[Mapping[str, float]] = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}

Moments = Mapping[str, float]
Play = Callable[["_Stage"], Awaitable[Moments]]


@dataclass(frozen=True, slots=True)
class Delays:
    """Of some jobs, in milliseconds: enqueued → sent, finished → readable."""

    create: Sequence[float]
    result: Sequence[float]


def measure(options: Options) -> Iterable[Figure]:
    """See the module's text.

    Raises:
        BenchmarkError: no cluster, no fake node; jobs did not end.
    """
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> list[Figure]:
    idle, loaded, rates = [], [], []
    async with fake_nodes() as nodes:
        with redis_server.start_server(options.folder / "redis", durable=True) as server:
            async with redis_server.connect(server.url) as connections, onlooker(nodes, connections) as seen:
                theatre = _Theatre(options, nodes, server.url, connections, seen)
                for number in range(options.rounds):
                    idle.append(await theatre.idle())
                    rate, delays = await theatre.loaded()
                    rates.append(rate)
                    loaded.append(delays)
                    options.say(f"    round {number + 1} of {options.rounds}: {rate:.1f} jobs/s carried")
    return list(figures(idle, loaded, rates))


@dataclass(frozen=True, slots=True)
class _Stage:
    """A worker is ready; `submit` enqueues one job and returns its id and when that began."""

    client: JobClient
    seen: Onlooker

    async def submit(self) -> tuple[str, float]:
        job, began = str(uuid4()), time.monotonic()
        await self.client.submit(DESCRIPTION, job_id=job)
        return job, began

    async def batch(self, jobs: int) -> Moments:
        """So many at once, to their ends."""
        enqueued = dict(await asyncio.gather(*(self.submit() for _ in range(jobs))))
        await self.seen.until_readable(enqueued, PATIENCE_S)
        return enqueued


@dataclass(frozen=True, slots=True)
class _Theatre:
    options: Options
    nodes: FakeNodes
    redis_url: str
    connections: Connections
    seen: Onlooker

    async def idle(self) -> Delays:
        jobs = self.options.sized(IDLE_JOBS, at_least=5)

        async def play(stage: _Stage) -> Moments:
            enqueued = {}
            for _ in range(jobs):
                await asyncio.sleep(random.uniform(0, PEACE_S))  # noqa: S311 - chance, no secret
                job, began = await stage.submit()
                enqueued[job] = began
                await self.seen.until_readable([job], PATIENCE_S)
            return enqueued

        return await self._play(play, {**self.nodes.policy, "pod_patch": SHORT})

    async def loaded(self) -> tuple[float, Delays]:
        """The rate that the worker carries, and the delays at `LOAD` of it."""
        full = self.options.sized(FULL_JOBS, at_least=20)
        jobs = self.options.sized(LOADED_JOBS, at_least=20)
        rates = []

        async def play(stage: _Stage) -> Moments:
            began = time.monotonic()
            await stage.batch(full)
            rates.append(full / (time.monotonic() - began))
            enqueued = await _arrive(stage, arrivals(rates[0] * LOAD, jobs))
            await self.seen.until_readable(enqueued, PATIENCE_S)
            return enqueued

        delays = await self._play(play, self.nodes.policy)
        return rates[0], delays

    async def _play(self, play: Play, policy: Mapping[str, Any]) -> Delays:
        """With a worker of its own, which tells its moments when it ends."""
        notes = self.options.folder / "notes.json"
        command = (sys.executable, "-m", "benchmarks.clocked_worker", str(notes))
        crew = Crew(self.nodes.kubeconfig, self.redis_url, self.options.folder / "crew", policy, command=command)
        stage = _Stage(JobClient(self.connections.control), self.seen)
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, crew.workers(1))
            await stage.batch(WARM_UP)
            enqueued = await play(stage)
            await asyncio.to_thread(stack.close)
        return delays_of(enqueued, _read(notes), self.seen.finished, self.seen.readable)


async def _arrive(stage: _Stage, moments: Iterable[float]) -> Moments:
    """Submit a job at each of the moments (seconds from now), whatever became of those before."""
    began = time.monotonic()
    submitting = []
    for moment in moments:
        await asyncio.sleep(began + moment - time.monotonic())
        submitting.append(asyncio.create_task(stage.submit()))
    return dict(await asyncio.gather(*submitting))


def arrivals(rate: float, count: int) -> Iterator[float]:
    """The moments, in seconds from now, of `count` arrivals that know nothing of each other, `rate` per second."""
    gaps = (random.expovariate(rate) for _ in range(count))
    return itertools.accumulate(gaps)


def _read(notes: Path) -> Mapping[str, Moments]:
    try:
        found: Mapping[str, Moments] = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"the worker left no notes of its moments: {error}") from error
    return found


def delays_of(enqueued: Moments, notes: Mapping[str, Moments], finished: Moments, readable: Moments) -> Delays:
    """Of the jobs in `enqueued`; `notes` are the worker's, `finished` and `readable` the onlooker's. Pure.

    Raises:
        BenchmarkError: of a job, a moment is not known.
    """
    create, result = [], []
    for job, began in enqueued.items():
        ends = [moments[job] for moments in (notes["ended"], finished) if job in moments]
        if not ends or job not in notes["sent"] or job not in readable:
            raise BenchmarkError(f"job {job}: its creation or its end was not seen; run the benchmark again")
        create.append((notes["sent"][job] - began) * 1000)
        result.append((readable[job] - min(ends)) * 1000)
    return Delays(create, result)


def figures(idle: Sequence[Delays], loaded: Sequence[Delays], rates: Sequence[float]) -> Iterator[Figure]:
    """One value a round. Pure."""
    yield from _percentiles("idle", idle, at_most(IDLE_MS))
    yield Figure("g", "rate carried", "jobs/s", tuple(rates), note="from a full queue, right before each loaded run")
    yield from _percentiles(f"at {LOAD:.0%}", loaded, at_most(LOADED_MS))


def _percentiles(when: str, rounds: Sequence[Delays], target: Target) -> Iterator[Figure]:
    ways = {
        "enqueue → create sent": [delays.create for delays in rounds],
        "pod finished → result": [delays.result for delays in rounds],
    }
    for way, series in ways.items():
        for name, share in SHARES.items():
            values = tuple(percentile(values, share) for values in series)
            promised = target if name == "p99" else None
            yield Figure("g", f"{when}: {way}, {name}", "ms", values, promised, f"{len(series[0])} jobs a round")

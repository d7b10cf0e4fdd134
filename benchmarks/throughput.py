"""Jobs per second from a full queue to the last deleted pod, beside the control plane's own limit; what a job costs.

The limit is `benchmarks/limit`: a bare loop that creates pods, follows them with one watch and deletes them. It moves a
pod as small as a pod of three containers can be, and, in turn, the very pod that dynapod renders. All of them run on
the fake nodes of KUBECONFIG's cluster, in alternation: control planes on small machines drift within minutes.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from adapters import redis_server
from adapters.redis_server import Connections
from benchmarks.costs import CostMeter, Costs
from benchmarks.fake_nodes import DESCRIPTION, FakeNodes, fake_nodes
from benchmarks.figure import Figure, at_least, at_most, ratios
from benchmarks.limit_program import LimitProgram
from benchmarks.suite import BenchmarkError, Options
from benchmarks.workers import BenchWorker, Crew
from worker.client import JobClient

PODS: Final = 1500
CREATORS: Final = 32
WARM_UP: Final = 64
WORKERS: Final = (1, 2, 4)
POLL_S: Final = 0.2
PATIENCE_S: Final = 900.0
# Of how many round trips at a time a producer's bulk consists.
AT_ONCE: Final = 100
KEPT_S: Final = 3600
QUEUE: Final = "rq:queue:jobs"
# The producer's work is not measured: jobs are submitted beforehand, and their queue appears all at once.
PARKED: Final = "parked"
# One worker whose policy delivers the shim in a volume: the pod has one container instead of two.
VOLUME: Final = "image volume"


@dataclass(slots=True)
class _Taken:
    """By contestant: rates in their order; the costs of the runs with one worker."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    costs: list[Costs] = field(default_factory=list)

    def add(self, name: str, rate: float) -> None:
        self.rates.setdefault(name, []).append(rate)


def measure(options: Options) -> Iterable[Figure]:
    """See the module's text; also what a job costs in requests, Redis and CPU: (a) to (e).

    Raises:
        BenchmarkError: no cluster, no fake node, no Go.
    """
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> list[Figure]:
    limit = LimitProgram.build(options.folder)
    jobs = options.sized(PODS, at_least=50)
    taken = _Taken()
    async with fake_nodes() as nodes:
        with redis_server.start_server(options.folder / "redis", durable=True) as server:
            async with redis_server.connect(server.url) as connections:
                race = _Race(options, nodes, server.url, connections, limit, jobs, taken)
                await race.warm_up()
                for number in range(options.rounds):
                    await race.run(number)
        options.say(f"    Kubernetes {nodes.version}")
    return list(_figures(taken, jobs))


@dataclass(slots=True)
class _Race:
    options: Options
    nodes: FakeNodes
    redis_url: str
    connections: Connections
    limit: LimitProgram
    jobs: int
    taken: _Taken

    async def warm_up(self) -> None:
        """Connections, caches and the scheduler: nothing of it is counted."""
        await self._limit(self.nodes.bare_manifest(), WARM_UP)

    async def run(self, number: int) -> None:
        """One round: everybody once; who begins changes."""
        contestants = ["limit", "limit with dynapod's pod", *(f"{count}" for count in WORKERS), VOLUME]
        if number % 2:
            contestants.reverse()
        for name in contestants:
            if name == "limit":
                rate = await self._limit(self.nodes.bare_manifest(), self.jobs)
            elif name.startswith("limit"):
                rate = await self._limit(self.nodes.manifest(), self.jobs)
            elif name == VOLUME:
                rate = await self._dynapod(1, shim_delivery="image-volume")
            else:
                rate = await self._dynapod(int(name))
            self.taken.add(name, rate)
            self.options.say(f"    round {number + 1}: {_words(name)}: {rate:.1f}/s")

    async def _limit(self, manifest: dict[str, object], pods: int) -> float:
        return await asyncio.to_thread(self.limit.rate, manifest, self.nodes.namespace, pods, CREATORS)

    async def _dynapod(self, count: int, **policy: str) -> float:
        """Jobs per second, from the moment at which the queue is there to the end of the last pod."""
        await self.connections.control.flushall()
        await self._submit(self.jobs)
        await self.connections.control.rename(QUEUE, PARKED)
        folder = self.options.folder / "crew"
        crew = Crew(self.nodes.kubeconfig, self.redis_url, folder, {**self.nodes.policy, **policy}, capacity=self.jobs)
        with ExitStack() as stack:
            workers = await asyncio.to_thread(stack.enter_context, crew.workers(count))
            await self._submit(WARM_UP)
            await self._until(WARM_UP)
            meter = CostMeter(self.nodes.api, self.connections.sync, [worker.pid for worker in workers])
            before = await meter.read()
            began = time.monotonic()
            await self.connections.control.rename(PARKED, QUEUE)
            await self._until(WARM_UP + self.jobs)
            seconds = time.monotonic() - began
            if count == 1 and not policy:
                self.taken.costs.append(await meter.read() - before)
            _check(workers)
            await asyncio.to_thread(stack.close)
        return self.jobs / seconds

    async def _submit(self, jobs: int) -> None:
        client = JobClient(self.connections.control, None)
        for first in range(0, jobs, AT_ONCE):
            size = min(AT_ONCE, jobs - first)
            await asyncio.gather(*(client.submit(DESCRIPTION, result_ttl=KEPT_S) for _ in range(size)))

    async def _until(self, jobs: int) -> None:
        """So many have succeeded, and no pod is left."""
        deadline = time.monotonic() + PATIENCE_S
        # Kubernetes is asked in the end only, Redis seldom: their work for us must not count as dynapod's.
        while (found := await self._finished()) < jobs or not await self.nodes.is_empty():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{found} of {jobs} jobs succeeded in {PATIENCE_S:g} s")
            await asyncio.sleep(POLL_S)

    async def _finished(self) -> int:
        return int(await self.connections.control.zcard("rq:finished:jobs"))


def _check(workers: Sequence[BenchWorker]) -> None:
    for worker in workers:
        if worker.process.poll() is not None:
            raise BenchmarkError(f"a worker ended: {worker.log.read_text()[-1000:]}")


def _words(name: str) -> str:
    if name.startswith("limit"):
        return name
    return f"dynapod, workers: {name}" if name.isdigit() else f"dynapod, {name}"


def _figures(taken: _Taken, jobs: int) -> Iterable[Figure]:
    rates = {name: tuple(found) for name, found in taken.rates.items()}
    yield Figure("a", "limit: bare pods", "pods/s", rates["limit"], note=f"{jobs} pods of 1 s, {CREATORS} creators")
    yield Figure("a", "limit: dynapod's own pod", "pods/s", rates["limit with dynapod's pod"])
    yield Figure("a", "dynapod, 1 worker", "jobs/s", rates["1"], note="from the queue to the deleted pod")
    beside = ratios(rates["1"], rates["limit"])
    yield Figure("a", "dynapod beside the limit", "ratio", beside, at_least(0.90))
    yield Figure("a", "… with dynapod's own pod", "ratio", ratios(rates["1"], rates["limit with dynapod's pod"]))
    note = "beside the limit; shim_delivery: image-volume, one container"
    yield Figure("a", "… and its shim in a volume", "ratio", ratios(rates[VOLUME], rates["limit"]), note=note)
    for count in WORKERS[1:]:
        name = f"{count} workers beside 1"
        yield Figure("b", name, "ratio", ratios(rates[str(count)], rates["1"]), at_least(0.95))
    yield from _cost_figures(taken.costs, jobs)


def _cost_figures(costs: Sequence[Costs], jobs: int) -> Iterable[Figure]:
    def each(name: str, bench: str, unit: str, values: Iterable[float], bound: float | None = None) -> Figure:
        per_job = tuple(value / jobs for value in values)
        return Figure(bench, name, unit, per_job, None if bound is None else at_most(bound))

    for verb in sorted({verb for cost in costs for verb in cost.requests}):
        yield each(f"{verb} pods", "c", "per job", (cost.requests[verb] for cost in costs))
    yield each("writes of the worker", "c", "per job", (cost.writes for cost in costs), 2.005)
    yield each("reads of the worker", "c", "per job", (cost.lookups for cost in costs), 0.05)
    yield each("Redis commands", "d", "per job", (cost.commands for cost in costs))
    yield each("Redis round trips", "d", "per job", (cost.reads for cost in costs), 2.0)
    yield each("time of the Redis server", "d", "ms/job", (cost.redis_ms for cost in costs), 0.5)
    yield each("CPU of the worker", "e", "ms/job", (cost.cpu * 1000 for cost in costs), 3.0)
    yield each("… of that in user space", "e", "ms/job", (cost.user * 1000 for cost in costs))

"""dynapod beside stock rq workers whose function creates a pod, polls it every second and deletes it.

The same pods (as dynapod renders them, of a second each) on the same fake nodes, the same Redis, in alternation. All
workers are ready, and a queue is filled at once; measured from the first job that is enqueued to the last pod that is
gone. `SimpleWorker`s have each had a job before, so that their imports and connections are not counted; a worker that
forks for each job imports and connects for each job.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from rq import Queue

from adapters import redis_server
from adapters.redis_server import Connections
from benchmarks.fake_nodes import DESCRIPTION, FakeNodes, fake_nodes
from benchmarks.figure import Figure, at_least, at_most, ratios
from benchmarks.stock_workers import FORKING, SIMPLE, StockCrew
from benchmarks.suite import BenchmarkError, Options
from benchmarks.usage import Usage
from benchmarks.workers import Crew
from worker.client import JobClient

TASK: Final = "benchmarks.stock_task.run"
QUEUE: Final = "jobs"
POLL_S: Final = 0.05
SAMPLE_S: Final = 2.0
PATIENCE_S: Final = 600.0
MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Contestant:
    """So many workers, of rq's class `kind` or dynapod's own, and jobs for about half a minute of a small machine."""

    name: str
    workers: int
    jobs: int
    kind: str = ""

    @property
    def warm_up(self) -> int:
        """Jobs that are not counted: none for those that forget everything anyway."""
        return 0 if self.kind == FORKING else 32


DYNAPOD: Final = Contestant("dynapod, 1 worker", 1, 300)
STOCK: Final = (
    Contestant("rq worker x 1", 1, 4, FORKING),
    Contestant("rq worker x 8", 8, 16, FORKING),
    Contestant("rq worker x 32", 32, 40, FORKING),
    Contestant("SimpleWorker x 32", 32, 128, SIMPLE),
)
BESIDE: Final = STOCK[2:]


@dataclass(frozen=True, slots=True)
class Run:
    """Jobs per second; milliseconds of CPU per job; the most bytes that the workers, and their children, had."""

    rate: float
    cpu: float
    resident: float
    unique: float


def measure(options: Options) -> Iterable[Figure]:
    """See the module's text.

    Raises:
        BenchmarkError: no cluster, no fake node; jobs failed or did not end.
    """
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> list[Figure]:
    runs: dict[str, list[Run]] = {}
    async with fake_nodes() as nodes:
        with redis_server.start_server(options.folder / "redis", durable=True) as server:
            async with redis_server.connect(server.url) as connections:
                race = _Race(options, nodes, server.url, connections)
                for number in range(options.rounds):
                    for contestant in (DYNAPOD, *STOCK)[:: -1 if number % 2 else 1]:
                        run = await race.run(contestant)
                        runs.setdefault(contestant.name, []).append(run)
                        options.say(f"    round {number + 1}: {contestant.name}: {run.rate:.2f}/s, {run.cpu:.1f} ms")
    return list(figures(runs))


@dataclass(frozen=True, slots=True)
class _Race:
    options: Options
    nodes: FakeNodes
    redis_url: str
    connections: Connections

    async def run(self, contestant: Contestant) -> Run:
        await self.connections.control.flushall()
        jobs = self.options.sized(contestant.jobs, at_least=contestant.workers)
        with ExitStack() as stack:
            pids = await asyncio.to_thread(self._hire, stack, contestant)
            await self._batch(contestant, contestant.warm_up, pids)
            run = await self._batch(contestant, jobs, pids)
            await asyncio.to_thread(stack.close)
        return run

    def _hire(self, stack: ExitStack, contestant: Contestant) -> Sequence[int]:
        folder = self.options.folder / "crew"
        if contestant.kind:
            stock = StockCrew(self.nodes.kubeconfig, self.redis_url, folder, QUEUE)
            return stack.enter_context(stock.workers(contestant.workers, contestant.kind))
        crew = Crew(self.nodes.kubeconfig, self.redis_url, folder, self.nodes.policy, QUEUE)
        return [worker.pid for worker in stack.enter_context(crew.workers(contestant.workers))]

    async def _batch(self, contestant: Contestant, jobs: int, pids: Sequence[int]) -> Run:
        """From the first job to the last deleted pod."""
        done = await self._ended()
        before, began = Usage.of(pids, children=True), time.monotonic()
        await (self._enqueue(jobs) if contestant.kind else self._submit(jobs))
        most, looked = before, began
        while await self._ended() < done + jobs or not await self.nodes.is_empty():
            if time.monotonic() > began + PATIENCE_S:
                raise BenchmarkError(f"{contestant.name}: {jobs} jobs have not ended after {PATIENCE_S:g} s")
            if time.monotonic() > looked + SAMPLE_S:
                most = max(most, Usage.of(pids, children=True), key=lambda usage: usage.resident)
                looked = time.monotonic()
            await asyncio.sleep(POLL_S)
        seconds = time.monotonic() - began
        after = Usage.of(pids, children=True)
        most = max(most, after, key=lambda usage: usage.resident)
        return Run(jobs / seconds, (after.cpu - before.cpu) * 1000 / max(jobs, 1), most.resident, most.unique)

    async def _submit(self, jobs: int) -> None:
        client = JobClient(self.connections.control)
        await asyncio.gather(*(client.submit(DESCRIPTION, queue=QUEUE) for _ in range(jobs)))

    async def _enqueue(self, jobs: int) -> None:
        queue = Queue(QUEUE, connection=self.connections.sync, serializer="json")
        manifest = self.nodes.manifest()
        for _ in range(jobs):
            await asyncio.to_thread(queue.enqueue, TASK, manifest, self.nodes.namespace)

    async def _ended(self) -> int:
        """How many jobs have succeeded."""
        control: Any = self.connections.control
        if failed := await control.zrange(f"rq:failed:{QUEUE}", 0, 0):
            raise BenchmarkError(f"job {failed[0].decode()} failed: run the benchmark again, and look at its result")
        return int(await control.zcard(f"rq:finished:{QUEUE}"))


def figures(runs: Mapping[str, Sequence[Run]]) -> Iterator[Figure]:
    """One value a round, by contestant; then dynapod beside those with 32 processes. Pure."""
    for name, found in runs.items():
        yield Figure("o", f"{name}: jobs", "jobs/s", tuple(run.rate for run in found))
        yield Figure("o", f"{name}: CPU", "ms/job", tuple(run.cpu for run in found))
        yield Figure("o", f"{name}: memory", "MB", tuple(run.resident / MB for run in found), note="resident, summed")
        yield Figure("o", f"{name}: … its own alone", "MB", tuple(run.unique / MB for run in found), note="USS")
    ours = runs[DYNAPOD.name]
    for contestant in BESIDE:
        theirs, beside = runs[contestant.name], f"dynapod beside {contestant.name}"
        rate = ratios([run.rate for run in ours], [run.rate for run in theirs])
        cpu = ratios([run.cpu for run in ours], [run.cpu for run in theirs])
        memory = ratios([run.unique for run in ours], [run.unique for run in theirs])
        yield Figure("o", f"{beside}: jobs", "ratio", rate, at_least(1.0))
        yield Figure("o", f"{beside}: CPU", "ratio", cpu, at_most(1.0))
        yield Figure("o", f"{beside}: memory", "ratio", memory, at_most(1.0), "USS")

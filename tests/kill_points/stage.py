"""One run: a scenario with a worker that may be killed in it, then a healthy worker, then the check."""

import asyncio
import inspect
import itertools
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Protocol

from adapters.kubernetes_api import KubernetesApi
from devcluster.resources import PODS
from runner_spec import wire
from tests.kill_points import worker_process
from tests.kill_points.containers import Script, Start
from tests.kill_points.instrument import BEFORE, Victim
from tests.kill_points.points import points
from tests.kill_points.verdict import left_keys, problems
from tests.kill_points.worker_process import Order
from tests.kill_points.world import LEASE_S, NAMESPACE, World

POLL_S: Final = 0.02
# Of a scenario: much longer than any of them takes on an idle machine.
PATIENCE_S: Final = 40.0
SETTLE_S: Final = 60.0
LEAVE_S: Final = 15.0
_JOB_STATES: Final = (b"finished", b"failed", b"stopped", b"canceled")
# Waits that would make a run long, where what is waited for does not matter: seconds.
CONSTANTS: Final[Mapping[str, object]] = {
    "worker.supervisor:JUDGE_S": 0.5,
    "worker.supervisor:FINISH_RETRY_S": 0.3,
    "worker.orphan_scan:INTERVAL_S": 1.0,
}


class Scenario(Protocol):
    """What happens in one run."""

    __name__: str

    async def __call__(self, stage: "Stage") -> None: ...


_numbers = itertools.count()
_ALL: Final = frozenset(point.id for point in points())


class VictimDied(Exception):  # noqa: N818 - not an error: it was the purpose
    """The worker under observation was killed: the scenario is over."""


class Stage:
    """What a scenario has at hand. Job names are unique, so runs can share a world."""

    def __init__(self, here: World, victim: Victim | None) -> None:
        self.world = here
        self.redis = here.redis
        self.number = next(_numbers)
        self.scripts: dict[str, Script] = {}
        self.unsubmitted: set[str] = set()  # known, but expected to be enqueued by something else
        self.passes = here.folder / f"passes-{self.number}"
        self.passes.touch()
        self._victim_at = victim
        self._victim: BaseProcess | None = None
        self._over: asyncio.Task[int] | None = None
        self._others: list[BaseProcess] = []
        self._passed: Counter[str] = Counter()
        self._read_to = 0

    # what a scenario does

    def id(self, name: str) -> str:
        return f"r{self.number}-{name}"

    async def submit(self, name: str, script: Script | None = None, *, queue: str = "jobs", **more: Any) -> str:
        job = self.expect(name, script)
        await self.world.client.submit(description(**more), job_id=job, queue=queue)
        return job

    def expect(self, name: str, script: Script | None = None) -> str:
        """A job that the scenario enqueues in its own way."""
        job = self.id(name)
        self.scripts[job] = self.world.runtime.scripts[job] = script or Script()
        return job

    def plant(self, name: str, *, days: float) -> Path:
        """An object in the store, as old as that."""
        path = self.world.folder / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
        then = time.time() - days * 86400
        os.utime(path, (then, then))
        return path

    async def cancel(self, job: str) -> None:
        self.scripts[job].canceled = True
        await self.world.client.cancel(job, by="a test")

    def victim(self, *, constants: Mapping[str, object] | None = None, **settings: str) -> None:
        """Start the worker that may be killed."""
        assert self._victim is None
        self._victim = self._start(self._victim_at, {**CONSTANTS, **(constants or {})}, settings)
        self._over = asyncio.create_task(worker_process.ended(self._victim))

    def other(self, *, constants: Mapping[str, object] | None = None, **settings: str) -> BaseProcess:
        """Start a worker that nobody observes."""
        process = self._start(None, {**CONSTANTS, **(constants or {})}, settings, passes=self.world.folder / "healthy")
        self._others.append(process)
        return process

    def signal_victim(self, number: int) -> None:
        """To a process that is there no more: nothing."""
        process = self._victim
        if process is not None and process.is_alive():
            assert process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    async def when(self, condition: Callable[[], Awaitable[Any] | Any], what: str) -> None:
        """Until it holds; states of Redis and of the cluster have no event.

        Raises:
            VictimDied: it never will.
        """
        # No asyncio.timeout around calls of redis-py: it may swallow the one cancellation that there is.
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if self._over is not None and self._over.done():
                raise VictimDied
            if found:
                return
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")

    async def gone(self) -> None:
        """Until the victim has ended by itself, as it should here."""
        assert self._over is not None
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([self._over])

    async def alive(self, seconds: float) -> bool:
        """Whether the victim has not ended by itself meanwhile."""
        assert self._over is not None
        await asyncio.wait([self._over], timeout=seconds)
        return not self._over.done()

    async def worker(self) -> str:
        """The name of the worker that has a live lease, once there is one."""
        await self.when(lambda: self.redis.zcount(wire.LEASES_KEY, time.time(), "+inf"), "a worker has its lease")
        names = await self.redis.zrevrange(wire.LEASES_KEY, 0, 0)
        return str(names[0].decode())

    async def pause(self, seconds: float) -> None:
        """Let a fault last; cut short by the victim's death."""
        assert self._over is not None
        await asyncio.wait([self._over], timeout=seconds)
        if self._over.done():
            raise VictimDied

    async def passed(self, point: str, times: int = 1, *, phase: str = BEFORE) -> None:
        """Until the victim has come to this point so often, or past it."""
        if point not in _ALL:
            raise LookupError(f"{point}: no such await point any more; mend the scenario that waits for it")
        await self.when(lambda: self._count_passes(point, phase) >= times, f"{point} is passed {times} times")

    def _count_passes(self, point: str, phase: str) -> int:
        with self.passes.open(encoding="ascii") as file:
            file.seek(self._read_to)
            # A process writes whole lines; the last one may be under way all the same.
            whole = file.read().rpartition("\n")[0]
        self._read_to += len(whole) + bool(whole)
        self._passed.update(whole.split("\n"))
        return self._passed[f"{point} {phase}"]

    async def status(self, job: str) -> str:
        return (await self.redis.hget(f"rq:job:{job}", "status") or b"").decode()

    async def ended(self, *jobs: str) -> None:
        """Until these jobs, or all, have their final status and their pods are gone."""
        await self.when(lambda: self._have_ended(jobs or tuple(self.scripts)), "the jobs have ended")

    async def running(self, job: str, container: str = "run") -> None:
        await self.when(lambda: self.world.runtime.of(job, container), f"{container} of {job} runs")

    async def logged(self, job: str, text: str, container: str = "run", attempt: int = 1) -> None:
        """Until this line is in the live log."""

        async def found() -> bool:
            entries = await self.redis.xrange(f"dynapod:log:{job}:{attempt}:{container}")
            return any(text.encode() in fields[b"d"] for _, fields in entries)

        await self.when(found, f"{text!r} of {job} is logged")

    async def _have_ended(self, jobs: tuple[str, ...]) -> bool:
        pipeline = self.redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.hget(f"rq:job:{job}", "status")
        statuses = dict(zip(jobs, await pipeline.execute(), strict=True))
        over = all(s in _JOB_STATES or self.scripts[job].deleted for job, s in statuses.items())
        return over and not self.pods()

    def pods(self) -> list[str]:
        return [key[1] for key, _ in self.world.cluster.store[PODS].sorted(NAMESPACE)]

    async def delete_pods(self) -> None:
        """Somebody deletes all pods at once."""
        api = await KubernetesApi.connect(NAMESPACE, kubeconfig=self.world.cluster.kubeconfig())
        try:
            for key, pod in self.world.cluster.store[PODS].sorted(NAMESPACE):
                await api.delete_pod(key[1], pod.obj["metadata"]["uid"], grace_seconds=0)
        finally:
            await api.close()

    # around it

    def _start(
        self,
        victim: Victim | None,
        constants: Mapping[str, object],
        settings: Mapping[str, str],
        passes: Path | None = None,
    ) -> BaseProcess:
        here = self.world
        usual = {
            "redis_url": here.door.url,
            "kubeconfig": str(here.kubeconfig),
            "policy": str(here.policy()),
            "store": str(here.folder / "store"),
            "lease_seconds": str(LEASE_S),
            "health_port": "0",
            "queues": "jobs",
        }
        log = here.folder / f"worker-{self.number}.log"
        return worker_process.start(Order({**usual, **settings}, passes or self.passes, log, victim, constants))

    async def dismiss(self) -> bool:
        """End the scenario's workers; True when the victim had been killed where it should."""
        killed = False
        if self._over is not None:
            if self._victim_at is None or not self._over.done():
                self.signal_victim(15)
            _, late = await asyncio.wait([self._over], timeout=LEAVE_S)
            if late:
                self.signal_victim(9)
                await asyncio.wait([self._over])
                if self._victim_at is None:
                    raise TimeoutError(f"the worker does not leave within {LEAVE_S:g} s of SIGTERM")
            killed = self._over.result() == -9 and not late
        for process in self._others:
            process.kill()
            process.join()
        self._others.clear()
        return killed

    async def settle(self) -> list[str]:
        """A healthy worker takes over; what is wrong afterwards."""
        self._over = None
        # Some minutes pass: who had begun to tidy up is dead, and its turn is over.
        for lock in [key async for key in self.redis.scan_iter("dynapod:maintenance*")]:
            await self.redis.delete(lock)
        healthy = self.other()
        self.world.runtime.release()
        found: list[str] = []
        deadline = time.monotonic() + SETTLE_S
        while not await self._settled():
            if time.monotonic() > deadline:
                found.append(f"not settled within {SETTLE_S:g} s")
                break
            self.world.runtime.release()
            await asyncio.sleep(POLL_S)
        found += await problems(self.world, self.scripts)
        healthy.terminate()
        async with asyncio.timeout(LEAVE_S):
            await worker_process.ended(healthy)
        self._others.clear()
        return found

    async def _settled(self) -> bool:
        return await self._have_ended(tuple(self.scripts)) and not await left_keys(self.redis)


def description(**more: Any) -> dict[str, Any]:
    """A job's description; what its containers do is in its script."""
    return {"name": "kill", "image": "local", "steps": [{"name": "run", "run": "true"}], **more}


def lines(count: int, width: int = 60) -> tuple[str, ...]:
    """So many lines, all different."""
    return tuple(f"line {number} ".ljust(width, ".") for number in range(count))


def service(name: str = "db") -> list[dict[str, Any]]:
    """A description's services."""
    return [{"name": name, "image": "local"}]


def held(*lines: str, exit_code: int = 0, last: tuple[str, ...] = ("done",)) -> Start:
    """A start that lasts until it is released."""
    return Start(lines or ("hello",), 0.0, exit_code, last, held=True)


async def perform(here: World, scenario: Scenario, victim: Victim | None) -> tuple[bool, list[str], Path]:
    """One run: whether the victim was killed, what was wrong, and the file with the points that it passed."""
    await here.redis.flushall()
    await here.redis.script_flush()  # so that a run does not depend on those before it
    here.runtime.scripts.clear()
    here.runtime.ledger.clear()
    stage = Stage(here, victim)
    found: list[str] = []
    try:
        await scenario(stage)
    except VictimDied:
        if victim is None:
            found.append("the worker died, and nobody had killed it")
    except TimeoutError as error:
        found.append(str(error) or "the scenario came to no end")
    finally:
        here.heal()
    try:
        killed = await stage.dismiss()
    except TimeoutError as error:
        killed = False
        found.append(str(error))
    if victim is None or killed:
        found += await stage.settle()
    else:
        await stage.settle()
    return killed, found, stage.passes

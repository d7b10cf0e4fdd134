"""Everything goes wrong at once, by seed: what Redis and the API's own log say afterwards must be consistent.

DYNAPOD_FAULT_JOBS (number of jobs) and DYNAPOD_FAULT_SEEDS (comma separated) make it larger.
"""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from devcluster.audit import Fault, FaultPlan, RequestFacts
from devcluster.resources import PODS
from devcluster.sleep_runtime import SleepRuntime
from devcluster.status_error import StatusError, expired
from runner_spec import wire
from runner_spec.names import pod_name
from tests.integration.clusters import LEASE_S, NAMESPACE, Site, site
from tests.integration.worlds import job

pytestmark = [pytest.mark.redis, pytest.mark.timeout(600)]

JOBS = int(os.environ.get("DYNAPOD_FAULT_JOBS", "150"))
SEEDS = [int(seed) for seed in os.environ.get("DYNAPOD_FAULT_SEEDS", "1").split(",")]
WORKERS = 3
CANCELED = 0.1
SUFFERING_S = JOBS / 12
PATIENCE_S = 40.0 + JOBS / 5


def faults(seed: int) -> FaultPlan:
    """Every kind of request fails in its own ways; a request that failed may be sent again, and fail again."""
    dice = random.Random(seed)
    away = StatusError(500, "InternalError", "etcd is away")
    busy = StatusError(429, "TooManyRequests", "slow down")

    def plan(request: RequestFacts) -> Fault | None:
        if request.resource != "pods":
            return None
        luck = dice.random()
        if request.verb in {"create", "delete"}:
            found = [Fault(lose_reply=True)] * 3 + [Fault(error=away), Fault(error=busy), Fault(delay=1.0)]
            found.append(Fault(delay=1.0, lose_reply=True))
            return dice.choice(found) if luck < 0.3 else None
        if request.verb == "watch":
            found = [Fault(cut_after=dice.uniform(0.1, 3.0))] * 8 + [Fault(error=away)]
            found.append(Fault(error=expired("too old resource version")))
            return dice.choice(found) if luck < 0.8 else None
        return dice.choice([Fault(delay=0.7), Fault(error=away)]) if luck < 0.3 else None

    return plan


class Chaos:
    """Workers that are killed, paused beyond their lease, or told to leave; there are always some that live."""

    def __init__(self, here: Site, stack: AsyncExitStack, seed: int) -> None:
        self.here = here
        self.stack = stack
        self.dice = random.Random(seed + 1)
        self.workers: list[asyncio.subprocess.Process] = []

    async def hire(self) -> None:
        self.workers.append(await self.stack.enter_async_context(self.here.worker_process()))

    async def strike(self) -> None:
        victim = self.dice.choice(self.workers)
        what = self.dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
        if victim.returncode is not None:
            self.workers.remove(victim)
        else:
            victim.send_signal(what)
            if what is signal.SIGSTOP:
                await asyncio.sleep(LEASE_S * self.dice.uniform(0.5, 1.5))
                victim.send_signal(signal.SIGCONT)
            else:
                self.workers.remove(victim)
        if len(self.workers) < WORKERS:
            await self.hire()

    async def soothe(self) -> None:
        """Nobody stays paused, and one healthy worker is there."""
        for worker in self.workers:
            if worker.returncode is None:
                worker.send_signal(signal.SIGCONT)
        await self.hire()

    async def rage(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.dice.uniform(0.3, 1.5))
            await self.strike()


async def submit_all(here: Site, seed: int) -> dict[str, bool]:
    """Submit jobs as long as the workers suffer; returns their ids, and whether they were asked to stop."""
    dice = random.Random(seed + 2)
    asked = {}
    canceling = []
    for number in range(JOBS):
        await asyncio.sleep(dice.uniform(0.0, 2 * SUFFERING_S / JOBS))
        job_id = await here.client.submit(job("true"), job_id=f"job-{number}")
        asked[job_id] = dice.random() < CANCELED
        if asked[job_id]:
            canceling.append(asyncio.create_task(cancel(here, job_id, dice.uniform(0.0, 1.5))))
    await asyncio.gather(*canceling)
    return asked


async def cancel(here: Site, job_id: str, delay: float) -> None:
    await asyncio.sleep(delay)
    await here.client.cancel(job_id, by="a test")


async def until(condition: Any, what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - states of Redis and of the cluster have no event
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {PATIENCE_S} s: {what}")


async def all_ended(here: Site) -> bool:
    counts = [await here.connections.control.zcard(f"rq:{name}:jobs") for name in ("finished", "failed", "canceled")]
    return sum(counts) == JOBS


async def no_pods(here: Site) -> bool:
    return here.cluster.pods == 0


async def check_job(here: Site, job_id: str, *, canceled: bool) -> set[str]:
    """One recorded end, and a ledger that explains each attempt; returns the names that its pods may have."""
    redis: Any = here.connections.control
    status = (await redis.hget(f"rq:job:{job_id}", "status") or b"").decode()
    newest = int(await redis.hget(f"rq:job:{job_id}", wire.FIELD_ATTEMPT) or 0)
    found = await redis.hgetall(wire.attempts_key(job_id))
    ledger = {int(number): json.loads(entry) for number, entry in found.items()}
    if canceled and status == "canceled":  # before anybody had claimed it
        assert ledger == {}, job_id
        return set()
    assert status in ({"finished", "stopped"} if canceled else {"finished"}), (job_id, status, ledger)
    assert sorted(ledger) == list(range(1, newest + 1)), (job_id, newest, ledger)
    last = ledger.pop(newest)
    verdict = {"finished": "succeeded", "stopped": "canceled"}[status]
    assert last["outcome"]["verdict"] == verdict, (job_id, last)
    for number, entry in ledger.items():
        assert entry["action"] == "mint", (job_id, number, entry)
        assert entry["outcome"]["reason"] in {"worker-lost", "unanswered"}, (job_id, number, entry)
    return {pod_name(job_id, number) for number in range(1, newest + 1)}


async def check(here: Site, asked: dict[str, bool]) -> None:
    redis: Any = here.connections.control
    allowed: set[str] = set()
    for job_id, canceled in asked.items():
        allowed |= await check_job(here, job_id, canceled=canceled)
    created = Counter(here.created_pods())
    assert [name for name, count in created.items() if count > 1] == []
    assert set(created) <= allowed
    ends = Counter(
        fields[b"job"].decode()
        for _, fields in await redis.xrange(wire.EVENTS_KEY)
        if fields[b"status"] in {b"finished", b"stopped", b"failed"}
    )
    assert [job_id for job_id, count in ends.items() if count != 1] == []
    left = [key async for key in redis.scan_iter("rq:execution*")]
    left += [key async for key in redis.scan_iter("rq:worker:*:executions")]
    assert left == []
    assert await redis.zcard("rq:wip:jobs") == await redis.llen("rq:queue:jobs") == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_goes_wrong_each_job_ends_once_with_at_most_one_pod_per_attempt(
    seed: int, redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(site(redis_url, tmp_path, SleepRuntime(0.7), faults(seed)))
            chaos = Chaos(here, stack, seed)
            for _ in range(WORKERS):
                await chaos.hire()
            rage = asyncio.create_task(chaos.rage())
            asked = await submit_all(here, seed)
            rage.cancel()
            await asyncio.wait([rage])
            await chaos.soothe()
            await until(lambda: all_ended(here), "each job has ended")
            await until(lambda: no_pods(here), "no pod is left")
            await check(here, asked)

    asyncio.run(test())


def test_an_id_enqueued_again_while_it_runs_ends_the_older_pod_on_the_same_worker(
    redis_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(60.0)) as here, here.worker():
            for attempt in (1, 2):
                await here.client.submit(job("true"), job_id="again", unique=False)
                await until(lambda number=attempt: has_run(here, "again", number), f"attempt {attempt} runs")
            await until(lambda: only_pod(here, pod_name("again", 2)), "the older pod is gone")

    asyncio.run(test())


async def has_run(here: Site, job_id: str, attempt: int) -> bool:
    status = await here.client.status(job_id)
    return (status.attempt, status.stage) == (attempt, "run")


async def only_pod(here: Site, name: str) -> bool:
    return [key[1] for key, _ in here.cluster.store[PODS].sorted(NAMESPACE)] == [name]


def test_a_second_creation_is_never_sent_once_the_pod_was_seen(redis_url: str, tmp_path: Path) -> None:
    """The reply is lost late: when the request would be sent again, the pod has run, was recorded and deleted."""

    def slow_create(request: RequestFacts) -> Fault | None:
        return Fault(lose_reply=True) if request.verb == "create" and request.resource == "pods" else None

    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.0), slow_create) as here, here.worker():
            for number in range(20):
                await here.client.submit(job("true"), job_id=f"quick-{number}")
            for number in range(20):
                assert (await here.client.wait(f"quick-{number}", interval=0.05)).status == "finished"
            await until(lambda: no_pods(here), "no pod is left")
            assert Counter(here.created_pods()) == {pod_name(f"quick-{number}", 1): 1 for number in range(20)}

    asyncio.run(test())


@pytest.mark.parametrize("attempt", ["99999999999", "-7", "1.5", "nan", "x"])
def test_an_attempt_number_made_up_by_a_producer_harms_nobody(attempt: str, redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(0.0)) as here:
            await here.client.submit(job("true"), job_id="odd")
            redis: Any = here.connections.control
            await redis.hset("rq:job:odd", wire.FIELD_ATTEMPT, attempt)
            async with here.worker(), asyncio.timeout(PATIENCE_S):
                assert (await here.client.wait("odd", interval=0.05)).status == "finished"

    asyncio.run(test())

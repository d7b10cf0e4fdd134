"""Redis is away: at the start, in the middle, and back again."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession

from adapters.redis_outage import FIRST_PAUSE, JITTER, LONGEST_PAUSE, Outage
from devcluster.resources import PODS
from devcluster.sleep_runtime import SleepRuntime
from tests.integration.clusters import Site, site
from tests.integration.worlds import job
from tests.redis_production.servers import RedisProcess, free_port, within
from worker.service import run_worker
from worker.settings import WorkerSettings

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

JOBS = 30
BACK_S = 40.0
PODS_LAST_S = 4.0


async def until(condition: Callable[[], bool], what: str) -> None:
    async with within(30, what):
        while not condition():  # noqa: ASYNC110 - states of the cluster and of a worker, which have no event
            await asyncio.sleep(0.05)


async def ready(port: int, service: "asyncio.Task[None]", holds: Callable[[int, str], bool]) -> str:
    """What /readyz says, once it says what is waited for."""
    async with within(20, "what /readyz is expected to say"), ClientSession() as session:
        while True:
            if service.done():
                service.result()
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as reply:
                    text = await reply.text()
                    if holds(reply.status, text):
                        return text
            except OSError:
                await asyncio.sleep(0)  # it does not listen yet
            await asyncio.sleep(0.05)


def ended(here: Site) -> bool:
    return all(pod.obj["status"]["phase"] == "Succeeded" for _, pod in here.cluster.store[PODS].sorted(None))


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_pods_that_end_while_redis_is_away_are_each_recorded_once_when_it_is_back(tmp_path: Path, fsync: str) -> None:
    async def scenario() -> None:
        runtime = SleepRuntime(PODS_LAST_S)
        with RedisProcess(tmp_path / "redis", "appendonly yes", f"appendfsync {fsync}") as redis:
            async with site(redis.url, tmp_path, runtime) as here, here.worker() as worker:
                jobs = [await here.client.submit(job("sleep 2")) for _ in range(JOBS)]
                await until(lambda: len(here.created_pods()) == JOBS, "all pods exist")
                if fsync == "everysec":
                    await asyncio.sleep(1.2)  # what Redis promises to lose at most
                redis.stop()
                await until(lambda: "Redis is away" in worker.why_not, "the worker knows")
                await until(lambda: ended(here), "all pods have ended")
                assert worker.supervisor.in_flight == JOBS
                redis.start()
                async with within(BACK_S, "every end is recorded"):
                    ends = [await here.client.wait(job_id, interval=0.1) for job_id in jobs]
                assert {(end.status, end.attempt) for end in ends} == {("finished", 1)}
                assert len(here.created_pods()) == JOBS
                assert await here.connections.control.xlen("dynapod:events") == JOBS
                await until(lambda: not worker.why_not, "it is ready again")

    asyncio.run(scenario())


def test_a_worker_whose_redis_is_not_there_yet_waits_says_why_and_then_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        port, redis = free_port(), RedisProcess(tmp_path / "redis", "appendonly yes")
        async with site(redis.url, tmp_path) as here:
            settings = WorkerSettings(
                redis_url=redis.url,
                kubeconfig=str(here.kubeconfig),
                policy=str(here.policy),
                store=str(tmp_path / "store"),
                health_port=port,
            )
            service = asyncio.create_task(run_worker(settings))
            why = await ready(port, service, lambda status, text: status == 503 and "Redis is away" in text)
            assert str(redis.port) in why
            spent = cpu_seconds()
            await asyncio.sleep(3)  # the very thing under test: how much it does meanwhile
            assert cpu_seconds() - spent < 0.5
            with redis:
                await ready(port, service, lambda status, _: status == 200)
                done = await here.client.wait(await here.client.submit(job("true")), interval=0.05)
                assert done.status == "finished"
                os.kill(os.getpid(), signal.SIGTERM)
                async with within(10, "it leaves"):
                    await service

    asyncio.run(scenario())
    lines = [record for record in caplog.records if getattr(record, "action", "") == "redis_away"]
    assert 1 <= len(lines) <= 6


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_sigterm_ends_a_worker_at_once_while_redis_is_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        redis = RedisProcess(tmp_path / "redis", "appendonly yes").start()
        try:
            async with site(redis.url, tmp_path) as here, here.worker_process() as early:
                submitted = await here.client.submit(job("sleep 30"))
                async with within(40, "a job runs"):
                    async for status in here.client.changes(submitted, interval=0.05):
                        if status.stage == "run":
                            break
                redis.stop()
                async with here.worker_process() as late:
                    for process in (early, late):
                        await asyncio.sleep(1.5)  # so that both are in the middle of their waiting
                        process.send_signal(signal.SIGTERM)
                        async with within(5, "the end of a worker that was told to leave"):
                            # Before Python has come to our own code, the signal is the system's.
                            assert await process.wait() in ({0} if process is early else {0, -signal.SIGTERM})
        finally:
            redis.stop()

    asyncio.run(scenario())


def test_many_who_find_redis_away_say_so_once_a_step_and_wake_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        outage, tries = Outage(), 0

        async def loop() -> None:
            nonlocal tries
            while not back.is_set():
                tries += 1
                await outage.pause(ConnectionError("refused"))

        back = asyncio.Event()
        loops = [asyncio.create_task(loop()) for _ in range(20)]
        await asyncio.sleep(FIRST_PAUSE * 4)
        assert outage.why == "Redis is away: refused"
        assert tries <= 20 * 4
        back.set()
        outage.over()
        async with asyncio.timeout(FIRST_PAUSE):
            await asyncio.gather(*loops)
        assert outage.why == ""

    asyncio.run(scenario())
    said = [record.getMessage() for record in caplog.records]
    assert 2 <= len(said) <= 5
    assert said[0].startswith("Redis is away: refused")
    assert said[-1].startswith("over after")


def test_pauses_grow_to_their_cap() -> None:
    now = 0.0
    outage = Outage()
    pauses: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.redis_outage.time.monotonic", lambda: now)
        for _ in range(10):
            pauses.append(outage.report(ConnectionError("refused")))
            now += pauses[-1]
    assert FIRST_PAUSE <= pauses[0] < 2 * FIRST_PAUSE <= pauses[1]
    assert LONGEST_PAUSE <= pauses[-1] <= LONGEST_PAUSE * (1 + JITTER)

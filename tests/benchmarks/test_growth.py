"""What grows, measured at a tiny size."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from adapters import redis_server
from benchmarks.crowd import enqueue
from benchmarks.growth_queue import finished, waiting_figures
from benchmarks.growth_queue import waiting as measure_waiting
from benchmarks.growth_watch import Flow
from benchmarks.growth_watch import figures as watch_figures
from benchmarks.growth_workers import figures as worker_figures
from benchmarks.hollow_site import DESCRIPTION
from benchmarks.suite import Options
from worker.client import JobClient
from worker.queue import JobQueue

pytestmark = pytest.mark.redis


def test_a_crowd_is_made_of_jobs_as_a_producer_submits_them(redis_url: str) -> None:
    async def test() -> None:
        async with redis_server.connect(redis_url) as connections:
            redis = connections.control
            plain = await JobClient(redis).submit(dict(DESCRIPTION), queue="jobs")
            await enqueue(redis, dict(DESCRIPTION), 3)
            waiting: Any = await redis.lrange("rq:queue:jobs", 0, -1)
            ids = [name.decode() for name in waiting]
            assert ids[0] == plain
            assert len(set(ids)) == 4
            assert {len(name) for name in ids} == {len(plain)}
            dates = {b"created_at", b"enqueued_at"}
            hashes = [await redis.hgetall(f"rq:job:{name}") for name in ids]
            first, *others = [{k: v for k, v in found.items() if k not in dates} for found in hashes]
            assert others == [first] * 3
            assert await redis.smembers("rq:queues") == {b"rq:queue:jobs"}
            async with JobQueue(connections, ["jobs"], uuid.uuid4().hex) as queue:
                claims = await queue.claim(10)
            assert [claim.payload for claim in claims] == [dict(DESCRIPTION)] * 4

    asyncio.run(test())


def test_waiting_and_finished_jobs_are_measured(tmp_path: Path) -> None:
    options = Options(2, 0.0001, tmp_path, lambda _: None)
    found = asyncio.run(measure_waiting(options))
    assert all(len(figure.values) == 2 and figure.value > 0 for figure in found[1:])
    assert 500 < found[0].value < 5000
    done = asyncio.run(finished(options))
    assert 500 < done[0].value < 20_000
    assert all(len(figure.values) == 2 for figure in done[1:])


def test_the_longest_queue_is_compared_with_the_shortest() -> None:
    *_, ratio = waiting_figures([10, 100, 1000], [[(20.0, 90.0)], [(25.0, 90.0)], [(40.0, 95.0)]], 1000.0)
    assert ratio.value == 2
    assert ratio.missed


def test_a_change_costs_what_it_adds_to_a_worker_at_rest() -> None:
    share, each, p50, p99 = watch_figures(10, [Flow(0.1, 0.0, [0.01])], [Flow(0.3, 1000.0, [0.01, 0.02, 0.09])])
    assert share.value == 0.3
    assert each.value == pytest.approx(200)
    assert (p50.value, p99.value) == (20, 90)


def test_fifty_workers_are_compared_with_one() -> None:
    assert [round(figure.value, 1) for figure in worker_figures(10, [100.0], [160.0], [50.0])] == [100, 160, 1.6, 50]

"""Scheduling and cleaning: what stock rq would fail or lose is put back, and nothing that runs is touched."""

import asyncio
import os

import pytest
from rq import Queue, SimpleWorker
from rq.registry import clean_registries

from tests.worker.queue.scene import Place, Scene, claim_one, finish, play
from worker.queue import JobQueue


async def clean(queue: JobQueue) -> None:
    """One pass of maintenance, now."""
    await queue._connections.control.delete(
        *await queue._connections.control.keys("dynapod:maintenance*"), "dynapod:none"
    )
    await queue._maintenance.clean(60)


def test_two_workers_move_each_due_job_once(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        ids = [f"j{number}" for number in range(1200)]
        scene.enqueue(*ids)
        await scene.redis.delete("rq:queue:jobs")
        for job_id in ids:
            await scene.redis.hset(f"rq:job:{job_id}", "status", "scheduled")
        await scene.redis.zadd("rq:scheduled:jobs", dict.fromkeys(ids, 1))
        async with scene.worker() as one, scene.worker() as other:
            await asyncio.gather(one.tick(), other.tick())

        assert sorted(await scene.redis.lrange("rq:queue:jobs", 0, -1)) == sorted(name.encode() for name in ids)
        assert await scene.redis.zcard("rq:scheduled:jobs") == 0

    play(place, scenario)


def test_a_queue_that_rqs_own_scheduler_serves_is_left_to_it(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await scene.redis.delete("rq:queue:jobs")
        await scene.redis.hset("rq:job:a", "status", "scheduled")
        await scene.redis.zadd("rq:scheduled:jobs", {"a": 1})
        await scene.redis.set("rq:scheduler-lock:jobs", "some-scheduler")
        async with scene.worker() as queue:
            await queue.tick()
            assert await scene.redis.llen("rq:queue:jobs") == 0
            await scene.redis.delete("rq:scheduler-lock:jobs")
            await queue.tick()
            assert await scene.redis.llen("rq:queue:jobs") == 1

    play(place, scenario)


def test_scheduled_jobs_that_were_canceled_or_deleted_are_dropped(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("canceled")
        await scene.redis.delete("rq:queue:jobs")
        await scene.redis.hset("rq:job:canceled", "status", "canceled")
        await scene.redis.zadd("rq:scheduled:jobs", {"canceled": 1, "deleted": 1})
        async with scene.worker() as queue:
            await queue.tick()

        assert await scene.redis.keys("rq:queue:jobs") == []
        assert await scene.redis.zcard("rq:scheduled:jobs") == 0

    play(place, scenario)


@pytest.mark.redis
def test_a_job_that_a_killed_stock_worker_had_popped_is_requeued_not_failed(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("popped", "waiting")
        Queue.dequeue_any([scene.rq], None, connection=scene.sync, serializer="json")  # and dies here
        assert await scene.redis.lrange("rq:queue:jobs:intermediate", 0, -1) == [b"popped"]
        async with scene.worker() as queue:
            await clean(queue)
            assert await scene.redis.lrange("rq:queue:jobs", 0, -1) == [b"waiting"]  # it may still be alive
            await scene.redis.set("rq:queue:jobs:intermediate:first_seen:popped", 1)
            await clean(queue)
            assert [claim.job_id for claim in await queue.claim(10)] == ["popped", "waiting"]
            assert await scene.redis.llen("rq:queue:jobs:intermediate") == 0

    play(server, scenario)


@pytest.mark.redis
@pytest.mark.parametrize("steps", ["registered", "started"])
@pytest.mark.parametrize("queues", [("jobs",), ("jobs", "other")])
def test_a_job_that_a_killed_stock_worker_had_started_is_requeued(
    server: Place, steps: str, queues: tuple[str, ...]
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        rq_queues = [Queue(name, connection=scene.sync, serializer="json") for name in queues]
        worker = SimpleWorker(rq_queues, connection=scene.sync, serializer="json")
        worker.register_birth()
        dequeued = Queue.dequeue_any(rq_queues, None, connection=scene.sync, serializer="json")
        assert dequeued is not None
        worker.prepare_execution(dequeued[0])
        if steps == "started":
            worker.prepare_job_execution(dequeued[0], remove_from_intermediate_queue=len(queues) == 1)
        async with scene.worker() as queue:
            await clean(queue)
            assert await queue.claim(10) == []  # its heartbeat is young
            (member,) = await scene.redis.zrange("rq:wip:jobs", 0, -1)
            await scene.redis.zadd("rq:wip:jobs", {member: 1})
            await clean(queue)
            assert [claim.job_id for claim in await queue.claim(10)] == ["a"]

    play(server, scenario)


@pytest.mark.redis
def test_what_a_killed_stock_worker_leaves_of_a_deleted_job_is_removed(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("popped", "started")
        Queue.dequeue_any([scene.rq], None, connection=scene.sync, serializer="json")
        worker = SimpleWorker([scene.rq], connection=scene.sync, serializer="json")
        dequeued = Queue.dequeue_any([scene.rq], None, connection=scene.sync, serializer="json")
        assert dequeued is not None
        worker.prepare_execution(dequeued[0])
        await scene.redis.delete("rq:job:popped", "rq:job:started")
        (member,) = await scene.redis.zrange("rq:wip:jobs", 0, -1)
        await scene.redis.zadd("rq:wip:jobs", {member: 1})
        async with scene.worker() as queue:
            await clean(queue)
            await clean(queue)  # the execution of the second one went with the first pass
            assert await queue.claim(10) == []
            assert await scene.redis.keys("rq:queue:*") == []
            assert await scene.redis.keys("rq:wip:*") == []

    play(server, scenario)


@pytest.mark.redis
def test_a_job_that_was_seen_between_taking_and_starting_is_not_held_against_the_next_of_its_id(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("nightly")
        Queue.dequeue_any([scene.rq], None, connection=scene.sync, serializer="json")
        async with scene.worker() as queue:
            await clean(queue)
            assert 0 < await scene.redis.ttl("rq:queue:jobs:intermediate:first_seen:nightly") <= 180

    play(server, scenario)


@pytest.mark.redis
def test_many_workers_requeue_what_a_killed_stock_worker_left_on_several_queues_once(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        for name in ("jobs", "other"):
            queue = Queue(name, connection=scene.sync, serializer="json")
            queue.enqueue("worker.tasks.run", {}, job_id=f"{name}-popped")
            Queue.dequeue_any([queue], None, connection=scene.sync, serializer="json")
            await scene.redis.set(f"rq:queue:{name}:intermediate:first_seen:{name}-popped", 1)
        workers = [scene.incarnate("jobs", "other") for _ in range(6)]
        for worker in workers:
            await worker.start()
        try:
            await asyncio.gather(*(worker._maintenance._sweep() for worker in workers))
            found = [await worker.claim(10) for worker in workers]
            assert sorted(c.job_id for claims in found for c in claims) == ["jobs-popped", "other-popped"]
        finally:
            for worker in workers:
                await worker.aclose()

    play(server, scenario)


def test_maintenance_of_stock_rq_and_ours_leave_running_jobs_alone(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as alive, scene.worker() as other:
            claim = await claim_one(alive)
            await asyncio.to_thread(clean_registries, scene.rq)
            await clean(other)
            assert await scene.status("a") == "started"
            assert await alive.settle(finish(claim))

    play(place, scenario)


def test_dependents_that_a_dying_worker_left_ready_are_enqueued(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await scene.redis.delete("rq:queue:jobs")
        await scene.redis.hset("rq:job:a", "status", "ready_to_enqueue")
        await scene.redis.zadd("rq:ready:jobs", {"a": 1})
        async with scene.worker() as queue:
            await clean(queue)
            assert [claim.job_id for claim in await queue.claim(10)] == ["a"]

    play(place, scenario)


def test_one_worker_of_many_cleans(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.redis.zadd("rq:finished:jobs", {"old": 1})
        async with scene.worker() as one, scene.worker() as other:
            await one.tick()
            assert await scene.redis.zcard("rq:finished:jobs") == 0
            await scene.redis.zadd("rq:finished:jobs", {"old": 1})
            await other.tick()
            assert await scene.redis.zcard("rq:finished:jobs") == 1  # within the same minute

    play(place, scenario)


def test_another_key_prefix_is_refused() -> None:
    import subprocess  # noqa: PLC0415 - rq reads the variable at import, so this needs a process of its own
    import sys  # noqa: PLC0415

    code = "from worker.queue.keys import require_default_prefix as r; r()"
    environment = {**os.environ, "RQ_KEY_PREFIX": "acme"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "Unset the variable" in done.stderr

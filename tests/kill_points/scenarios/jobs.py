"""Jobs of every kind, with a worker that has nothing in its way."""

import asyncio
from datetime import timedelta
from typing import Any, Final

from rq import Queue
from rq.job import Job
from rq.rate_limit import RateLimit

from devcluster.audit import Fault
from runner_spec import wire
from tests.kill_points.containers import Script, Start
from tests.kill_points.scenarios.faults import FORBIDDEN, on
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, description, held

SECRETS: Final = {"TOKEN": {"secret": "npm", "key": "token"}}
ARTIFACTS: Final = [{"name": "wheel", "paths": ["dist/x.whl"]}]


@scenario
async def ordinary(stage: Stage) -> None:
    await stage.submit("plain")
    await stage.submit("fails", Script((Start(("oh no",), 0.05, 3),)))
    await stage.submit("invalid", steps=[])
    stage.victim()
    await stage.submit("late", Script((Start(("one",), 0.3, last=("two",)),)))
    await stage.ended()


@scenario
async def retried(stage: Stage) -> None:
    runs = (Start(("first",), 0.05, 1), Start(("second",), 0.05))
    await stage.submit("again", Script(runs), retry={"attempts": 2})
    stage.victim()
    await stage.ended()


@scenario
async def artifacts(stage: Stage) -> None:
    await stage.submit("artifacts", artifacts=ARTIFACTS)
    stage.victim()
    await stage.ended()


@scenario
async def secrets(stage: Stage) -> None:
    await stage.submit("secret", Script((Start(("it is hunter2!",), 0.2),), masks=("hunter2",)), secrets=SECRETS)
    stage.victim()
    await stage.ended()


@scenario
async def secrets_unknown(stage: Stage) -> None:
    await stage.submit("secret", Script((Start(("it is hunter2!",), 0.2),), may_have_gaps=True), secrets=SECRETS)
    stage.victim()
    await stage.ended()


@scenario
async def full(stage: Stage) -> None:
    for number in range(3):
        await stage.submit(f"job-{number}", Script((Start(seconds=0.2),)))
    stage.victim(capacity="1")
    await stage.ended()


@scenario
async def full_for_long(stage: Stage) -> None:
    """A worker that takes nothing compares what it holds with Redis all the same."""
    job = await stage.submit("held", Script((held(),)))
    stage.victim(capacity="1", lease_seconds="20")  # adoption compares, too, every third of the lease
    await stage.running(job)
    await stage.passed("worker.queue.job_queue:JobQueue.tick#3")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def quiet(stage: Stage) -> None:
    """Nothing to do for a while, and connections are proved alive."""
    short = {"worker.queue.watcher:PEEK_SECONDS": 0.2, "worker.queue.subscription:IDLE_SECONDS": 0.2}
    stage.victim(constants={**short, "worker.supervisor:WAIT_S": 0.3})
    await stage.passed("worker.queue.subscription:Subscription._listen#3", 2)
    await stage.submit("late")
    await stage.ended()


@scenario
async def many_days(stage: Stage) -> None:
    job = await stage.submit("long", Script((held(),)))
    stage.victim(constants={"worker.queue.job_queue:REFRESH_SECONDS": 0.2, "worker.reflector:WATCH_SECONDS": (1, 1)})
    await stage.running(job)
    await stage.passed("worker.queue.job_queue:JobQueue._refresh#1")
    await stage.passed("worker.reflector:Reflector._watch_until_change#3", 2)
    stage.world.runtime.release(job)
    await stage.ended()


def enqueue(stage: Stage, job: str, **more: Any) -> Any:
    """As a producer with rq does it."""
    queue = Queue("jobs", connection=stage.world.connections.sync, serializer="json")
    return queue.enqueue("worker.tasks.run", description(), job_id=job, **more)


@scenario
async def dependents(stage: Stage) -> None:
    first = stage.expect("first", Script((held(),)))
    second = stage.expect("second")
    await asyncio.to_thread(enqueue, stage, first)
    await asyncio.to_thread(enqueue, stage, second, depends_on=first)
    stage.victim()
    await stage.running(first)
    stage.world.runtime.release(first)
    await stage.ended()


@scenario
async def dependents_unanswered(stage: Stage) -> None:
    first = stage.expect("first", Script((held(),)))
    second = stage.expect("second")
    await asyncio.to_thread(enqueue, stage, first)
    await asyncio.to_thread(enqueue, stage, second, depends_on=first)
    stage.victim()
    await stage.running(first)
    moving = b"ZREM\r\n$16\r\nrq:deferred:jobs"  # as no other transaction
    stage.world.door.lose_reply_of(b"EXEC\r\n", after=moving, then_shut=True)
    stage.world.runtime.release(first)
    await stage.passed("worker.queue.commit:Committer._commit_slowly#3")
    stage.world.door.open()
    await stage.ended()


@scenario
async def scheduled(stage: Stage) -> None:
    job = stage.expect("later")
    queue = Queue("jobs", connection=stage.world.connections.sync, serializer="json")
    await asyncio.to_thread(queue.enqueue_in, timedelta(0), "worker.tasks.run", description(), job_id=job)
    stage.victim()
    await stage.ended()


@scenario
async def rate_limited(stage: Stage) -> None:
    limit = RateLimit("slot", 1)
    for name in ("first", "second"):
        await asyncio.to_thread(enqueue, stage, stage.expect(name), rate_limit=limit)
    job = stage.expect("later")
    queue = Queue("jobs", connection=stage.world.connections.sync, serializer="json")
    await asyncio.to_thread(
        queue.enqueue_in, timedelta(0), "worker.tasks.run", description(), job_id=job, rate_limit=limit
    )
    stage.victim()
    await stage.ended()


@scenario
async def suspended(stage: Stage) -> None:
    await stage.redis.set("rq:suspended", "1")
    try:
        await stage.submit("plain")
        stage.victim(constants={"worker.queue.watcher:SUSPENDED_POLL": 0.2})
        await stage.passed("worker.queue.watcher:Watcher.wait_for_resume#3", 2)
    finally:
        await stage.redis.delete("rq:suspended")
    await stage.ended()


@scenario
async def enqueued_again(stage: Stage) -> None:
    """The older execution is gone, and its pod with it."""
    job = await stage.submit("again", Script((held(), Start(("second",), 0.3)), may_have_gaps=True))
    stage.victim()
    await stage.running(job)
    await stage.world.client.submit(description(), job_id=job)
    await stage.ended()


@scenario
async def record_deleted(stage: Stage) -> None:
    """The job is deleted while its pod runs."""
    job = await stage.submit("deleted", Script((held(),), deleted=True))
    stage.victim()
    await stage.logged(job, "hello")
    found = await asyncio.to_thread(Job.fetch, job, stage.world.connections.sync, "json")
    await asyncio.to_thread(found.delete)
    await stage.ended()


@scenario
async def record_deleted_before_its_end_is_recorded(stage: Stage) -> None:
    """What this worker does not hold any more it does not record, and for a while Redis does not say what was."""
    stage.world.faults = on("log", Fault(error=FORBIDDEN))
    job = await stage.submit("deleted", Script((Start(("hello",), 0.1),), deleted=True))
    stage.victim()
    await stage.passed("worker.log_streams:LogStreams._read_on#1")
    found = await asyncio.to_thread(Job.fetch, job, stage.world.connections.sync, "json")
    await asyncio.to_thread(found.delete)
    await stage.passed("worker.queue.job_queue:JobQueue.commands#1", 2)  # it knows
    stage.world.door.lose_reply_of(b"HGET", wire.attempts_key(job).encode())
    stage.world.faults = None
    await stage.ended()

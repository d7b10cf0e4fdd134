"""What workers tidy up: old objects, pods and jobs that nobody holds."""

import asyncio

from devcluster.audit import Fault
from runner_spec import storage, wire
from tests.kill_points.containers import Script
from tests.kill_points.instrument import AFTER
from tests.kill_points.scenarios.adoption import predecessor
from tests.kill_points.scenarios.conditions import finished
from tests.kill_points.scenarios.faults import FORBIDDEN, on
from tests.kill_points.scenarios.jobs import enqueue
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held


@scenario
async def retention(stage: Stage) -> None:
    """What nobody is promised any more goes; a job that has not ended keeps even what is old."""
    first, job = stage.expect("first", Script((held(),))), stage.expect("waits")
    await asyncio.to_thread(enqueue, stage, first)
    await asyncio.to_thread(enqueue, stage, job, depends_on=first)
    old = [
        stage.plant(storage.manifest_path(stage.id("old"), 1), days=4000),
        stage.plant(storage.log_path(stage.id("old"), 1, "run", 0), days=4000),
        stage.plant(storage.cache_entry_path("scope", stage.id("key"), "tar.gz"), days=4000),
    ]
    stage.plant(storage.log_path(job, 1, "earlier", 0), days=4000)
    stage.victim(constants={"worker.retention:INTERVAL_S": 0.6})
    await stage.passed("worker.retention:Retention._live#2")
    await stage.when(lambda: not any(path.exists() for path in old), "what is old is deleted")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def pod_of_a_worker_that_nobody_remembers(stage: Stage) -> None:
    stage.world.faults = on("delete", Fault(error=FORBIDDEN))
    job = await stage.submit("short")
    await predecessor(stage, lambda: finished(stage, job), "the job has ended")
    await stage.redis.delete(wire.LEASES_KEY)
    stage.world.faults = None
    stage.victim()
    await stage.ended()


@scenario
async def started_without_an_execution(stage: Stage) -> None:
    """What a failover may leave: a job that nobody holds."""
    job = await stage.submit("plain")
    await stage.redis.lrem("rq:queue:jobs", 0, job)
    await stage.redis.hset(f"rq:job:{job}", "status", "started")
    stage.victim()
    await stage.ended()


@scenario
async def canceled_registry(stage: Stage) -> None:
    """Jobs canceled in the queue are forgotten one day: each is looked at."""
    job = await stage.submit("canceled")
    await stage.cancel(job)
    await stage.submit("plain")
    stage.victim()
    await stage.passed("worker.queue.census:Census._expire_canceled#2", phase=AFTER)
    await stage.ended()

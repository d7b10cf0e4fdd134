"""Workers that are asked to leave, and jobs that are asked to stop."""

import asyncio
import signal

from rq.command import send_shutdown_command, send_stop_job_command

from devcluster.audit import Fault
from tests.kill_points.containers import Script
from tests.kill_points.scenarios.conditions import says
from tests.kill_points.scenarios.faults import BUSY, FORBIDDEN, on
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held


@scenario
async def leaves(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.logged(job, "hello")
    stage.signal_victim(signal.SIGTERM)
    await stage.gone()


@scenario
async def leaves_at_once(stage: Stage) -> None:
    stage.victim(policy=str(stage.world.policy(gateway_url="http://gateway.invalid")))
    await stage.passed("worker.gateway_address:pin#2")
    stage.signal_victim(signal.SIGTERM)
    await stage.gone()


@scenario
async def shutdown(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.running(job)
    for name in await stage.redis.smembers("rq:workers"):
        worker = name.decode().removeprefix("rq:worker:")
        await asyncio.to_thread(send_shutdown_command, stage.world.connections.sync, worker)
    await stage.gone()


@scenario
async def stopped_while_it_runs(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),), may_have_gaps=True))
    stage.victim()
    await stage.running(job)
    await stage.cancel(job)
    await stage.ended()


@scenario
async def stopped_through_rq(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),), canceled=True, may_have_gaps=True))
    stage.victim()
    await stage.running(job)
    await asyncio.to_thread(send_stop_job_command, stage.world.connections.sync, job)
    await stage.ended()


@scenario
async def stopped_in_the_queue(stage: Stage) -> None:
    job = await stage.submit("queued")
    await stage.cancel(job)
    other = await stage.submit("other")
    stage.victim()
    await stage.ended(job, other)


@scenario
async def stopped_before_it_is_created(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=BUSY))
    job = await stage.submit("waits")
    stage.victim()
    await stage.when(lambda: says(stage, job, b"cannot create"), "the job says why it waits")
    await stage.cancel(job)
    await stage.ended()


@scenario
async def stop_that_is_refused(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),), may_have_gaps=True))
    stage.victim()
    await stage.running(job)
    stage.world.faults = on("delete", Fault(error=FORBIDDEN))
    await stage.cancel(job)
    await stage.passed("worker.supervisor:Supervisor._delete#2")
    stage.world.faults = None
    await stage.ended()

"""Redis is away, does not answer, has forgotten its scripts, refuses."""

from runner_spec import wire
from runner_spec.log_cursor import LogCursor
from tests.kill_points.containers import Script
from tests.kill_points.scenarios.faults import hold_script, lose_reply_of_script
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held, lines
from worker.log_store import LogEntry


@scenario
async def redis_away(stage: Stage) -> None:
    job = await stage.submit("talks", Script((held(*lines(5)),)))
    stage.victim()
    await stage.running(job)
    stage.world.door.shut()
    for container in stage.world.runtime.of(job):
        container.say(*lines(5))
    stage.world.runtime.release()
    await stage.pause(1.5)
    stage.world.door.open()
    await stage.ended()


@scenario
async def redis_away_at_the_start(stage: Stage) -> None:
    await stage.submit("plain")
    stage.world.door.shut()
    stage.victim()
    if not await stage.alive(1.0):
        return
    stage.world.door.open()
    await stage.ended()


@scenario
async def redis_away_while_it_registers(stage: Stage) -> None:
    await stage.submit("plain")
    stage.world.door.lose_reply_of(b"ZADD", wire.LEASES_KEY.encode())
    stage.victim()
    if await stage.alive(1.5):
        await stage.ended()


@scenario
async def claim_unanswered(stage: Stage) -> None:
    stage.victim()
    await stage.worker()
    await stage.passed("worker.supervisor:Supervisor._claim_once#4")
    await lose_reply_of_script(stage, "claim")  # an idle worker claims every two seconds only
    await stage.submit("plain")
    await stage.ended()


@scenario
async def commit_unanswered(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.running(job)
    await lose_reply_of_script(stage, "commit")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def redis_forgets_the_end_of_a_log(stage: Stage) -> None:
    """A failover between the end of a log and the commit that follows at once."""
    job = await stage.submit("held", Script((held(*lines(20)),)))
    stage.victim()
    await stage.running(job)
    await hold_script(stage, "commit")
    stage.world.runtime.release()
    await stage.when(lambda: stage.world.door.holding, "the commit is sent")
    await stage.redis.delete(wire.log_index_key(job, 1), f"dynapod:log:{job}:1:run")
    stage.world.door.let_go()
    await stage.ended()


@scenario
async def finds_the_log_of_another_pod(stage: Stage) -> None:
    """A failover took back the claim of its first pod, and not what that one's worker stored a moment later."""
    job = await stage.submit("held", Script((held(*lines(20)),)))
    entry = LogEntry(complete=True, cursor=LogCursor("2999-01-01T00:00:00Z", 1), pod="another")
    await stage.redis.hset(wire.log_index_key(job, 1), "run", entry.to_json())
    stage.victim()
    await stage.logged(job, "line 19")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def log_unanswered(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.logged(job, "hello")
    stage.world.door.lose_reply_of(b"EVAL", f"dynapod:logs:{job}:1".encode())
    for container in stage.world.runtime.of(job):
        container.say("more")
    await stage.pause(1.0)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def scripts_flushed(stage: Stage) -> None:
    await stage.redis.script_flush()
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.running(job)
    await stage.redis.script_flush()
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def claims_refused(stage: Stage) -> None:
    """A key of a foreign type stands where the queue should be."""
    stage.victim()
    await stage.worker()
    await stage.redis.set("rq:queue:jobs", "not a list")
    try:
        await stage.passed("worker.supervisor:Supervisor._claim_loop#4")
    finally:
        await stage.redis.delete("rq:queue:jobs")
    await stage.submit("plain")
    await stage.ended()

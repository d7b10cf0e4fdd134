"""Logs of containers that are started again, that are rotated, cut, too long; and a store that takes none."""

from typing import Final

from devcluster.audit import Fault
from runner_spec import wire
from tests.kill_points.containers import Script, Start
from tests.kill_points.scenarios.adoption import predecessor
from tests.kill_points.scenarios.conditions import failed, service_starts
from tests.kill_points.scenarios.faults import FORBIDDEN, on
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held, lines, service

ARTIFACTS: Final = [{"name": "wheel", "paths": ["dist/x.whl"]}]


def crashes(*starts: Start) -> dict[str, tuple[Start, ...]]:
    """A service that is started so often, and lasts in the end."""
    return {"db": (*starts, Start(("up at last",), None))}


@scenario
async def service_crashes(stage: Stage) -> None:
    starts = crashes(*(Start((f"up {n}", "crash"), 0.2, 1) for n in range(3)))
    job = await stage.submit("crashes", Script((held(),), starts, may_have_gaps=True), services=service())
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def silent_service_crashes(stage: Stage) -> None:
    starts = crashes(Start((), 0.2, 1), Start((), 0.4, 1), Start(("third",), 0.3, 1, unfinished="cut off"))
    job = await stage.submit("crashes", Script((held(),), starts, may_have_gaps=True), services=service())
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def service_crashes_unseen(stage: Stage) -> None:
    """Adopted late: of some of its starts nothing is left."""
    starts = crashes(Start(("up 0",), 0.6, 1, unfinished="cut"), *(Start((f"up {n}",), 0.1, 1) for n in range(1, 4)))
    job = await stage.submit("crashes", Script((held(),), starts, may_have_gaps=True), services=service())
    await predecessor(stage, lambda: stage.redis.exists(f"dynapod:log:{job}:1:db"), "the service's log has begun")
    await stage.when(lambda: service_starts(stage, job) == 5, "the service lasts")
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def service_crashes_ahead_of_its_status(stage: Stage) -> None:
    """Its log is read on while no change of the pod is seen."""
    starts = {"db": (Start(("up 0",), held=True, exit_code=1), Start(("up 1",), 0.1, 1), Start(("up 2",), None))}
    job = await stage.submit("crashes", Script((held(),), starts, may_have_gaps=True), services=service())
    stage.world.faults = on("watch log", Fault(cut_after=1.0))
    stage.victim()
    await stage.logged(job, "up 0", "db")
    stage.world.faults = on("list watch log", Fault(error=FORBIDDEN))
    await stage.pause(1.2)
    for container in stage.world.runtime.of(job, "db"):
        container.released.set()
    await stage.when(lambda: service_starts(stage, job) == 3, "the service lasts")
    stage.world.faults = on("list watch", Fault(error=FORBIDDEN))
    await stage.logged(job, "up 2", "db")
    stage.world.faults = None
    await stage.pause(1.0)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def job_fails_with_its_service(stage: Stage) -> None:
    """The last lines of the service are shown: of a log so long that only its end is read."""
    starts = crashes(Start(lines(600), 0.1, 1))
    job = await stage.submit("fails", Script((held(exit_code=1),), starts, may_have_gaps=True), services=service())
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def last_lines_from_redis(stage: Stage) -> None:
    """As before, while the object store is away."""
    starts = crashes(Start(lines(5), 0.1, 1))
    job = await stage.submit("fails", Script((held(exit_code=1),), starts, may_have_gaps=True), services=service())
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.shut_store()
    stage.world.runtime.release()
    await stage.when(lambda: failed(stage, job), "the job has ended")
    stage.world.heal()
    await stage.ended()


async def _rotated(stage: Stage, job: str, container: str, *, more: bool) -> None:
    """The stream breaks, and what was not read until then is rotated away."""
    stage.world.faults = on("log", Fault(error=FORBIDDEN))
    await stage.pause(0.8)
    for running in stage.world.runtime.of(job, container):
        running.say("nobody reads this")
        running.rotate()
        if more:
            running.say("but this")
    stage.world.faults = None
    await stage.pause(0.5)


@scenario
async def log_rotated(stage: Stage) -> None:
    stage.world.faults = on("log", Fault(cut_after=0.6))
    job = await stage.submit("held", Script((held(),), may_have_gaps=True))
    stage.victim()
    await stage.logged(job, "hello")
    await _rotated(stage, job, "run", more=True)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def log_rotated_in_a_line(stage: Stage) -> None:
    stage.world.faults = on("log", Fault(cut_after=0.6))
    job = await stage.submit("held", Script((Start(("hello",), held=True, unfinished="be"),), may_have_gaps=True))
    stage.victim()
    await stage.logged(job, "hello")
    await _rotated(stage, job, "run", more=True)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def log_rotated_to_nothing(stage: Stage) -> None:
    stage.world.faults = on("log", Fault(cut_after=0.6))
    job = await stage.submit("held", Script((held(last=()),), may_have_gaps=True))
    stage.victim()
    await stage.logged(job, "hello")
    await _rotated(stage, job, "run", more=False)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def service_log_rotated(stage: Stage) -> None:
    """Of a service that had been started again before: `previous` is older than what is missing."""
    starts = crashes(Start(("up",), 0.1, 1))
    stage.world.faults = on("log", Fault(cut_after=1.5))
    job = await stage.submit("held", Script((held(),), starts, may_have_gaps=True), services=service())
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.faults = on("log", Fault(error=FORBIDDEN))
    await stage.pause(1.6)
    await _rotated(stage, job, "db", more=True)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def log_without_a_line_end(stage: Stage) -> None:
    await stage.submit("plain", Script((Start((), 0.1, unfinished="no end"),)))
    await stage.submit("more", Script((Start(("one",), 0.1, unfinished="no end"),)))
    stage.victim()
    await stage.ended()


@scenario
async def log_too_long(stage: Stage) -> None:
    await stage.submit("long", Script((Start(lines(100), 0.2),), may_have_gaps=True))
    stage.victim(policy=str(stage.world.policy(max_log_bytes=1024)))
    await stage.ended()


@scenario
async def log_never_read(stage: Stage) -> None:
    stage.world.faults = on("log", Fault(error=FORBIDDEN))
    await stage.submit("held", Script((Start(("hello",), 0.1),), may_have_gaps=True))
    stage.victim(constants={"worker.log_streams:IDLE_LIMIT_S": 0.3})
    await stage.ended()


@scenario
async def log_given_up_while_redis_is_away(stage: Stage) -> None:
    stage.world.faults = on("log", Fault(error=FORBIDDEN))
    job = await stage.submit("held", Script((held(),), may_have_gaps=True))
    stage.victim(constants={"worker.log_streams:IDLE_LIMIT_S": 0.6})
    await stage.running(job)
    await stage.pause(0.5)
    stage.world.runtime.release()
    await stage.passed("worker.log_streams:LogStreams._read_on#1")
    stage.world.door.shut()
    await stage.pause(1.5)
    stage.world.door.open()
    await stage.ended()


@scenario
async def log_written_to_by_another(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.logged(job, "hello")
    key = wire.log_index_key(job, 1)
    await stage.redis.hset(key, "run", (await stage.redis.hget(key, "run")) + b" ")
    for container in stage.world.runtime.of(job):
        container.say("more")
    await stage.logged(job, "more")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def store_away(stage: Stage) -> None:
    job = await stage.submit("artifacts", Script((held(*lines(20)),)), artifacts=ARTIFACTS)
    stage.victim(constants={"worker.log_writer:PIECE_BYTES": 500, "worker.log_writer:WAITING_BYTES": 1000,
                            "worker.upload_proof:RETRY_S": 0.2, "worker.log_writer:STORE_RETRY_S": 0.2})  # fmt: skip
    await stage.logged(job, "line 19")
    stage.world.shut_store()
    for container in stage.world.runtime.of(job):
        container.say(*lines(40))
    await stage.passed("worker.log_writer:LogWriter._make_durable#3")
    stage.world.heal()
    stage.world.runtime.release()
    await stage.pause(0.3)
    stage.world.shut_store()
    await stage.pause(1.0)
    stage.world.heal()
    await stage.ended()


@scenario
async def store_away_when_artifacts_are_asked_for(stage: Stage) -> None:
    job = await stage.submit("artifacts", Script((held(),)), artifacts=ARTIFACTS)
    stage.victim(constants={"worker.upload_proof:RETRY_S": 0.2})
    await stage.logged(job, "hello")
    stage.world.shut_store()
    stage.world.runtime.release()
    await stage.passed("worker.upload_proof:_exists#2")
    stage.world.heal()
    await stage.ended()


@scenario
async def log_of_a_deleted_pod(stage: Stage) -> None:
    """Somebody deletes the pod while its log cannot be read."""
    runs = (held(), Start(("second",), 0.05))
    stage.world.faults = on("log", Fault(cut_after=0.6))
    job = await stage.submit("held", Script(runs, may_have_gaps=True))
    stage.victim()
    await stage.logged(job, "hello")
    stage.world.faults = on("log", Fault(error=FORBIDDEN))
    await stage.pause(0.8)
    await stage.delete_pods()
    stage.world.faults = None
    await stage.ended()

"""Workers that come after others: jobs with a pod and without, leases that lapse, jobs that kill their workers."""

import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from devcluster.audit import Fault, RequestFacts
from runner_spec import wire
from tests.kill_points.containers import Script, Start
from tests.kill_points.instrument import AFTER
from tests.kill_points.scenarios.conditions import claimed, finished, logged, runs_again, taken
from tests.kill_points.scenarios.faults import BUSY, FORBIDDEN, hold_script, lose_reply_of_script, on
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held, lines


async def predecessor(stage: Stage, ready: Callable[[], Any], what: str) -> None:
    """Another worker, killed once `ready` holds; the one under observation comes after it."""
    process = stage.other()
    await stage.when(ready, what)
    process.kill()
    process.join()


@scenario
async def adopts(stage: Stage) -> None:
    """Jobs with their pods, half-read logs among them."""
    jobs = [await stage.submit(f"held-{number}", Script((held(*lines(20)),))) for number in range(2)]
    await predecessor(stage, lambda: logged(stage, jobs[0]), "the log has begun")
    stage.victim()
    await stage.passed("worker.adoption:Adoption._find_pods#1")
    await stage.passed("worker.log_intake:LogIntake.take#2", 2)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def adopts_without_a_pod(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=BUSY))
    job = await stage.submit("minted")
    await predecessor(stage, lambda: claimed(stage, job), "the job is claimed")
    stage.world.faults = None
    stage.victim()
    await stage.ended()


@scenario
async def adopts_while_nobody_may_look(stage: Stage) -> None:
    no_pod = on("create", Fault(error=BUSY))
    stage.world.faults = no_pod
    job = await stage.submit("minted")
    await predecessor(stage, lambda: claimed(stage, job), "the job is claimed")
    looked: list[str] = []

    def note(request: RequestFacts) -> bool:
        looked.append(request.name)
        return True

    no_look = on("get", Fault(error=FORBIDDEN), note)
    # The dead worker's creation may still lie in a buffer: let through, its pod would be listed, and none looked up.
    stage.world.faults = lambda request: no_look(request) or no_pod(request)
    stage.victim()
    await stage.when(lambda: looked, "the pod was looked up")
    await stage.passed("worker.launch:Launcher.find#2")
    stage.world.faults = None
    await stage.ended()


@scenario
async def adopts_and_minting_is_unanswered(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=BUSY))
    job = await stage.submit("minted")
    await predecessor(stage, lambda: claimed(stage, job), "the job is claimed")
    stage.world.faults = None
    await lose_reply_of_script(stage, "mint")
    stage.victim()
    await stage.ended()


@scenario
async def adopts_and_logs_are_unanswered(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=BUSY))
    job = await stage.submit("minted")
    await predecessor(stage, lambda: claimed(stage, job), "the job is claimed")
    await stage.cancel(job)
    stage.world.door.lose_reply_of(b"HGETALL", wire.log_index_key(job, 1).encode())
    stage.victim()
    await stage.ended()


@scenario
async def finds_the_pod_of_a_job_that_has_ended(stage: Stage) -> None:
    stage.world.faults = on("delete", Fault(error=FORBIDDEN))
    job = await stage.submit("short")
    await predecessor(stage, lambda: finished(stage, job), "the job has ended")
    stage.world.faults = None
    stage.victim()
    await stage.ended()


@scenario
async def finds_log_that_redis_lost(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(*lines(20)),), may_have_gaps=True))
    await predecessor(stage, lambda: logged(stage, job), "the log has begun")
    await stage.redis.delete(f"dynapod:log:{job}:1:run")
    stage.victim()
    await stage.passed("worker.log_writer:LogWriter._recover#2")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def loses_its_lease(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.running(job)
    stage.signal_victim(signal.SIGSTOP)
    owner = await stage.redis.hget(f"rq:job:{job}", "worker_name")
    stage.other()
    try:
        await stage.when(lambda: taken(stage, job, owner), "another worker has taken the job")
    finally:
        stage.signal_victim(signal.SIGCONT)
    await stage.gone()


@scenario
async def wakes_after_its_lease(stage: Stage) -> None:
    """Its lease has lapsed, and nobody has taken anything."""
    stage.victim()
    await stage.worker()
    stage.signal_victim(signal.SIGSTOP)
    await stage.pause(1.3)
    await stage.redis.delete(*[key async for key in stage.redis.scan_iter("rq:worker:*")])
    await stage.submit("late")
    stage.signal_victim(signal.SIGCONT)
    await stage.ended()


@scenario
async def lease_lapsed_before_a_claim(stage: Stage) -> None:
    stage.victim(lease_seconds="30")
    worker = await stage.worker()
    await stage.pause(0.3)
    await stage.redis.zadd(wire.LEASES_KEY, {worker: time.time() - 1})
    await stage.submit("plain")
    await stage.ended()


@scenario
async def suspected(stage: Stage) -> None:
    """A job whose worker has died twice is tried alone; another one waits."""
    job = await stage.submit("suspect", Script((held(),), may_have_gaps=True, excuses=("poison",)))
    for number in range(2):
        owner = await stage.redis.hget(f"rq:job:{job}", "worker_name") or b""
        await predecessor(stage, partial(taken, stage, job, owner), f"worker {number} has the job")
    await stage.submit("innocent")
    stage.victim()
    await stage.passed("worker.queue.job_queue:JobQueue.wait#2")
    await stage.running(job)  # a pod that comes up later would not be released
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def poisoned(stage: Stage) -> None:
    """A job that three workers have died of: its log, begun by one of them, says that it is not read on."""
    job = await stage.submit("poison", Script((held(),), may_have_gaps=True, excuses=("poison",)))
    await predecessor(stage, lambda: logged(stage, job), "the log has begun")
    for number in range(2):
        owner = await stage.redis.hget(f"rq:job:{job}", "worker_name") or b""
        await predecessor(stage, partial(taken, stage, job, owner), f"worker {number} has the job")
    stage.victim()
    await stage.ended()


@scenario
async def poisoned_with_a_pod_unseen(stage: Stage) -> None:
    """It is ended before any pod was listed; its pod goes all the same."""
    job = await stage.submit("poison", Script((held(),), may_have_gaps=True, excuses=("poison",)))
    await predecessor(stage, lambda: logged(stage, job), "the log has begun")
    stage.world.faults = on("list watch", Fault(error=FORBIDDEN))
    stage.victim(policy=str(stage.world.policy(worker_losses=1)))
    await stage.passed("worker.supervisor:Supervisor._expose#1")
    await stage.ended()


@scenario
async def redis_forgot_an_attempt(stage: Stage) -> None:
    """A failover has lost the last mint: the pod of an attempt is there that nobody knows of."""
    job = await stage.submit("held", Script((Start((), 0.05, 1), held(), held()), may_have_gaps=True),
                             retry={"attempts": 2})  # fmt: skip
    await predecessor(stage, lambda: runs_again(stage, job), "the second attempt runs")
    execution = await anext(stage.redis.scan_iter(f"rq:execution:{job}:*"))
    for key in (f"rq:job:{job}", execution):
        await stage.redis.hset(key, wire.FIELD_ATTEMPT, 1)
    await stage.redis.delete(wire.attempts_key(job))
    stage.world.faults = on("get", Fault(error=FORBIDDEN))
    await hold_script(stage, "mint")  # until then nobody holds that pod
    stage.victim()
    await stage.passed("worker.orphans:Orphans._has_predecessor#1")
    stage.world.faults = None
    await stage.passed("worker.orphans:Orphans._has_predecessor#1", phase=AFTER)
    stage.world.door.let_go()
    stage.world.runtime.release()
    await stage.ended()

"""What happens around the worker while it is killed: every point is passed in one of these.

Each scenario starts one worker under observation (`stage.victim`) and leads it past what it is named after. It must not
need the worker to live on: whatever it waits for, the worker's death ends the wait. What it leaves undone, a healthy
worker does afterwards.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from rq import Queue
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Job
from rq.rate_limit import RateLimit

from adapters.kubernetes_api import KubernetesApi
from devcluster.audit import Fault, FaultPlan, RequestFacts
from devcluster.resources import PODS
from devcluster.status_error import StatusError, expired
from runner_spec import storage, wire
from tests.kill_points.containers import Script, Start
from tests.kill_points.stage import Scenario, Stage, description, held, service
from tests.kill_points.world import NAMESPACE
from worker.queue.script import load

SECRETS: Final = {"TOKEN": {"secret": "npm", "key": "token"}}
ARTIFACTS: Final = [{"name": "wheel", "paths": ["dist/x.whl"]}]
AWAY: Final = StatusError(500, "InternalError", "etcd is away")
FORBIDDEN: Final = StatusError(403, "Forbidden", 'User "w" cannot do this in API group ""')
NO_ROOM: Final = StatusError(
    403, "Forbidden", 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1'
)

SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(work: Scenario) -> Scenario:
    SCENARIOS[work.__name__] = work  # type: ignore[attr-defined]
    return work


def on(verbs: str, fault: Fault, when: Callable[[RequestFacts], bool] = lambda _: True) -> FaultPlan:
    """A fault of these verbs on pods, their logs included where `verbs` names `log`."""
    wanted = verbs.split()

    def plan(request: RequestFacts) -> Fault | None:
        kind = "log" if request.resource == "pods/log" else request.verb if request.resource == "pods" else ""
        return fault if kind in wanted and when(request) else None

    return plan


def lines(count: int, width: int = 60) -> tuple[str, ...]:
    return tuple(f"line {number} ".ljust(width, ".") for number in range(count))


# the ordinary


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


# asked to leave, asked to stop


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
    stage.world.faults = on("create", Fault(error=AWAY))
    job = await stage.submit("waits")
    stage.victim()
    await stage.when(lambda: _says(stage, job, b"cannot create"), "the job says why it waits")
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


async def _says(stage: Stage, job: str, words: bytes) -> bool:
    return words in (await stage.redis.hget(wire.state_key(job), "why") or b"")


# creation


@scenario
async def creation_waits(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=AWAY))
    job = await stage.submit("waits")
    stage.victim(constants={"worker.launch:UNTOLD_S": 0.3})
    await stage.when(lambda: _says(stage, job, b"cannot create"), "the job says why it waits")
    stage.world.faults = None
    await stage.ended()


@scenario
async def creation_without_reply(stage: Stage) -> None:
    lost: set[str] = set()

    def first(request: RequestFacts) -> bool:
        new = not lost
        lost.add(request.verb)
        return new

    stage.world.faults = on("create", Fault(lose_reply=True), first)
    await stage.submit("plain", Script((Start(seconds=1.0),)))
    stage.victim()
    await stage.ended()


@scenario
async def no_room(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=NO_ROOM))
    job = await stage.submit("waits")
    stage.victim(constants={"worker.supervisor:QUOTA_PAUSE_S": 0.2})
    await stage.when(lambda: _says(stage, job, b"quota"), "the job waits for room")
    stage.world.faults = None
    await stage.submit("next")
    await stage.ended()


# adoption


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
    await predecessor(stage, lambda: _logged(stage, jobs[0]), "the log has begun")
    stage.victim()
    await stage.passed("worker.adoption:Adoption._find_pods#1")
    await stage.passed("worker.log_intake:LogIntake.take#2", 2)
    stage.world.runtime.release()
    await stage.ended()


async def _logged(stage: Stage, job: str) -> bool:
    return bool(await stage.redis.exists(f"dynapod:log:{job}:1:run"))


async def _claimed(stage: Stage, job: str) -> bool:
    return await stage.status(job) == "started"


@scenario
async def adopts_without_a_pod(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=AWAY))
    job = await stage.submit("minted")
    await predecessor(stage, lambda: _claimed(stage, job), "the job is claimed")
    stage.world.faults = None
    stage.victim()
    await stage.ended()


@scenario
async def adopts_while_nobody_may_look(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=AWAY))
    job = await stage.submit("minted")
    await predecessor(stage, lambda: _claimed(stage, job), "the job is claimed")
    looked: list[str] = []
    stage.world.faults = on("get", Fault(error=FORBIDDEN), lambda request: not looked.append(request.name))
    stage.victim()
    await stage.when(lambda: looked, "the pod was looked up")
    await stage.passed("worker.launch:Launcher.find#2")
    stage.world.faults = None
    await stage.ended()


@scenario
async def adopts_and_minting_is_unanswered(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=AWAY))
    job = await stage.submit("minted")
    await predecessor(stage, lambda: _claimed(stage, job), "the job is claimed")
    stage.world.faults = None
    stage.world.door.lose_reply_of(load("mint").digest.encode())
    stage.victim()
    await stage.ended()


@scenario
async def finds_the_pod_of_a_job_that_has_ended(stage: Stage) -> None:
    stage.world.faults = on("delete", Fault(error=FORBIDDEN))
    job = await stage.submit("short")
    await predecessor(stage, lambda: _finished(stage, job), "the job has ended")
    stage.world.faults = None
    stage.victim()
    await stage.ended()


async def _finished(stage: Stage, job: str) -> bool:
    return await stage.status(job) == "finished"


@scenario
async def finds_log_that_redis_lost(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(*lines(20)),), may_have_gaps=True))
    await predecessor(stage, lambda: _logged(stage, job), "the log has begun")
    await stage.redis.delete(f"dynapod:log:{job}:1:run")
    stage.victim()
    await stage.passed("worker.log_writer:LogWriter.open#3")
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
        await stage.when(lambda: _taken(stage, job, owner), "another worker has taken the job")
    finally:
        stage.signal_victim(signal.SIGCONT)
    await stage.gone()


async def _taken(stage: Stage, job: str, owner: bytes) -> bool:
    return bool(await stage.redis.hget(f"rq:job:{job}", "worker_name") != owner)


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
async def enqueued_again(stage: Stage) -> None:
    """The older execution is gone, and its pod with it."""
    job = await stage.submit("again", Script((held(), Start(("second",), 0.3)), may_have_gaps=True))
    stage.victim()
    await stage.running(job)
    await stage.world.client.submit(description(), job_id=job)
    await stage.ended()


# Redis


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
    await stage.submit("plain")
    stage.world.door.lose_reply_of(load("claim").digest.encode())
    await stage.ended()


@scenario
async def commit_unanswered(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.victim()
    await stage.running(job)
    stage.world.door.lose_reply_of(load("commit").digest.encode())
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
async def suspended(stage: Stage) -> None:
    await stage.redis.set("rq:suspended", "1")
    await stage.submit("plain")
    stage.victim(constants={"worker.queue.watcher:SUSPENDED_POLL": 0.2})
    await stage.passed("worker.queue.watcher:Watcher.wait_for_resume#3", 2)
    await stage.redis.delete("rq:suspended")
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
    stage.world.door.lose_reply_of(b"EXEC\r\n")
    stage.world.runtime.release(first)
    await stage.ended()


@scenario
async def scheduled(stage: Stage) -> None:
    job = stage.expect("later")
    queue = Queue("jobs", connection=stage.world.connections.sync, serializer="json")
    await asyncio.to_thread(queue.enqueue_in, timedelta(0), "worker.tasks.run", description(), job_id=job)
    stage.victim()
    await stage.ended()


# Kubernetes


@scenario
async def kubernetes_away(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.world.faults = on("watch log", Fault(cut_after=0.7))
    stage.victim()
    await stage.logged(job, "hello")
    stage.world.faults = on("get list watch create delete log", Fault(error=AWAY))
    await stage.passed("worker.reflector:Reflector.run#3")
    await stage.pause(0.7)
    stage.world.faults = None
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def watch_expires(stage: Stage) -> None:
    job = await stage.submit("held", Script((held(),)))
    stage.world.faults = on("watch", Fault(error=expired("too old resource version")))
    stage.victim()
    await stage.running(job)
    await stage.passed("worker.reflector:Reflector.run#3", 2)
    stage.world.faults = None
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def deletion_refused(stage: Stage) -> None:
    stage.world.faults = on("delete", Fault(error=FORBIDDEN))
    job = await stage.submit("short")
    stage.victim()
    await stage.when(lambda: _finished(stage, job), "the job has ended")
    await stage.passed("worker.orphans:Orphans.sweep#3")
    stage.world.faults = None
    await stage.ended()


@scenario
async def pod_deleted_unseen(stage: Stage) -> None:
    """Created, and deleted by somebody while no watch was open."""
    await _blind(stage)
    runs = (held(), Start(("second",), 0.05))
    job = await stage.submit("held", Script(runs, may_have_gaps=True, excuses=("pod-deleted",)))
    await stage.running(job)
    await _delete_pods(stage)
    await stage.passed("worker.supervisor:Supervisor._verify#1")
    stage.world.faults = None
    await stage.ended()


@scenario
async def created_unseen_and_without_reply(stage: Stage) -> None:
    await _blind(stage)
    replies = [Fault(lose_reply=True)]

    def plan(request: RequestFacts) -> Fault | None:
        if request.resource == "pods" and request.verb == "create" and replies:
            return replies.pop()
        return Fault(error=FORBIDDEN) if request.verb in {"list", "watch"} else None

    stage.world.faults = plan
    job = await stage.submit("held", Script((held(),)))
    await stage.running(job)
    await stage.passed("adapters.kubernetes_api:KubernetesApi.get_pod#1")
    stage.world.faults = None
    stage.world.runtime.release()
    await stage.ended()


async def _blind(stage: Stage) -> None:
    """A victim that has listed its pods once, and sees nothing from then on."""
    stage.world.faults = on("watch", Fault(cut_after=0.2))
    stage.victim()
    await stage.worker()
    await stage.pause(0.6)
    stage.world.faults = on("list watch", Fault(error=FORBIDDEN))
    await stage.pause(0.3)


async def _delete_pods(stage: Stage) -> None:
    """Somebody deletes all pods at once."""
    api = await KubernetesApi.connect(NAMESPACE, kubeconfig=stage.world.cluster.kubeconfig())
    try:
        for key, pod in stage.world.cluster.store[PODS].sorted(NAMESPACE):
            await api.delete_pod(key[1], pod.obj["metadata"]["uid"], grace_seconds=0)
    finally:
        await api.close()


# the object store


@scenario
async def store_away(stage: Stage) -> None:
    job = await stage.submit("artifacts", Script((held(*lines(20)),)), artifacts=ARTIFACTS)
    stage.victim(constants={"worker.log_writer:PIECE_BYTES": 500, "worker.log_writer:WAITING_BYTES": 1000,
                            "worker.upload_proof:RETRY_S": 0.2, "worker.log_writer:STORE_RETRY_S": 0.2})  # fmt: skip
    await stage.logged(job, "line 19")
    stage.world.shut_store()
    for container in stage.world.runtime.of(job):
        container.say(*lines(40))
    await stage.passed("worker.log_writer:LogWriter._make_durable#2")
    stage.world.heal()
    stage.world.runtime.release()
    await stage.pause(0.3)
    stage.world.shut_store()
    await stage.pause(1.0)
    stage.world.heal()
    await stage.ended()


# logs of containers that are started again, and logs that are not as they should be


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
    await stage.when(lambda: _starts(stage, job) == 5, "the service lasts")
    stage.victim()
    await stage.logged(job, "up at last", "db")
    stage.world.runtime.release()
    await stage.ended()


def _starts(stage: Stage, job: str) -> int:
    return sum((ran.job, ran.container) == (job, "db") for ran in stage.world.runtime.ledger)


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
    await stage.when(lambda: _failed(stage, job), "the job has ended")
    stage.world.heal()
    await stage.ended()


async def _failed(stage: Stage, job: str) -> bool:
    return await stage.status(job) == "failed"


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


# the rest


@scenario
async def full_for_long(stage: Stage) -> None:
    """A worker that takes nothing compares what it holds with Redis all the same."""
    job = await stage.submit("held", Script((held(),)))
    stage.victim(capacity="1")
    await stage.running(job)
    await stage.passed("worker.queue.job_queue:JobQueue.tick#3")
    stage.world.runtime.release()
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
async def record_deleted(stage: Stage) -> None:
    """The job is deleted while its pod runs."""
    job = await stage.submit("deleted", Script((held(),), deleted=True))
    stage.victim()
    await stage.logged(job, "hello")
    found = await asyncio.to_thread(Job.fetch, job, stage.world.connections.sync, "json")
    await asyncio.to_thread(found.delete)
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
async def asks_before_it_begins(stage: Stage) -> None:
    """What the cluster offers, and where the gateway is."""
    stage.world.faults = on("create", Fault(error=StatusError(403, "Forbidden", 'User "w" cannot create resource')))
    await stage.submit("plain")
    stage.victim(policy=str(stage.world.policy(user_namespaces="auto", gateway_url="http://localhost:9")))
    await stage.passed("worker.capabilities:settle#2")
    stage.world.faults = None
    await stage.ended()


@scenario
async def suspected(stage: Stage) -> None:
    """A job whose worker has died twice is tried alone; another one waits."""
    job = await stage.submit("suspect", Script((held(),), may_have_gaps=True, excuses=("poison",)))
    for number in range(2):
        owner = await stage.redis.hget(f"rq:job:{job}", "worker_name") or b""
        await predecessor(stage, lambda owner=owner: _taken(stage, job, owner), f"worker {number} has the job")
    await stage.submit("innocent")
    stage.victim()
    await stage.passed("worker.queue.job_queue:JobQueue.wait#2")
    stage.world.runtime.release()
    await stage.ended()


# maintenance


@scenario
async def retention(stage: Stage) -> None:
    """What nobody is promised any more goes; a job that has not ended keeps even what is old."""
    job = await stage.submit("held", Script((held(),)))
    old = [
        stage.plant(storage.manifest_path(stage.id("old"), 1), days=4000),
        stage.plant(storage.log_path(stage.id("old"), 1, "run", 0), days=4000),
        stage.plant(storage.cache_entry_path("scope", stage.id("key"), "tar.gz"), days=4000),
    ]
    stage.plant(storage.log_path(job, 1, "earlier", 0), days=4000)
    stage.victim(constants={"worker.retention:INTERVAL_S": 0.6})
    await stage.when(lambda: not any(path.exists() for path in old), "what is old is deleted")
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def pod_of_a_worker_that_nobody_remembers(stage: Stage) -> None:
    stage.world.faults = on("delete", Fault(error=FORBIDDEN))
    job = await stage.submit("short")
    await predecessor(stage, lambda: _finished(stage, job), "the job has ended")
    await stage.redis.delete(wire.LEASES_KEY)
    stage.world.faults = None
    stage.victim()
    await stage.ended()


@scenario
async def redis_forgot_an_attempt(stage: Stage) -> None:
    """A failover has lost the last mint: the pod of an attempt is there that nobody knows of."""
    job = await stage.submit("held", Script((Start((), 0.05, 1), held(), held()), may_have_gaps=True),
                             retry={"attempts": 2})  # fmt: skip
    await predecessor(stage, lambda: _runs_again(stage, job), "the second attempt runs")
    execution = [key async for key in stage.redis.scan_iter(f"rq:execution:{job}:*")][0]
    for key in (f"rq:job:{job}", execution):
        await stage.redis.hset(key, wire.FIELD_ATTEMPT, 1)
    await stage.redis.delete(wire.attempts_key(job))
    stage.world.faults = on("get", Fault(error=FORBIDDEN))
    stage.victim()
    await stage.passed("worker.orphans:Orphans._has_predecessor#1")
    stage.world.faults = None
    stage.world.runtime.release()
    await stage.ended()


def _runs_again(stage: Stage, job: str) -> bool:
    return any(container.ran.attempt == 2 for container in stage.world.runtime.of(job))


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
    await stage.when(lambda: _starts(stage, job) == 3, "the service lasts")
    stage.world.faults = on("list watch", Fault(error=FORBIDDEN))
    await stage.logged(job, "up 2", "db")
    stage.world.faults = None
    await stage.pause(1.0)
    stage.world.runtime.release()
    await stage.ended()


@scenario
async def canceled_registry(stage: Stage) -> None:
    """Jobs canceled in the queue are forgotten one day: each is looked at."""
    job = await stage.submit("canceled")
    await stage.cancel(job)
    await stage.submit("plain")
    stage.victim()
    await stage.passed("worker.queue.census:Census._expire_canceled#2")
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


@scenario
async def poisoned(stage: Stage) -> None:
    """A job that three workers have died of: its log, begun by one of them, says that it is not read on."""
    job = await stage.submit("poison", Script((held(),), may_have_gaps=True, excuses=("poison",)))
    await predecessor(stage, lambda: _logged(stage, job), "the log has begun")
    for number in range(2):
        owner = await stage.redis.hget(f"rq:job:{job}", "worker_name") or b""
        await predecessor(stage, lambda owner=owner: _taken(stage, job, owner), f"worker {number} has the job")
    stage.victim()
    await stage.ended()

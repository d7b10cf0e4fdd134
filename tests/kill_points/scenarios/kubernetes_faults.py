"""Kubernetes is away, refuses, has no room, or shows nothing of what happens."""

from devcluster.audit import Fault, RequestFacts
from devcluster.status_error import StatusError, expired
from tests.kill_points.containers import Script, Start
from tests.kill_points.scenarios.conditions import finished, says
from tests.kill_points.scenarios.faults import AWAY, BUSY, FORBIDDEN, NO_ROOM, on, once
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held


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
async def creation_waits(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=BUSY))
    job = await stage.submit("waits")
    stage.victim()
    await stage.when(lambda: says(stage, job, b"cannot create"), "the job says why it waits")
    stage.world.faults = None
    await stage.ended()


@scenario
async def creation_without_reply(stage: Stage) -> None:
    stage.world.faults = once("create", Fault(lose_reply=True))
    await stage.submit("plain", Script((Start(seconds=1.0),)))
    stage.victim()
    await stage.ended()


@scenario
async def no_room(stage: Stage) -> None:
    stage.world.faults = on("create", Fault(error=NO_ROOM))
    job = await stage.submit("waits")
    stage.victim(constants={"worker.supervisor:QUOTA_PAUSE_S": 0.2})
    await stage.when(lambda: says(stage, job, b"quota"), "the job waits for room")
    stage.world.faults = None
    await stage.submit("next")
    await stage.ended()


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
    await stage.when(lambda: finished(stage, job), "the job has ended")
    await stage.passed("worker.orphans:Orphans.sweep#3")
    stage.world.faults = None
    await stage.ended()


@scenario
async def pod_deleted_unseen(stage: Stage) -> None:
    """Created, and deleted by somebody while no watch was open."""
    await blind(stage)
    runs = (held(), Start(("second",), 0.05))
    job = await stage.submit("held", Script(runs, may_have_gaps=True, excuses=("pod-deleted",)))
    await stage.running(job)
    await stage.delete_pods()
    await stage.passed("worker.supervisor:Supervisor._verify#1")
    stage.world.faults = None
    await stage.ended()


@scenario
async def created_unseen_and_without_reply(stage: Stage) -> None:
    await blind(stage)
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


async def blind(stage: Stage) -> None:
    """A victim that has listed its pods once, and sees nothing from then on."""
    stage.world.faults = on("watch", Fault(cut_after=0.2))
    stage.victim()
    await stage.worker()
    await stage.pause(0.6)
    stage.world.faults = on("list watch", Fault(error=FORBIDDEN))
    await stage.pause(0.3)

"""Creations that Kubernetes does not confirm: sent once, then the pod is found, or the next attempt takes over."""

from devcluster.audit import Fault, RequestFacts
from devcluster.resources import PODS
from devcluster.status_error import not_found
from tests.kill_points.containers import Script, Start
from tests.kill_points.scenarios.faults import AWAY, FORBIDDEN, on, once
from tests.kill_points.scenarios.kubernetes_faults import blind
from tests.kill_points.scenarios.registry import scenario
from tests.kill_points.stage import Stage, held


@scenario
async def creation_unanswered(stage: Stage) -> None:
    """It has not taken effect."""
    stage.world.faults = once("create", Fault(error=AWAY))
    await stage.submit("plain")
    stage.victim()
    await stage.passed("worker.adoption:Adoption.find_or_mint#1")
    await stage.ended()


@scenario
async def creation_found_late(stage: Stage) -> None:
    """It has taken effect, and the pod is seen only when the next attempt has its own."""
    await blind(stage)
    blindness = Fault(error=FORBIDDEN)
    replies = {"create": Fault(lose_reply=True), "get": Fault(error=not_found(PODS, "late"))}

    def plan(request: RequestFacts) -> Fault | None:
        if request.resource == "pods" and request.verb in replies:
            return replies.pop(request.verb)
        return blindness if request.verb in {"list", "watch"} else None

    stage.world.faults = plan
    job = await stage.submit("twice", Script((held(), Start(("second",), 0.3)), may_have_gaps=True))
    await stage.when(lambda: len(stage.pods()) == 2, "both attempts have pods")
    await stage.running(job)
    stage.world.faults = None
    await stage.ended()


@scenario
async def stopped_while_its_pod_is_looked_for(stage: Stage) -> None:
    create, get = once("create", Fault(error=AWAY)), on("get", Fault(error=FORBIDDEN))
    stage.world.faults = lambda request: create(request) or get(request)
    job = await stage.submit("stopped")
    stage.victim()
    await stage.passed("worker.creation:Creation._look_for_pod#1")
    await stage.cancel(job)
    await stage.passed("worker.launch:Launcher.find#2")
    stage.world.faults = None
    await stage.ended()


@scenario
async def stopped_while_its_creation_is_under_way(stage: Stage) -> None:
    """The pod comes up, and is ended like any other."""
    stage.world.faults = on("create delete", Fault(delay=0.7))  # the deletion, so that it has run
    job = await stage.submit("stopped", Script((held(),)))
    stage.victim()
    await stage.passed("worker.launch:Launcher.create#1")
    await stage.cancel(job)
    await stage.ended()

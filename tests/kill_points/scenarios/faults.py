"""What Kubernetes and Redis do wrong."""

from collections.abc import Callable
from typing import Final

from devcluster.audit import Fault, FaultPlan, RequestFacts
from devcluster.status_error import StatusError
from tests.kill_points.stage import Stage
from worker.queue.script import load

# No answer to a creation: it may have taken effect.
AWAY: Final = StatusError(500, "InternalError", "etcd is away")
# An answer: nothing was done.
BUSY: Final = StatusError(503, "ServiceUnavailable", "the server is overloaded")
FORBIDDEN: Final = StatusError(403, "Forbidden", 'User "w" cannot do this in API group ""')
NO_ROOM: Final = StatusError(
    403, "Forbidden", 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1'
)


def on(verbs: str, fault: Fault, when: Callable[[RequestFacts], bool] = lambda _: True) -> FaultPlan:
    """A fault of these verbs on pods, and of their logs where `verbs` names `log`."""
    wanted = verbs.split()

    def plan(request: RequestFacts) -> Fault | None:
        kind = "log" if request.resource == "pods/log" else request.verb if request.resource == "pods" else ""
        return fault if kind in wanted and when(request) else None

    return plan


def once(verb: str, fault: Fault) -> FaultPlan:
    """A fault of the first request of this verb on pods."""
    left = [fault]
    return on(verb, fault, lambda _: bool(left) and left.pop() is fault)


async def lose_reply_of_script(stage: Stage, name: str) -> None:
    """The next run of this script takes effect, and its caller does not learn of it."""
    stage.world.door.lose_reply_of(await _known(stage, name))


async def hold_script(stage: Stage, name: str) -> None:
    """The next run of this script waits at the door."""
    stage.world.door.hold(await _known(stage, name))


async def _known(stage: Stage, name: str) -> bytes:
    """The script's digest; Redis knows it: else what is lost or held may be the reply that it does not."""
    script = load(name)
    await stage.redis.script_load(script.text)
    return script.digest.encode()

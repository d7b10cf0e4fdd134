"""From the states of a pod's containers to its status: phase, conditions, container statuses. Pure.

Ported from the kubelet's getPhase (pkg/kubelet/kubelet_pods.go), pkg/kubelet/status/generate.go and TerminatePod
(status_manager.go), release 1.34, for restartPolicy Never.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from devcluster.clock import timestamp
from devcluster.pod_fields import NODE_IP, Role

PENDING: Final = "Pending"
RUNNING: Final = "Running"
SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"
TERMINAL: Final = frozenset({SUCCEEDED, FAILED})
# MaxPodTerminationMessageLogLength: all messages of a pod together; each container gets an equal share of it, so in a
# pod of more than three containers a message can be cut below 4096 bytes.
MESSAGES_MAX_BYTES: Final = 12 * 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not started, or between two starts."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Started at this time (unix seconds)."""

    started_at: float


@dataclass(frozen=True, slots=True)
class Terminated:
    """Ended; times in unix seconds, 0 when it never ran (StartError)."""

    exit_code: int
    reason: str
    started_at: float = 0.0
    finished_at: float = 0.0
    message: str = ""
    container_id: str = ""


State = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as its status shows it. `started` matters for sidecars: the next container waits for it."""

    name: str
    role: Role
    image: str
    state: State
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    container_id: str = ""

    @property
    def ready(self) -> bool:
        """Running and started; a plain init container: completed."""
        if self.role is Role.INIT:
            return isinstance(self.state, Terminated) and self.state.exit_code == 0
        return isinstance(self.state, Running) and self.started


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What decides a pod's status besides its containers. `phase` overrides the computed one (deadline, eviction)."""

    containers: tuple[ContainerView, ...]
    qos_class: str
    started_at: float
    generation: int
    sandbox: bool = False  # folders (volumes) are ready
    ended: bool = False  # no container runs any more, and none will be started
    phase: str | None = None
    reason: str = ""
    message: str = ""


def phase(facts: PodFacts) -> str:
    """The pod's phase. It turns terminal only when nothing runs any more, whatever has already failed."""
    found = facts.phase or _phase(facts.containers)
    if found in TERMINAL and not facts.ended:
        return RUNNING if initialized(facts.containers) else PENDING
    if facts.ended and found not in TERMINAL:
        return FAILED  # ended without having run to its end: deleted while it was waiting
    return found


def _phase(containers: Sequence[ContainerView]) -> str:
    inits = [c for c in containers if c.role is Role.INIT]
    if any(isinstance(c.state, Terminated) and c.state.exit_code != 0 for c in inits):
        return FAILED
    pending = any(not isinstance(c.state, Terminated) for c in inits)
    sidecars = [c for c in containers if c.role is Role.SIDECAR]
    mains = [c for c in containers if c.role is Role.MAIN]
    if not initialized(containers):
        pending = pending or any(
            not c.started and not isinstance(c.state, Terminated) and c.last is None for c in sidecars
        )
    never_ran = (c for c in (*sidecars, *mains) if isinstance(c.state, Waiting) and c.last is None)
    if pending or any(never_ran):
        return PENDING
    if any(isinstance(c.state, Running) for c in (*sidecars, *mains)):
        return RUNNING
    return SUCCEEDED if all(isinstance(c.state, Terminated) and c.state.exit_code == 0 for c in mains) else FAILED


def initialized(containers: Iterable[ContainerView]) -> bool:
    """Whether a main container has ever left the waiting state."""
    return any(c.role is Role.MAIN and (c.last or not isinstance(c.state, Waiting)) for c in containers)


_UNKNOWN: Final = Terminated(
    exit_code=137,
    reason="ContainerStatusUnknown",
    message="The container could not be located when the pod was terminated",
)


def located(containers: Sequence[ContainerView]) -> tuple[ContainerView, ...]:
    """The containers of a pod that has ended: what has no end of its own is reported as an error, never as a success.

    As the kubelet's TerminatePod: main containers only when the pod was initialized, init containers up to the last
    one that was started.
    """
    inits = [c for c in containers if c.role is not Role.MAIN]
    mains = [c for c in containers if c.role is Role.MAIN]
    if not inits or initialized(containers) or _initialization_done(inits[-1]):
        mains = [_lost(c) for c in mains]
    touched = [i for i, c in enumerate(inits) if not isinstance(c.state, Waiting) or c.last]
    last = touched[-1] if touched else 0
    inits = [_lost(c) if i <= last else c for i, c in enumerate(inits)]
    return (*inits, *mains)


def _initialization_done(last: ContainerView) -> bool:
    return last.ready if last.role is Role.INIT else isinstance(last.state, Running) and last.started


def _lost(view: ContainerView) -> ContainerView:
    if isinstance(view.state, Terminated):
        return view
    return ContainerView(view.name, view.role, view.image, _UNKNOWN, view.last, view.restarts, False, view.container_id)


def pod_status(facts: PodFacts, old: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The whole `status`; unchanged conditions keep the transition time that `old` gives them."""
    current = phase(facts)
    status: dict[str, Any] = {"observedGeneration": facts.generation, "phase": current}
    conditions = _conditions(facts, current)
    # Conditions that others set (DisruptionTarget, readiness gates) are theirs: keep them.
    own = {c["type"] for c in conditions}
    foreign = [c for c in old.get("conditions", ()) if c["type"] not in own]
    status["conditions"] = [_dated(c, old, now) for c in conditions] + foreign
    if facts.message and current in TERMINAL:
        status["message"] = facts.message
    if facts.reason and current in TERMINAL:
        status["reason"] = facts.reason
    status |= {
        "hostIP": NODE_IP,
        "hostIPs": [{"ip": NODE_IP}],
        "podIP": NODE_IP,
        "podIPs": [{"ip": NODE_IP}],
        "startTime": timestamp(facts.started_at),
    }
    share = MESSAGES_MAX_BYTES // len(facts.containers)
    inits = [_container_status(c, share) for c in facts.containers if c.role is not Role.MAIN]
    if inits:
        status["initContainerStatuses"] = inits
    status["containerStatuses"] = [_container_status(c, share) for c in facts.containers if c.role is Role.MAIN]
    status["qosClass"] = facts.qos_class
    return status


def _conditions(facts: PodFacts, current: str) -> list[dict[str, Any]]:
    def condition(kind: str, ok: bool, reason: str = "", message: str = "") -> dict[str, Any]:  # noqa: FBT001 - local
        found = {"type": kind, "observedGeneration": facts.generation, "status": "True" if ok else "False"}
        return found | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})

    listed = [condition("PodReadyToStartContainers", facts.sandbox and current not in TERMINAL)]
    incomplete = [
        c.name
        for c in facts.containers
        if c.role is not Role.MAIN and not (c.ready if c.role is Role.INIT else c.started)
    ]
    if current == SUCCEEDED:
        listed.append(condition("Initialized", True, "PodCompleted"))
    elif not incomplete or initialized(facts.containers):
        listed.append(condition("Initialized", True))
    else:
        message = f"containers with incomplete status: [{' '.join(incomplete)}]"
        listed.append(condition("Initialized", False, "ContainersNotInitialized", message))
    unready = [c.name for c in facts.containers if c.role is not Role.INIT and not c.ready]
    ready: tuple[bool, str, str] = (True, "", "")
    if current in TERMINAL:
        ready = (False, "PodCompleted" if current == SUCCEEDED else "PodFailed", "")
    elif unready:
        ready = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    listed += [condition("Ready", *ready), condition("ContainersReady", *ready), condition("PodScheduled", True)]
    return listed


def _dated(condition: dict[str, Any], old: Mapping[str, Any], now: float) -> dict[str, Any]:
    before = next((c for c in old.get("conditions", ()) if c["type"] == condition["type"]), None)
    since = before["lastTransitionTime"] if before and before["status"] == condition["status"] else timestamp(now)
    return condition | {"lastProbeTime": None, "lastTransitionTime": since}


def _container_status(view: ContainerView, message_bytes: int) -> dict[str, Any]:
    status: dict[str, Any] = {
        "name": view.name,
        "state": _state(view.state, message_bytes),
        "lastState": _state(view.last, message_bytes) if view.last else {},
        "ready": view.ready,
        "restartCount": view.restarts,
        "image": view.image,
        "imageID": view.image if view.container_id else "",
    }
    if view.container_id:
        status["containerID"] = view.container_id
    return status | {"started": view.started and isinstance(view.state, Running)}


def _state(state: State, message_bytes: int) -> dict[str, Any]:
    if isinstance(state, Waiting):
        return {"waiting": {"reason": state.reason} | ({"message": state.message} if state.message else {})}
    if isinstance(state, Running):
        return {"running": {"startedAt": timestamp(state.started_at)}}
    ended: dict[str, Any] = {"exitCode": state.exit_code, "reason": state.reason}
    if state.message:
        ended["message"] = state.message.encode()[:message_bytes].decode(errors="replace")
    # A container that never ran has null times in the real API, except for StartError, which has the epoch.
    if state.started_at or state.reason == "StartError":
        ended["startedAt"] = timestamp(state.started_at)
    else:
        ended["startedAt"] = None
    ended["finishedAt"] = timestamp(state.finished_at) if state.finished_at else None
    if state.container_id:
        ended["containerID"] = state.container_id
    return {"terminated": ended}

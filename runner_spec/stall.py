"""Why a pod does not get on, in the words of the scheduler, the registry or the kubelet, and whether to give up."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from runner_spec.anatomy import CHECKOUT, RUN, UPLOAD
from runner_spec.outcome import Fault
from runner_spec.pod_status import NEVER_STARTED, OOM_KILLED, Container, End, Pod, State, one_line
from runner_spec.policy import Policy
from runner_spec.pull_words import PULL_REASONS, told_by_registry
from runner_spec.runtime_words import told_by_runtime

CRASHES_LIMIT: Final = 3  # a service may crash while it waits for another one, but not for ever
# A pod has its sandbox, volumes and network within a second or two; a slow node takes longer, and then says so.
SANDBOX_PATIENCE_S: Final = 10.0
# A startup probe is asked once a second, and answers late on a busy node.
PROBE_MARGIN_S: Final = 2.0

_RUNNERS: Final = frozenset({CHECKOUT, UPLOAD})
_START_REASONS: Final = frozenset(
    {"CreateContainerError", "RunContainerError", "PreCreateHookError", "PostStartHookError"}
)
# A registry's words for: this image does not exist. All else (refused, throttled, unreachable) is the platform's.
_NO_SUCH_IMAGE: Final = re.compile(
    r"manifest unknown|name unknown|not found|does not exist|no such image|repository name not known", re.IGNORECASE
)
_NO_COMMAND: Final = re.compile(r"no command specified", re.IGNORECASE)
# The kubelet's words (kuberuntime, makeEnvironmentVariables) for a Secret that a description names, but is not there.
_NO_SUCH_SECRET: Final = re.compile(r'secret "[^"]*" not found|couldn\'t find key \S+ in Secret', re.IGNORECASE)
_IN_SANDBOX: Final = frozenset({"PodInitializing", "ContainerCreating", ""})


@dataclass(frozen=True, slots=True)
class Stall:
    """What holds a pod up; `is_over` when patience has run out, and then `fault` says who has to act."""

    reason: str
    message: str
    fault: Fault = Fault.PLATFORM
    is_over: bool = False


def find_stall(seen: Pod, now: float, policy: Policy) -> Stall | None:
    """The first thing that holds a pod up, None when it gets on."""
    if not seen.node and seen.started_at is None:
        return _unscheduled(seen, now, policy)
    for container in seen.containers:
        stall = _container_stall(seen, container, now, policy)
        if stall is not None:
            return stall
    return _not_started(seen, now, policy)


def _unscheduled(seen: Pod, now: float, policy: Policy) -> Stall:
    over = seen.created_at is not None and now - seen.created_at > policy.pending_limit
    refused = seen.condition("PodScheduled", "False")
    if refused is None:
        return Stall("pending", "the pod waits for the scheduler", is_over=over)
    reason = "gated" if refused.get("reason") == "SchedulingGated" else "unschedulable"
    words = one_line(str(refused.get("message") or refused.get("reason") or "no reason given"))
    after = f" for {policy.pending_limit} s" if over else ""
    return Stall(reason, f"no node takes the pod{after}: {words}", is_over=over)


def _not_started(seen: Pod, now: float, policy: Policy) -> Stall | None:
    """The node took the pod, and no container of it has started, nor is any said to have trouble of its own."""
    if any(container.state in {State.RUNNING, State.TERMINATED} for container in seen.containers):
        return None
    since = seen.started_at if seen.started_at is not None else seen.created_at
    waited = 0.0 if since is None else now - since
    over = waited > policy.start_limit
    after = f" in {policy.start_limit} s" if over else ""
    # True once volumes are mounted and the runtime has made the sandbox with its network (KEP-3085).
    refused = seen.condition("PodReadyToStartContainers", "False")
    if refused is not None:
        if waited < SANDBOX_PATIENCE_S:
            return None
        message = (
            f"the node {seen.node} has not made the pod's sandbox{after}: a volume (with its Secret or ConfigMap), the "
            "network or the runtime class is missing or failing; `kubectl describe pod` shows the node's own words"
        )
        return Stall("sandbox", message, is_over=over)
    if not over:
        return None
    message = f"the node {seen.node} has started no container{after}; `kubectl describe pod` shows its events"
    return Stall("not-started", message, is_over=True)


def _container_stall(  # noqa: PLR0911 - one question a line
    seen: Pod, container: Container, now: float, policy: Policy
) -> Stall | None:
    if container in seen.services and (stall := _service_stall(seen, container, now)) is not None:
        return stall
    if container.name == UPLOAD and (stall := _upload_stall(seen, container)) is not None:
        return stall
    if container.state is not State.WAITING:
        return None
    waited = now - _since(seen, container, now)
    if container.reason in PULL_REASONS:
        return _image_stall(container, waited, policy)
    what = f"{container.name}: {told_by_runtime(container.message) or container.reason}"
    over = waited > policy.config_grace
    if container.reason == "CreateContainerConfigError":
        return _config_stall(container, what, is_over=over)
    if container.reason in _START_REASONS:
        own = _NO_COMMAND.search(container.message) and container.name not in _RUNNERS
        return Stall("start-error", what, Fault.JOB if own else Fault.PLATFORM, is_over=over)
    return None


def _config_stall(container: Container, what: str, *, is_over: bool) -> Stall:
    """Something that a variable refers to is missing. Descriptions name Secrets only; all else is the operator's."""
    if _NO_SUCH_SECRET.search(container.message) and container.name in {CHECKOUT, RUN}:
        return Stall("config", f"{what}; create it, or correct its name in the description", Fault.JOB, is_over)
    return Stall("config", f"{what}; create it, or correct the operator's policy", Fault.PLATFORM, is_over)


def _image_stall(container: Container, waited: float, policy: Policy) -> Stall:
    own = container.name not in _RUNNERS  # the runner's image is the operator's
    words = told_by_registry(container.reason, container.message)
    if container.reason == "InvalidImageName":
        fault = Fault.JOB if own else Fault.PLATFORM
        message = f"{container.name}: the image {container.image} has no valid name: {words}"
        return Stall("image", message, fault, is_over=True)
    absent = own and container.reason != "ErrImageNeverPull" and _NO_SUCH_IMAGE.search(container.message)
    message = f"{container.name}: the image {container.image} cannot be pulled: {words}"
    return Stall("image", message, Fault.JOB if absent else Fault.PLATFORM, is_over=waited > policy.image_pull_grace)


def _service_stall(seen: Pod, service: Container, now: float) -> Stall | None:
    """A service that does not come up. Once `run` has started, a crash is for the steps to notice."""
    if _begun(seen.run) or _begun(seen.checkout):
        return None  # checkout waits for ports and URLs with a limit of its own, and reports
    last = service.last_end or service.end
    if service.startup_window and not service.is_started and (stall := _unready(service, last, now)) is not None:
        return stall
    if not service.restarts or last is None:
        return None
    return Stall("service", _crashing(service, last), Fault.JOB, is_over=service.restarts >= CRASHES_LIMIT)


def _unready(service: Container, last: End | None, now: float) -> Stall | None:
    """Its readiness command has not succeeded, by the clock or because the kubelet has killed it for that."""
    running_for = now - service.started_at if service.started_at and service.state is State.RUNNING else 0.0
    killed = service.restarts and last is not None and (last.seconds or 0.0) >= service.startup_window
    if killed or running_for > service.startup_window + PROBE_MARGIN_S:
        message = (
            f"service {service.name} was not ready within {service.startup_window} s: its readiness command did not "
            "succeed. See its log, or give ready.timeout more time"
        )
        return Stall("service", message, Fault.JOB, is_over=True)
    if service.state is State.RUNNING and not service.restarts:
        return Stall("service", f"service {service.name} is to become ready within {service.startup_window} s")
    return None


def _upload_stall(seen: Pod, upload: Container) -> Stall | None:
    """Before `run`, which the kubelet does not start while `upload` does not stay up: the platform's own trouble."""
    last = upload.last_end or upload.end
    if not upload.restarts or _begun(seen.run) or last is None or upload.state is State.RUNNING:
        return None
    return Stall("upload-crashed", _crashing(upload, last), is_over=upload.restarts >= CRASHES_LIMIT)


def _begun(container: Container | None) -> bool:
    return container is not None and container.state in {State.RUNNING, State.TERMINATED}


def _crashing(container: Container, end: End) -> str:
    who = container.name if container.name in _RUNNERS else f"service {container.name}"
    if end.reason in NEVER_STARTED:
        return f"{who} cannot be started: {told_by_runtime(end.message) or end.reason}"
    # Not its last words: they are the end of its log, and nobody has masked them here.
    out_of_memory = ", out of memory" if end.reason == OOM_KILLED else ""
    return f"{who} keeps crashing (exit code {end.exit_code}{out_of_memory})"


def _since(seen: Pod, container: Container, now: float) -> float:
    """When a container's turn came: a waiting state has no time of its own, so the latest event before it counts."""
    return max((moment for moment in _events_before(seen, container) if moment is not None), default=now)


def _events_before(seen: Pod, container: Container) -> Iterator[float | None]:
    yield seen.created_at
    yield seen.started_at
    for earlier in seen.containers:
        if earlier.name == container.name:
            return
        yield earlier.end.finished_at if earlier.end else earlier.started_at

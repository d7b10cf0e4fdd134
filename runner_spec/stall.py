"""Why a pod does not get on, in the words of the scheduler, the registry or the kubelet, and whether to give up."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from runner_spec.anatomy import CHECKOUT, UPLOAD
from runner_spec.outcome import Fault
from runner_spec.pod_status import Container, Pod, State, one_line
from runner_spec.policy import Policy

SERVICE_CRASHES_LIMIT: Final = 3  # a service may crash while it waits for another one, but not for ever

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)  # kubelet: pkg/kubelet/images/types.go
_START_REASONS: Final = frozenset(
    {"CreateContainerError", "RunContainerError", "PreCreateHookError", "PostStartHookError"}
)
# A registry's words for: this image does not exist. All else (refused, throttled, unreachable) is the platform's.
_NO_SUCH_IMAGE: Final = re.compile(
    r"manifest unknown|name unknown|not found|does not exist|no such image|repository name not known", re.IGNORECASE
)
_NO_COMMAND: Final = re.compile(r"no command specified", re.IGNORECASE)


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
    started = any(container.state in {State.RUNNING, State.TERMINATED} for container in seen.containers)
    since = seen.started_at if seen.started_at is not None else seen.created_at
    if not started and since is not None and now - since > policy.start_limit:
        message = (
            f"the node {seen.node} has started no container in {policy.start_limit} s: a volume, the network or the "
            "image may be missing; `kubectl describe pod` shows its events"
        )
        return Stall("not-started", message, is_over=True)
    return None


def _unscheduled(seen: Pod, now: float, policy: Policy) -> Stall:
    over = seen.created_at is not None and now - seen.created_at > policy.pending_limit
    refused = seen.condition("PodScheduled", "False")
    if refused is None:
        return Stall("pending", "the pod waits for the scheduler", is_over=over)
    reason = "gated" if refused.get("reason") == "SchedulingGated" else "unschedulable"
    words = one_line(str(refused.get("message") or refused.get("reason") or "no reason given"))
    after = f" for {policy.pending_limit} s" if over else ""
    return Stall(reason, f"no node takes the pod{after}: {words}", is_over=over)


def _container_stall(seen: Pod, container: Container, now: float, policy: Policy) -> Stall | None:
    if container.name not in {CHECKOUT, UPLOAD} and container in seen.services:
        stall = _service_stall(seen, container)
        if stall is not None:
            return stall
    if container.state is not State.WAITING:
        return None
    waited = now - _since(seen, container, now)
    what = f"{container.name}: {one_line(container.message) or container.reason}"
    if container.reason in _IMAGE_REASONS:
        return _image_stall(container, what, waited, policy)
    over = waited > policy.config_grace
    if container.reason == "CreateContainerConfigError":
        # Names the Secret or key that is missing: what the description asks for does not exist.
        return Stall("config", f"{what}; create it, or correct its name", Fault.JOB, is_over=over)
    if container.reason in _START_REASONS:
        own = _NO_COMMAND.search(container.message) and container.name not in {CHECKOUT, UPLOAD}
        return Stall("start-error", what, Fault.JOB if own else Fault.PLATFORM, is_over=over)
    return None


def _image_stall(container: Container, what: str, waited: float, policy: Policy) -> Stall:
    own = container.name not in {CHECKOUT, UPLOAD}  # the runner's image is the operator's
    if container.reason == "InvalidImageName":
        fault = Fault.JOB if own else Fault.PLATFORM
        return Stall("image", f"the image {container.image} has no valid name: {what}", fault, is_over=True)
    absent = own and container.reason != "ErrImageNeverPull" and _NO_SUCH_IMAGE.search(container.message)
    message = f"the image {container.image} cannot be pulled: {what}"
    return Stall("image", message, Fault.JOB if absent else Fault.PLATFORM, is_over=waited > policy.image_pull_grace)


def _service_stall(seen: Pod, service: Container) -> Stall | None:
    """A service that does not come up. Once `run` has started, a crash is for the steps to notice."""
    last = service.last_end
    if (
        last is None
        or not service.restarts
        or (seen.run is not None and seen.run.state in {State.RUNNING, State.TERMINATED})
    ):
        return None
    if seen.checkout.state in {State.RUNNING, State.TERMINATED}:
        return None  # checkout waits for ports and URLs with a limit of its own, and reports
    if service.startup_window and last.seconds is not None and last.seconds >= service.startup_window:
        message = f"service {service.name} was not ready within {service.startup_window} s"
        return Stall("service", message, Fault.JOB, is_over=True)
    words = one_line(last.message)
    message = (
        f"service {service.name} keeps crashing (exit code {last.exit_code}, {service.restarts} restarts)"
        f"{f': {words}' if words else ''}"
    )
    return Stall("service", message, Fault.JOB, is_over=service.restarts >= SERVICE_CRASHES_LIMIT)


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

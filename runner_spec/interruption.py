"""The ends that somebody or something outside the job put to its pod: evicted, preempted, deleted, its node lost."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from runner_spec.container_failure import ran_out, run_failed, runner_failed
from runner_spec.evidence import failed
from runner_spec.outcome import Fault, Outcome
from runner_spec.pod_status import OOM_KILLED, End, Pod, State, one_line, parse_time
from runner_spec.policy import Policy
from runner_spec.report import RunReport, parse_report
from runner_spec.service_crash import TOLD_TO_END

# Reasons of the DisruptionTarget condition (core/v1) → our reason and what happened.
_DISRUPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "PreemptionByScheduler": ("preempted", "a pod of higher priority took its place"),
    "DeletionByTaintManager": ("node-lost", "its node became unfit or unreachable"),
    "EvictionByEvictionAPI": ("evicted", "it was evicted through the API, as when a node is drained"),
    "DeletionByPodGC": ("node-lost", "its node no longer exists"),
    "TerminationByKubelet": ("evicted", "its node had to end it"),
}
# Reasons of a pod's status, set by the kubelet.
_NODE_SHUTDOWN: Final = frozenset({"Terminated", "NodeShutdown", "Shutdown"})
_PREEMPTED: Final = frozenset({"Preempting", "Preempted"})
# The kubelet's eviction manager, when the pod broke its own limits and the node was fine (helpers.go and
# eviction_manager.go: podEphemeralStorageMessageFmt, containerEphemeralStorageMessageFmt, emptyDirMessageFmt).
_OWN_LIMIT: Final = re.compile(
    r"ephemeral local storage usage exceeds the total limit|exceeded its local ephemeral storage limit"
    r"|Usage of EmptyDir volume .* exceeds the limit"
)


def find_interruption(seen: Pod) -> Outcome | None:  # noqa: PLR0911 - one question a line, the first answer wins
    """The end that somebody or something outside the job put to it; None when there is no sign of any."""
    if seen.reason == "Evicted" and _OWN_LIMIT.search(seen.message):
        message = f"the job used more disk than its limit: {one_line(seen.message)}"
        return failed(seen, Fault.JOB, "storage-limit", message)
    if seen.reason == "DeadlineExceeded":
        return _deadline(seen)
    if seen.phase == "Unknown" or seen.reason == "NodeLost":
        return failed(seen, Fault.PLATFORM, "node-lost", f"the node {seen.node or 'of the pod'} was lost{_said(seen)}")
    if seen.reason in _NODE_SHUTDOWN:
        return failed(seen, Fault.PLATFORM, "node-shutdown", f"the node {seen.node} shut down{_said(seen)}")
    if seen.reason in _PREEMPTED:
        return failed(seen, Fault.PLATFORM, "preempted", f"the node needed its place for another pod{_said(seen)}")
    disruption = seen.condition("DisruptionTarget", "True")
    if disruption is not None:
        reason, what = _DISRUPTIONS.get(str(disruption.get("reason")), ("evicted", "it was disrupted"))
        said = one_line(str(disruption.get("message") or seen.message))
        return failed(seen, Fault.PLATFORM, reason, f"the pod was ended: {what}{f' ({said})' if said else ''}")
    if seen.reason == "Evicted":
        return failed(seen, Fault.PLATFORM, "evicted", f"the node evicted the pod{_said(seen)}")
    if seen.deleted_at is not None:
        return deleted(seen)
    if seen.phase == "Failed" and seen.reason:
        # Refused at the kubelet's own admission: OutOfcpu, NodeAffinity, UnexpectedAdmissionError, ….
        message = f"the node {seen.node} refused the pod ({one_line(seen.reason)}){_said(seen)}"
        return failed(seen, Fault.PLATFORM, "node-refused", message)
    return None


def failed_before(seen: Pod) -> Outcome | None:
    """The failure that had come before the interruption: then it is no interruption, but a cleaning up.

    Somebody may delete a pod in which only services are left, that are slow to stop.
    """
    moments = [seen.deleted_at]
    if (disruption := seen.condition("DisruptionTarget", "True")) is not None:
        moments.append(parse_time(disruption.get("lastTransitionTime")))
    known = [moment for moment in moments if moment is not None]
    if not known:
        return None
    for container in (seen.checkout, seen.run, seen.upload):
        if container is None or container.end is None or container.succeeded:
            continue
        if not _ended_before(container.end, min(known), exact=bool(seen.grace) or disruption is not None):
            return None
        judge = run_failed if container is seen.run else runner_failed
        return judge(seen, container, container.end)
    return None


def _ended_before(end: End, moment: float, *, exact: bool) -> bool:
    """Whether a container's end was not the interruption's doing. Times are whole seconds.

    The shim and the runner, when they are told to end, say so by their exit code: with any other they ended by
    themselves, if they did before anybody told them. With that code, only a clear difference says what came first;
    and none does in the object of a DELETED event (not `exact`), where the kubelet's own last request, with grace
    period 0, has replaced the time of the first one.
    """
    if end.finished_at is None or end.exit_code is None:
        return False
    if end.exit_code in TOLD_TO_END and end.reason != OOM_KILLED:
        return exact and end.finished_at < moment
    return end.finished_at <= moment


def failed_while_kept(seen: Pod) -> Outcome | None:
    """The job's own failure, whatever ended the keeping of its container afterwards: a cancel, a deletion, a drain.

    By the shim's own word. A job may forge it, and gains nothing: it makes one failure of another.
    """
    run = seen.run
    if not seen.kept or run is None or run.end is None or run.end.exit_code in {0, None}:
        return None
    report = parse_report(RunReport, run.end.message)
    return run_failed(seen, run, run.end) if report is not None and report.reason in {"step", "timeout"} else None


def deleted(seen: Pod) -> Outcome:
    """Deleted, and nobody says why."""
    return failed(seen, Fault.PLATFORM, "pod-deleted", "somebody deleted the pod before the job had ended")


def lost_while_deleted(seen: Pod, policy: Policy) -> Outcome:
    """To be deleted, but its node does not do it."""
    message = (
        f"the pod should have been deleted {policy.node_loss_grace} s ago, but its node"
        f"{f' {seen.node}' if seen.node else ''} does not say that its containers have stopped"
    )
    known = find_interruption(seen) if seen.condition("DisruptionTarget", "True") is not None else None
    if known is not None:
        return replace(known, message=f"{known.message}; {message}")
    return failed(seen, Fault.PLATFORM, "node-lost", message)


def _deadline(seen: Pod) -> Outcome:
    run = seen.run
    if run is not None and run.end is not None and ran_out(seen, run.end):
        message = f"the steps took longer than the timeout of {seen.timeout} s and did not stop when told to"
        return failed(seen, Fault.JOB, "timeout", message, run.end.exit_code)
    begun = [container.name for container in seen.containers if container.state is State.TERMINATED]
    where = f"in {begun[-1]}" if begun else "before its first container ran"
    return failed(seen, Fault.PLATFORM, "deadline", f"the pod was ended at its last deadline, {where}{_said(seen)}")


def _said(seen: Pod) -> str:
    words = one_line(seen.message)
    return f": {words}" if words else ""

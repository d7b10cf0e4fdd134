"""From a pod's status to what is known: it waits, it runs, or it ended, and then how and by whose fault.

Pure. The order of the questions for a pod that has ended, the first answer wins:

1. Is it proven to have succeeded? Phase, `run` and, where there is one, `upload`: all of them, from the status alone.
2. Did somebody ask for its end? Then it was canceled.
3. Was it interrupted from outside (evicted, preempted, deleted, node lost)? The platform's fault, unless `run` had
   failed before.
4. Did `checkout` fail? Its exit code says whose fault.
5. Did `run` fail? The job's own fault, but for a container that never started or was lost.
6. Did `upload` fail? Its exit code says whose fault.
7. Anything else is not understood, so it is no success: the platform's fault.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from runner_spec.anatomy import Exit
from runner_spec.outcome import Fault, Observation, Outcome, Running, Verdict, Waiting
from runner_spec.pod_status import (
    NEVER_STARTED,
    OOM_KILLED,
    STATUS_UNKNOWN,
    Container,
    End,
    Pod,
    State,
    one_line,
    parse_time,
    read_pod,
)
from runner_spec.policy import DEFAULT_POLICY, Policy
from runner_spec.report import CheckoutReport, RunReport, UploadReport, parse_report
from runner_spec.stall import Stall, find_stall

_WORD: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_SIGNAL_BASE: Final = 128  # a shell reports death by signal N as 128+N
# Linux numbers (signal(7), x86 and arm); pods run on Linux, whatever this runs on.
_SIGNALS: Final = (
    *(
        "HUP",
        "INT",
        "QUIT",
        "ILL",
        "TRAP",
        "ABRT",
        "BUS",
        "FPE",
        "KILL",
        "USR1",
        "SEGV",
        "USR2",
        "PIPE",
        "ALRM",
        "TERM",
    ),
    *("STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH"),
    *("IO", "PWR", "SYS"),
)
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


def classify(pod: Mapping[str, Any], now: float, *, policy: Policy = DEFAULT_POLICY, stop: str = "") -> Observation:
    """What a pod's status says at unix time `now`.

    Args:
        pod: the pod as the API gave it.
        now: unix seconds; only decides whether patience has run out.
        policy: how long what may be waited for.
        stop: who asked for the end (stop, cancel), for the message; empty when nobody did.
    """
    seen = read_pod(pod)
    if seen.is_terminal or seen.phase == "Unknown" or seen.reason == "NodeLost":
        return _ended(seen, stop)
    if seen.deadline is not None:
        if now > seen.deadline + policy.node_loss_grace:
            return _canceled(seen, stop) if stop else _lost_while_deleted(seen, policy)
        return _progress(seen) or Waiting("deleting", "the pod is being deleted")
    found = find_stall(seen, now, policy)
    if isinstance(found, Stall) and found.is_over:
        return _canceled(seen, stop) if stop else _failed(seen, found.fault, found.reason, found.message)
    if found is not None:
        return Waiting(found.reason, found.message)
    return _progress(seen) or Waiting("starting", "the node prepares the pod")


def classify_deleted(last_pod: Mapping[str, Any] | None, *, stop: str = "") -> Outcome:
    """How an attempt ended whose pod is gone. `last_pod` is the DELETED event's object, or the last status seen.

    None means that the pod was created but never seen: nothing proves anything, so it is the platform's fault.
    """
    if last_pod is None:
        message = "the pod is gone and its status was never seen"
        return _canceled(Pod(), stop) if stop else _failed(Pod(), Fault.PLATFORM, "pod-missing", message)
    seen = read_pod(last_pod)
    if seen.is_terminal or stop:
        return _ended(seen, stop)
    return _failed_before(seen) or _interruption(seen) or _deleted(seen)


def only_services_remain(pod: Mapping[str, Any]) -> bool:
    """Whether the attempt is over but for services that are slow to stop.

    The kubelet waits for them to the end of the pod's grace period, which is as long as `after` and upload may take.
    Deleting the pod with a short grace period then spares that time; its phase still becomes final first.
    """
    seen = read_pod(pod)
    if seen.is_terminal or seen.run is None:
        return False
    failed_early = seen.checkout.end is not None and not seen.checkout.succeeded
    over = seen.run.state is State.TERMINATED and (seen.upload is None or seen.upload.state is State.TERMINATED)
    return (failed_early or over) and any(service.state is State.RUNNING for service in seen.services)


# -- a pod that has not ended


def _progress(seen: Pod) -> Running | None:
    run, upload = seen.run, seen.upload
    if run is not None and run.state is State.RUNNING:
        return Running("run")
    if run is not None and run.state is State.TERMINATED:
        return Running("run" if upload is None else "upload")
    if seen.checkout.state in {State.RUNNING, State.TERMINATED}:
        return Running("checkout")
    if any(service.state in {State.RUNNING, State.TERMINATED} for service in seen.services):
        return Running("services")
    return None


# -- a pod that has ended


def _ended(seen: Pod, stop: str) -> Outcome:  # noqa: PLR0911 - one question a line, the first answer wins
    if is_proven(seen):
        return Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0, _evidence(seen))
    if stop:
        return _canceled(seen, stop)
    interruption = _interruption(seen)
    if interruption is not None:
        return _failed_before(seen) or interruption
    if seen.checkout.end is not None and not seen.checkout.succeeded:
        return _runner_failed(seen, seen.checkout, seen.checkout.end)
    if seen.run is not None and seen.run.end is not None and not seen.run.succeeded:
        return _run_failed(seen, seen.run, seen.run.end)
    if seen.upload is not None and not seen.upload.succeeded:
        return _upload_failed(seen, seen.upload)
    message = f"the pod ended as {seen.phase or 'unknown'}, but its status does not show that run succeeded"
    return _failed(seen, Fault.PLATFORM, "unproven", message)


def is_proven(seen: Pod) -> bool:
    """Whether the status proves success: phase Succeeded, `run` ended with 0, `upload`, if any, ended with 0."""
    if seen.phase != "Succeeded" or seen.run is None or not seen.run.succeeded:
        return False
    if seen.checkout.end is not None and not seen.checkout.succeeded:
        return False  # contradicts the phase: do not guess which of the two is right
    return seen.upload is None or seen.upload.succeeded


def _interruption(seen: Pod) -> Outcome | None:  # noqa: PLR0911 - as above
    """The end that somebody or something outside the job put to it."""
    if seen.reason == "Evicted" and _OWN_LIMIT.search(seen.message):
        message = f"the job used more disk than its limit: {one_line(seen.message)}"
        return _failed(seen, Fault.JOB, "storage-limit", message)
    if seen.reason == "DeadlineExceeded":
        return _deadline(seen)
    if seen.phase == "Unknown" or seen.reason == "NodeLost":
        return _failed(seen, Fault.PLATFORM, "node-lost", f"the node {seen.node or 'of the pod'} was lost{_said(seen)}")
    if seen.reason in _NODE_SHUTDOWN:
        return _failed(seen, Fault.PLATFORM, "node-shutdown", f"the node {seen.node} shut down{_said(seen)}")
    if seen.reason in _PREEMPTED:
        return _failed(seen, Fault.PLATFORM, "preempted", f"the node needed its place for another pod{_said(seen)}")
    disruption = seen.condition("DisruptionTarget", "True")
    if disruption is not None:
        reason, what = _DISRUPTIONS.get(str(disruption.get("reason")), ("evicted", "it was disrupted"))
        said = one_line(str(disruption.get("message") or seen.message))
        return _failed(seen, Fault.PLATFORM, reason, f"the pod was ended: {what}{f' ({said})' if said else ''}")
    if seen.reason == "Evicted":
        return _failed(seen, Fault.PLATFORM, "evicted", f"the node evicted the pod{_said(seen)}")
    if seen.deleted_at is not None:
        return _deleted(seen)
    if seen.phase == "Failed" and seen.reason:
        # Refused at the kubelet's own admission: OutOfcpu, NodeAffinity, UnexpectedAdmissionError, ….
        message = f"the node {seen.node} refused the pod ({one_line(seen.reason)}){_said(seen)}"
        return _failed(seen, Fault.PLATFORM, "node-refused", message)
    return None


def _failed_before(seen: Pod) -> Outcome | None:
    """The job's own failure, when `run` had ended before the interruption: another attempt would fail as well."""
    moments = [seen.deleted_at]
    if (disruption := seen.condition("DisruptionTarget", "True")) is not None:
        moments.append(parse_time(disruption.get("lastTransitionTime")))
    known = [moment for moment in moments if moment is not None]
    run = seen.run
    if run is None or run.end is None or run.end.finished_at is None or not known or run.end.exit_code in {0, None}:
        return None
    # Times are whole seconds: only a clear difference says what came first.
    return _run_failed(seen, run, run.end) if run.end.finished_at < min(known) else None


def _deadline(seen: Pod) -> Outcome:
    run = seen.run
    if run is not None and run.end is not None and _ran_out(seen, run.end):
        message = f"the steps took longer than the timeout of {seen.timeout} s and did not stop when told to"
        return _failed(seen, Fault.JOB, "timeout", message, run.end.exit_code)
    stage = _progress(seen)
    where = f"in {stage.stage}" if stage else "before its first container ran"
    return _failed(seen, Fault.PLATFORM, "deadline", f"the pod was ended at its last deadline, {where}{_said(seen)}")


def _deleted(seen: Pod) -> Outcome:
    return _failed(seen, Fault.PLATFORM, "pod-deleted", "somebody deleted the pod before the job had ended")


def _lost_while_deleted(seen: Pod, policy: Policy) -> Outcome:
    message = (
        f"the pod should have been deleted {policy.node_loss_grace} s ago, but its node"
        f"{f' {seen.node}' if seen.node else ''} does not say that its containers have stopped"
    )
    return _failed(seen, Fault.PLATFORM, "node-lost", message)


def _canceled(seen: Pod, stop: str) -> Outcome:
    code = seen.run.end.exit_code if seen.run is not None and seen.run.end is not None else None
    return Outcome(Verdict.CANCELED, Fault.USER, "canceled", f"stopped by {one_line(stop)}", code, _evidence(seen))


def _run_failed(seen: Pod, run: Container, end: End) -> Outcome:
    return _shim_failed(seen, end) or _steps_failed(seen, run, end)


def _steps_failed(seen: Pod, run: Container, end: End) -> Outcome:
    code = end.exit_code
    if end.reason == STATUS_UNKNOWN or code is None:
        message = "the node lost the run container and cannot say how it ended"
        return _failed(seen, Fault.PLATFORM, "container-lost", message)
    if end.reason in NEVER_STARTED:
        message = f"the run container could not be started: {one_line(end.message) or end.reason}"
        return _failed(seen, Fault.PLATFORM, "start-error", message, code)
    if end.reason == OOM_KILLED:
        limit = f" of {run.memory_limit}" if run.memory_limit else ""
        message = f"run used more than its memory limit{limit} and was killed (exit code {code})"
        return _failed(seen, Fault.JOB, "oom", message, code)
    if code == Exit.TIMEOUT and _ran_out(seen, end):
        message = f"the steps took longer than the timeout of {seen.timeout} s"
        return _failed(seen, Fault.JOB, "timeout", message, code)
    what = _failing_step(end)
    services = _crashed_services(seen)
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + len(_SIGNALS):
        name = f"SIG{_SIGNALS[code - _SIGNAL_BASE - 1]}"
        return _failed(seen, Fault.JOB, "signal", f"{what} was killed by {name} (exit code {code}){services}", code)
    return _failed(seen, Fault.JOB, "exit", f"{what} ended with exit code {code}{services}", code)


def _shim_failed(seen: Pod, end: End) -> Outcome | None:
    """By the shim's own word. A job may forge it, and gains nothing but a retry of what fails."""
    report = parse_report(RunReport, end.message)
    if end.exit_code != Exit.SHIM or report is None or report.reason != "shim":
        return None
    message = f"the steps could not be run: {one_line(report.message) or 'the shim failed'}"
    return _failed(seen, Fault.PLATFORM, "shim", message, Exit.SHIM)


def _ran_out(seen: Pod, end: End) -> bool:
    """Whether the container ran as long as the timeout. Both times are cut to whole seconds, so it never seems less."""
    return seen.timeout is not None and end.seconds is not None and end.seconds >= seen.timeout


def _failing_step(end: End) -> str:
    """For the message only: a job can forge its own report."""
    report = parse_report(RunReport, end.message)
    for step in report.steps if report else ():
        if not step.after and step.exit not in {0, None} and step.name:
            return f"step {one_line(step.name, 80)}"
    return "run"


def _runner_failed(seen: Pod, container: Container, end: End) -> Outcome:
    """`checkout` or `upload` ended otherwise than with 0: the exit code says whose fault, the report only why."""
    name, code = container.name, end.exit_code
    report: CheckoutReport | UploadReport | None
    if name == seen.checkout.name:
        report = parse_report(CheckoutReport, end.message)
    else:
        report = parse_report(UploadReport, end.message)
    if end.reason == STATUS_UNKNOWN or code is None:
        return _failed(seen, Fault.PLATFORM, "container-lost", f"the node lost {name} and cannot say how it ended")
    if end.reason == OOM_KILLED:
        message = f"{name} used more than its memory limit of {container.memory_limit or 'unknown size'}"
        return _failed(seen, Fault.PLATFORM, "oom", f"{message}; the operator's policy.runner_resources sets it", code)
    if end.reason in NEVER_STARTED:
        message = f"{name} could not be started: {one_line(end.message) or end.reason}"
        return _failed(seen, Fault.PLATFORM, "start-error", message, code)
    reason = report.reason if report and report.reason != "ok" and _WORD.fullmatch(report.reason) else name
    said = one_line(report.message) if report else _last_line(end.message)
    if code in {Exit.JOB_FAULT, Exit.TEMPFAIL}:
        fault = Fault.JOB if code == Exit.JOB_FAULT else Fault.PLATFORM
        message = f"{name}: {said}" if said else f"{name} ended with exit code {code}"
        services = _crashed_services(seen) if name == seen.checkout.name else ""
        return _failed(seen, fault, reason, f"{message}{services}", code)
    if code > _SIGNAL_BASE:
        return _failed(seen, Fault.PLATFORM, f"{name}-killed", f"{name} was killed (exit code {code})", code)
    message = f"{name} crashed with exit code {code}{f': {said}' if said else ''}"
    return _failed(seen, Fault.PLATFORM, f"{name}-crashed", message, code)


def _upload_failed(seen: Pod, upload: Container) -> Outcome:
    if upload.end is not None:
        return _runner_failed(seen, upload, upload.end)
    message = "run succeeded, but the pod ended without a word from upload"
    return _failed(seen, Fault.PLATFORM, "upload-unconfirmed", message)


def _crashed_services(seen: Pod) -> str:
    """A hint for the message: a step rarely says that its database was gone."""
    crashed = [service for service in seen.services if service.last_end is not None and service.restarts]
    notes = [
        f"{service.name} (exit code {service.last_end.exit_code}"  # type: ignore[union-attr]
        f"{', out of memory' if service.last_end.reason == OOM_KILLED else ''})"  # type: ignore[union-attr]
        for service in crashed
    ]
    return f"; services crashed meanwhile: {', '.join(notes)}" if notes else ""


def _failed(seen: Pod, fault: Fault, reason: str, message: str, exit_code: int | None = None) -> Outcome:
    return Outcome(Verdict.FAILED, fault, reason, message, exit_code, _evidence(seen))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return one_line(lines[-1]) if lines else ""


def _said(seen: Pod) -> str:
    words = one_line(seen.message)
    return f": {words}" if words else ""


def _evidence(seen: Pod) -> dict[str, Any]:
    """What was seen, JSON-pure; empty facts are left out. Reports are not repeated: they are in the result."""
    facts: dict[str, Any] = {
        "pod": seen.name,
        "uid": seen.uid,
        "node": seen.node,
        "phase": seen.phase,
        "reason": seen.reason,
        "message": one_line(seen.message),
        "deleted_at": seen.deleted_at,
        "containers": {container.name: _container_evidence(container) for container in seen.containers},
    }
    if (disruption := seen.condition("DisruptionTarget", "True")) is not None:
        facts["disruption"] = {key: one_line(str(disruption.get(key, ""))) for key in ("reason", "message")}
    return {name: fact for name, fact in facts.items() if fact not in ("", None, {})}


def _container_evidence(container: Container) -> dict[str, Any]:
    end = container.end or container.last_end
    facts: dict[str, Any] = {
        "state": str(container.state),
        "exit_code": end.exit_code if end else None,
        "reason": one_line(container.reason or (end.reason if end else ""), 80),
        "message": one_line(container.message),
        "restarts": container.restarts or None,
        "started_at": container.started_at,
        "finished_at": end.finished_at if end else None,
    }
    return {name: fact for name, fact in facts.items() if fact not in ("", None)}

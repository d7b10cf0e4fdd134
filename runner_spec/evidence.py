"""Outcomes made from a pod's status, each with what was seen: small, JSON-pure, enough to judge the verdict by."""

from typing import Any

from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.pod_status import Container, Pod, one_line


def failed(seen: Pod, fault: Fault, reason: str, message: str, exit_code: int | None = None) -> Outcome:
    """A failure, with its evidence."""
    return Outcome(Verdict.FAILED, fault, reason, message, exit_code, evidence_of(seen))


def canceled(seen: Pod, stop: str) -> Outcome:
    """The end that `stop` asked for, with its evidence."""
    code = seen.run.end.exit_code if seen.run is not None and seen.run.end is not None else None
    return Outcome(Verdict.CANCELED, Fault.USER, "canceled", f"stopped by {one_line(stop)}", code, evidence_of(seen))


def succeeded(seen: Pod) -> Outcome:
    """Success; whoever asks for it has the proof (`classify.is_proven`)."""
    return Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0, evidence_of(seen))


def evidence_of(seen: Pod) -> dict[str, Any]:
    """What was seen; empty facts are left out. Reports are not repeated: they are in the result."""
    facts: dict[str, Any] = {
        "pod": seen.name,
        "uid": seen.uid,
        "node": seen.node,
        "phase": seen.phase,
        "reason": seen.reason,
        "message": one_line(seen.message),
        "deleted_at": seen.deleted_at,
        "containers": {container.name: _container(container) for container in seen.containers},
    }
    if (disruption := seen.condition("DisruptionTarget", "True")) is not None:
        facts["disruption"] = {key: one_line(str(disruption.get(key, ""))) for key in ("reason", "message")}
    if (unscheduled := seen.condition("PodScheduled", "False")) is not None:
        facts["unscheduled"] = one_line(str(unscheduled.get("message", "")))
    return {name: fact for name, fact in facts.items() if fact not in ("", None, {})}


def _container(container: Container) -> dict[str, Any]:
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

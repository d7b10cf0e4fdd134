"""How a job ended, as the commands show it: read from its result, tolerant of what is missing. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runner_spec.anatomy import CHECKOUT, RUN, UPLOAD
from runner_spec.report import ArtifactReport, CacheReport, RunReport, StepReport, UploadReport, parse_report
from worker.job_status import JobStatus

WAITING: Final = "waiting"
# Services come between waiting and checkout: they start first.
_RANK: Final = {WAITING: 0, CHECKOUT: 2, RUN: 3, UPLOAD: 4}
_SERVICE_RANK: Final = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of an attempt; `seconds` of wall time, None when its end was not seen."""

    name: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class ServiceEnd:
    """A service that crashed, or never became ready, and the last lines of its log."""

    name: str
    crashed: bool
    exit_code: int | None = None
    restarts: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """A job's end. `verdict` and `fault` are words of `runner_spec.outcome`, or `unknown` when nothing was recorded."""

    verdict: str
    fault: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    attempt: int = 0
    commit: str = ""
    stages: tuple[Stage, ...] = ()
    steps: tuple[StepReport, ...] = ()
    caches: tuple[CacheReport, ...] = ()
    artifacts: tuple[ArtifactReport, ...] = ()
    services: tuple[ServiceEnd, ...] = ()


def read_ending(status: JobStatus) -> Ending:
    """The end of a job that has ended.

    Without a recorded result, only a cancellation is believed from rq's status alone: `finished` without a result is
    `unknown`, never a success.
    """
    result = status.result
    verdict = str(result.get("verdict") or "")
    if not verdict:
        return _unrecorded(status)
    exit_code = result.get("exit_code")
    fault, reason, message = (str(result.get(field) or "") for field in ("fault", "reason", "message"))
    if status.status == "canceled" and verdict != "canceled":  # rq's word for a job that waited, here for its retry
        message = f"The job was canceled while it waited to try again; its last attempt {verdict}: {message}"
        verdict, fault, reason = "canceled", "user", "canceled"
    return Ending(
        verdict=verdict,
        fault=fault,
        reason=reason,
        message=message,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        attempt=_whole(result.get("attempt")) or status.attempt,
        commit=str(result.get("commit") or ""),
        stages=_stages(result),
        steps=_steps(result.get("steps")),
        caches=_uploaded(result, "caches").caches,
        artifacts=_uploaded(result, "artifacts").artifacts,
        services=tuple(_service(entry) for entry in _objects(result.get("services"))),
    )


def _unrecorded(status: JobStatus) -> Ending:
    if status.status in {"canceled", "stopped"}:
        when = "before it started" if status.started_at is None else "while it ran"
        return Ending("canceled", fault="user", reason="canceled", message=f"The job was canceled {when}.")
    cause = status.error.splitlines()[-1] if status.error else "the record has expired, or another worker ran the job"
    message = f"rq's status is {status.status!r}, but no result of dynapod is recorded: {cause}."
    return Ending("unknown", fault="platform", reason="no-result", message=message, attempt=status.attempt)


def _stages(result: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages in the order of a job's life; `upload` counts from the end of `run`, for which it waits."""
    entries = {str(entry.get("name") or ""): entry for entry in _objects(result.get("stages"))}
    seconds = {name: _number(entry.get("seconds")) for name, entry in entries.items()}
    ends = {name: _end(entry) for name, entry in entries.items()}
    # Kubernetes' times are whole seconds; the steps measured theirs to the hundredth.
    measured = sum((step.seconds for step in _steps(result.get("steps"))), start=0.0)
    if RUN in seconds and measured > (seconds[RUN] or 0.0):
        seconds[RUN] = measured
    run_end, upload_end = ends.get(RUN), ends.get(UPLOAD)
    if run_end is not None and upload_end is not None:
        seconds[UPLOAD] = max(0.0, upload_end - run_end)
    timings = result.get("timings")
    if isinstance(timings, Mapping) and (waiting := _number(timings.get("waiting"))):
        seconds[WAITING] = waiting
    stages = [Stage(name, spent) for name, spent in seconds.items()]
    return tuple(sorted(stages, key=lambda stage: _RANK.get(stage.name, _SERVICE_RANK)))


def _end(entry: Mapping[str, Any]) -> float | None:
    begun, seconds = _number(entry.get("started_at")), _number(entry.get("seconds"))
    return None if begun is None or seconds is None else begun + seconds


def _steps(entries: object) -> tuple[StepReport, ...]:
    steps = [{**entry, "exit": entry.get("exit_code")} for entry in _objects(entries)]
    report = parse_report(RunReport, json.dumps({"reason": "", "steps": steps}))
    return report.steps if report else ()


def _service(entry: Mapping[str, Any]) -> ServiceEnd:
    code, lines = entry.get("exit_code"), entry.get("lines")
    return ServiceEnd(
        name=str(entry.get("name") or ""),
        crashed=entry.get("crashed") is True,
        exit_code=code if isinstance(code, int) else None,
        restarts=_whole(entry.get("restarts")),
        reason=str(entry.get("reason") or ""),
        lines=tuple(map(str, lines)) if isinstance(lines, list | tuple) else (),
    )


def _uploaded(result: Mapping[str, Any], name: str) -> UploadReport:
    report = parse_report(UploadReport, json.dumps({"reason": "", name: _objects(result.get(name))}))
    return report or UploadReport("")


def _objects(entries: object) -> Sequence[Mapping[str, Any]]:
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list | tuple) else []


def _number(value: object) -> float | None:
    """A number that arithmetic can use; JSON's integers have no limit, and Python's JSON knows NaN."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0

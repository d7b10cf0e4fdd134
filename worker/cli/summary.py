"""The last words about a job: stages, steps, caches, artifacts, tests and the outcome, as lines. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from runner_spec.report import ArtifactReport, StepReport
from worker.cli.ending import Ending, ServiceEnd
from worker.cli.log_text import display_text
from worker.cli.paint import PLAIN, Paint
from worker.cli.quantity import counted, duration, roughly, short_digest, size
from worker.cli.table import table
from worker.job_status import JobStatus

# Failed test cases shown; the JUnit artifact has them all.
FAILED_TESTS_SHOWN: Final = 20
KEY_CHARACTERS: Final = 40  # of a cache key shown: the hash in it is 64 digits long
_NONE: Final = "-"


def summary(
    ending: Ending, *, job_id: str, seconds: float, paths: Mapping[str, str], paint: Paint = PLAIN
) -> list[str]:
    """The summary of a job that has ended, without colour unless `paint` has some.

    `seconds` is the time from submission to end; `paths` says where the files of each artifact are now.
    """
    blocks = [
        _stages(ending, seconds),
        _steps(ending.steps),
        _caches(ending),
        _artifacts(ending.artifacts, paths),
        _tests(ending.artifacts, paint),
        service_lines(ending.services, paint),
        outcome_lines(ending, job_id=job_id, seconds=seconds, paint=paint),
    ]
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block]
    return lines


def outcome_lines(ending: Ending, *, job_id: str, seconds: float | None = None, paint: Paint = PLAIN) -> list[str]:
    """One line for the verdict with its reason, one for the message if there is one."""
    meaning = {"succeeded": "good", "canceled": "warning"}.get(ending.verdict, "bad")
    details: list[str] = []
    if ending.verdict != "succeeded":
        code = None if ending.exit_code is None else f"exit code {ending.exit_code}"
        # `exit` says no more than the code does, and `canceled` no more than the verdict.
        reason = None if ending.reason in {"", "exit", ending.verdict} else display_text(ending.reason)
        details += filter(None, (reason, code))
    if ending.fault in {"job", "platform"}:
        details.append(f"the {ending.fault}'s fault")
    if ending.attempt > 1:
        details.append(f"attempt {ending.attempt}")
    took = "" if seconds is None else f" in {duration(seconds)}"
    first = paint(meaning, ending.verdict) + (f" ({', '.join(details)})" if details else "") + took
    lines = [f"{display_text(job_id)}: {first}"]
    if ending.message and ending.verdict != "succeeded":
        lines.append("  " + display_text(ending.message))
    return lines


def service_lines(services: Sequence[ServiceEnd], paint: Paint = PLAIN) -> list[str]:
    """Each service that had trouble, with the last lines of its log."""
    lines = []
    for service in services:
        facts = [] if service.exit_code is None else [f"exit code {service.exit_code}"]
        facts += ["out of memory"] if service.reason == "oom" else []
        facts += [f"restarted {counted(service.restarts, 'time')}"] if service.restarts else []
        what = "crashed" if service.crashed else "was not ready"
        lines.append(
            f"service {display_text(service.name)} "
            + paint("bad", what)
            + (f" ({', '.join(facts)})" if facts else "")
            + ("; the last lines of its log:" if service.lines else "; its log is empty")
        )
        lines += [f"  | {display_text(line)}" for line in service.lines]
    return lines


def summary_document(
    ending: Ending, status: JobStatus, *, seconds: float, paths: Mapping[str, str], exit_status: int
) -> dict[str, Any]:
    """The one JSON document of `--json`: the recorded result, unchanged, and what the command knows besides."""
    return {
        "job": status.id,
        "name": status.name,
        "status": status.status,
        "verdict": ending.verdict,
        "exit_status": exit_status,
        "seconds": round(seconds, 3),
        "result": dict(status.result),
        "paths": dict(paths),
    }


def _stages(ending: Ending, seconds: float) -> list[str]:
    rows = [
        (display_text(stage.name), _NONE if stage.seconds is None else roughly(stage.seconds))
        for stage in ending.stages
    ]
    lines = table(("stage", "time"), [*rows, ("in all", duration(seconds))] if rows else [], right=("time",))
    if ending.commit:
        lines.append(f"commit {display_text(ending.commit)}")
    return lines


def _steps(steps: Sequence[StepReport]) -> list[str]:
    rows = [
        (display_text(step.name) + (" (after)" if step.after else ""), duration(step.seconds), str(step.exit))
        for step in steps
    ]
    return table(("step", "time", "exit"), rows, right=("time", "exit"))


def _caches(ending: Ending) -> list[str]:
    rows = [
        (_shortened(cache.key), cache.result + (f": {display_text(cache.message)}" if cache.message else ""),
         size(cache.size) if cache.size else _NONE)
        for cache in ending.caches
    ]  # fmt: skip
    return table(("cache", "result", "size"), rows, right=("size",))


def _shortened(key: str) -> str:
    text = display_text(key)
    return text if len(text) <= KEY_CHARACTERS else text[: KEY_CHARACTERS - 1] + "…"


def _artifacts(artifacts: Sequence[ArtifactReport], paths: Mapping[str, str]) -> list[str]:
    rows = []
    for artifact in artifacts:
        digest = short_digest(artifact.files[0].sha256) if artifact.count == 1 and artifact.files else _NONE
        where = paths.get(artifact.name) or display_text(artifact.message) or _NONE
        uploaded = artifact.result == "uploaded"
        rows.append(
            (
                display_text(artifact.name),
                artifact.result,
                str(artifact.count) if uploaded else _NONE,
                size(artifact.size) if uploaded else _NONE,
                digest,
                where,
            )
        )
    return table(("artifact", "result", "files", "size", "sha256", "path"), rows, right=("files", "size"))


def _tests(artifacts: Sequence[ArtifactReport], paint: Paint) -> list[str]:
    lines = []
    for artifact in artifacts:
        if (junit := artifact.junit) is None:
            continue
        bad = junit.failures + junit.errors
        totals = f"{counted(junit.tests, 'test')}, {junit.failures} failed, {counted(junit.errors, 'error')}"
        totals += f", {junit.skipped} skipped, {duration(junit.seconds)}"
        lines.append(f"{display_text(artifact.name)}: " + paint("bad" if bad else "good", totals))
        shown = junit.failed[:FAILED_TESTS_SHOWN]
        lines += [f"  failed: {display_text(case)}" for case in shown]
        if bad > len(shown):
            lines.append(f"  and {bad - len(shown)} more, see the artifact")
    return lines

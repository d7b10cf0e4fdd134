"""A job's status and a list of jobs, as lines. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime

from runner_spec.outcome import NO_ROOM
from worker.cli.ending import read_ending
from worker.cli.log_text import display_text
from worker.cli.paint import PLAIN, Paint
from worker.cli.quantity import duration
from worker.cli.summary import outcome_lines, service_lines
from worker.cli.table import table
from worker.cli.waiting import why_it_waits
from worker.client import Listing
from worker.job_status import AttemptRecord, JobStatus

_NONE = "-"


def doing(status: JobStatus) -> str:
    """What the job does now, in one line: its verdict, its stage, or what it waits for."""
    if status.ended:
        ending = read_ending(status)
        telling = ending.verdict != "succeeded" and ending.reason not in {"", ending.verdict}
        return ending.verdict + (f", {display_text(ending.reason)}" if telling else "")
    return why_it_waits(status) or f"running: {display_text(status.stage)}"


def status_lines(status: JobStatus, now: float, paint: Paint = PLAIN) -> list[str]:
    """The whole of `dynapod status`; `now` is in Unix seconds."""
    since = f" for {duration(now - status.since)}" if status.since and not status.ended else ""
    facts = [
        ("job", display_text(status.id)),
        ("name", display_text(status.name)),
        ("queue", display_text(status.queue)),
        ("status", f"{doing(status)}{since} ({status.status})"),
        ("attempt", str(status.attempt or "")),
        ("pod", display_text(status.pod)),
        ("worker", display_text(status.worker)),
        ("enqueued", _moment(status.enqueued_at)),
        ("started", _moment(status.started_at)),
        ("ended", _moment(status.ended_at)),
    ]
    lines = [f"{name:<9} {value}" for name, value in facts if value]
    if attempts := attempt_lines(status.attempts):
        lines += ["", *attempts]
    if status.ended:
        ending = read_ending(status)
        lines += ["", *service_lines(ending.services, paint), *outcome_lines(ending, job_id=status.id, paint=paint)]
    return lines


def attempt_lines(attempts: Iterable[AttemptRecord]) -> list[str]:
    """The ledger as a table."""
    rows = []
    for record in attempts:
        facts = record.result
        began = record.waiting_since or record.started_at
        took = record.ended_at - began if record.ended_at and began else None
        rows.append(
            (
                str(record.number),
                _outcome(record),
                display_text(str(facts.get("reason") or _NONE)),
                _NONE if took is None else duration(took),
                record.pod or _NONE,
                display_text(str(facts.get("message") or "")),
            )
        )
    return table(("attempt", "outcome", "reason", "time", "pod", "message"), rows, right=("attempt", "time"))


def _outcome(record: AttemptRecord) -> str:
    """An attempt that never began, for want of room, is recorded as one that did not succeed; people call it a wait."""
    if record.result.get("reason") != NO_ROOM:
        return display_text(str(record.result.get("verdict") or _NONE))
    return f"waited {record.waits} times" if record.waits > 1 else "waited"


def listing_lines(listing: Listing, now: float) -> list[str]:
    """The whole of `dynapod list`; `now` is in Unix seconds."""
    rows = [
        (
            display_text(job.id),
            display_text(job.name) or _NONE,
            job.status,
            _NONE if job.created_at is None else duration(now - job.created_at.timestamp()),
            doing(job),
        )
        for job in listing.jobs
    ]
    lines = table(("job", "name", "status", "age", "doing"), rows, right=("age",)) or ["no jobs"]
    if listing.total > len(rows):
        lines.append(f"{listing.total - len(rows)} more: raise --limit, or choose with --status")
    return lines


def _moment(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else ""

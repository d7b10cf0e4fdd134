"""Why a job waits, in one line: queue, workers, limits, quota, the scheduler, the registry, a Secret. Pure."""

from datetime import UTC, datetime
from typing import Final

from runner_spec.anatomy import RESERVED_CONTAINERS
from runner_spec.outcome import NO_ROOM
from worker.cli.log_text import display_text
from worker.cli.quantity import counted
from worker.job_status import JobStatus

SERVICES: Final = "services"
# Stages in which a container runs; in any other the job waits for something.
_RUNNING_STAGES: Final = frozenset({*RESERVED_CONTAINERS, SERVICES})
# What a job of these rq statuses waits for.
_WAITS: Final = {
    "created": "waiting to be enqueued",
    "deferred": "waiting for the jobs it depends on",
    "ready_to_enqueue": "waiting to be enqueued, its dependencies are met",
    "rate_limited": "waiting for a slot of its rate limit",
    "scheduled": "waiting for its time",
}


def why_it_waits(status: JobStatus) -> str:
    """One line saying what a job that has neither started nor ended waits for; empty for any other job."""
    if status.ended:
        return ""
    if status.stop_requested_by is not None:
        return "stopping: told to by " + display_text(status.stop_requested_by)
    if status.status == "queued":
        return _why_queued(status)
    if status.status == "scheduled" and status.scheduled_at:
        return _why_scheduled(status, status.scheduled_at)
    if status.status in _WAITS:
        return _WAITS[status.status] + _details(status)
    running = status.stage in _RUNNING_STAGES
    return "" if running else "waiting: " + (display_text(status.why) or "for its pod to start")


def _details(status: JobStatus) -> str:
    if status.status == "rate_limited":
        return f": {display_text(status.rate_limit)}" if status.rate_limit else ""
    return ": " + ", ".join(map(display_text, status.waits_for)) if status.waits_for else ""


def _why_queued(status: JobStatus) -> str:
    if status.workers == 0:
        return f"waiting for a worker: none serves queue {status.queue!r}"
    obstacle = _obstacle(status)
    if status.ahead:
        place = f"waiting in queue {status.queue!r}: {counted(status.ahead, 'job')} ahead"
    elif status.workers and not obstacle:
        return "waiting for a worker to take it"
    else:
        place = f"{'waiting' if status.ahead is None else 'next'} in queue {status.queue!r}"
    return f"{place}; {obstacle}" if obstacle else place


def _obstacle(status: JobStatus) -> str:
    """What keeps the workers from taking jobs."""
    if status.suspended:
        return "all queues are suspended: `rq resume` lets the workers go on"
    if status.no_room:
        return f"Kubernetes' quota is used up: {display_text(status.no_room)}"
    if status.capacity is not None and status.in_flight is not None and status.in_flight >= status.capacity:
        workers = "the only worker is full" if status.workers == 1 else f"all {status.workers} workers are full"
        return f"{workers}: {status.in_flight} of {counted(status.capacity, 'job')}"
    return ""


def _why_scheduled(status: JobStatus, due: float) -> str:
    if not status.attempts:
        return f"waiting for its time: {_clock(due)}"
    last = status.attempts[-1]
    reason, message = (display_text(str(last.result.get(field) or "")) for field in ("reason", "message"))
    if reason == NO_ROOM:
        return f"waiting for room: {message}; next try at {_clock(due)}"
    cause = f" ({reason}: {message})" if reason else ""
    return f"waiting to try again after attempt {last.number}{cause}; next try at {_clock(due)}"


def _clock(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # infinity, or a year of more than four digits: Redis takes any number
        return "after all time" if seconds > 0 else "before all time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")

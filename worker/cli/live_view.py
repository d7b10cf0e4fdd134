"""A job's life as lines of text: what is printed when something is heard of it.

No I/O and no clock: `now` is passed in (Unix seconds), lines come back. `terminal` prints them.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from runner_spec.anatomy import RESERVED_CONTAINERS
from worker.cli.log_text import display_lines, display_text
from worker.cli.paint import PLAIN, Paint
from worker.cli.quantity import counted, duration
from worker.job_status import JobStatus

if TYPE_CHECKING:
    from worker.log_store import LogChunk

SERVICES: Final = "services"
STEP_MARK: Final = "[dynapod] "
WAITING_MARK: Final = "... "
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


@dataclass(slots=True)
class LiveView:
    """Turns statuses and log lines into lines to print, in the order in which it hears of them.

    Headings follow the log's own containers, not the status: the two arrive on different ways, and a heading must
    never stand above another stage's output.
    """

    started: float
    paint: Paint = PLAIN
    timestamps: bool = False
    progress_line: bool = False  # a reason to wait is shown there; without one, each gets a line of its own
    _section: str = ""
    _attempt: int = 0
    _waiting: str = ""
    _status: JobStatus | None = field(default=None)

    def status(self, status: JobStatus, now: float) -> list[str]:
        """Lines for a new status: a new attempt, or a new reason to wait."""
        self._status = status
        lines = []
        if status.attempt > self._attempt:
            if self._attempt:
                lines.append(self._attempt_heading(status, now))
                self._section = ""
            self._attempt = status.attempt
        waiting = why_it_waits(status)
        if waiting and waiting != self._waiting and not self.progress_line:
            lines.append(self.paint("faint", WAITING_MARK + waiting))
        self._waiting = waiting
        return lines

    def log(self, line: "LogChunk", now: float) -> list[str]:
        """Lines for one line of the log, after a heading where a stage begins."""
        service = line.container not in RESERVED_CONTAINERS
        lines = []
        section = SERVICES if service else line.container
        # A service goes on printing in later stages: its lines bear its name there, and make no heading.
        if section != self._section and not (service and self._section):
            lines.append(self._heading(section, now))
            self._section = section
        if line.notice:
            return [*lines, self.paint("warning", f"!!! {line.container}: {_text(line)}")]
        prefix = self.paint("faint", f"{line.container} | ") if service else ""
        if self.timestamps and line.timestamp:
            prefix = self.paint("faint", f"{line.timestamp} ") + prefix
        step = line.text.startswith(STEP_MARK.encode())
        shown = display_lines(line.text, colours=self.paint.colours and not step)
        return lines + [prefix + (self.paint("step", text) if step else text) for text in shown]

    def progress(self, now: float) -> str:
        """What the job does now, in one line, for a terminal that can rewrite it; empty when nothing is known."""
        if self._status is None or self._status.ended:
            return ""
        doing = self._waiting or self._status.stage or self._status.status
        since = self._status.since or self.started
        return self.paint("faint", f"{WAITING_MARK}{doing} ({duration(now - since)})")

    def _heading(self, section: str, now: float) -> str:
        return self.paint("heading", f"==> {section}") + self.paint("faint", f"  at {duration(now - self.started)}")

    def _attempt_heading(self, status: JobStatus, now: float) -> str:
        ended = next((record for record in status.attempts if record.number == self._attempt), None)
        message = display_text(str(ended.result.get("message") or "")) if ended else ""
        cause = f": attempt {self._attempt} ended: {message}" if message else ""
        return self.paint("warning", f"==> attempt {status.attempt}{cause}") + self.paint(
            "faint", f"  at {duration(now - self.started)}"
        )


def why_it_waits(status: JobStatus) -> str:
    """One line saying what a job that has neither started nor ended waits for; empty for any other job."""
    if status.ended:
        return ""
    if status.stop_requested_by is not None:
        return "stopping: told to by " + display_text(status.stop_requested_by)
    if status.status == "queued":
        return _why_queued(status)
    if status.status == "scheduled" and status.scheduled_at:
        return f"waiting {'to try again' if status.attempts else 'for its time'}: {_clock(status.scheduled_at)}"
    if status.status in _WAITS:
        jobs = ": " + ", ".join(map(display_text, status.waits_for)) if status.waits_for else ""
        return _WAITS[status.status] + jobs
    running = status.stage in _RUNNING_STAGES
    return "" if running else "waiting: " + (display_text(status.why) or "for its pod to start")


def _why_queued(status: JobStatus) -> str:
    if not status.workers:
        return f"waiting for a worker: none serves queue {status.queue!r}"
    if not status.ahead:
        return "waiting for a worker to take it"
    return f"waiting in queue {status.queue!r}: {counted(status.ahead, 'job')} ahead"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _text(line: "LogChunk") -> str:
    return display_text(line.text.decode("utf-8", "replace"))

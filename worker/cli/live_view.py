"""A job's life as lines of text: what is printed when something is heard of it.

No I/O and no clock: `now` is passed in (Unix seconds), lines come back. `terminal` prints them.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from runner_spec.anatomy import RESERVED_CONTAINERS
from worker.cli.log_text import display_lines, display_text
from worker.cli.paint import PLAIN, Paint
from worker.cli.quantity import duration
from worker.cli.waiting import SERVICES, why_it_waits
from worker.job_status import JobStatus

if TYPE_CHECKING:
    from worker.log_store import LogChunk

STEP_MARK: Final = "[dynapod] "
WAITING_MARK: Final = "... "


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


def _text(line: "LogChunk") -> str:
    return display_text(line.text.decode("utf-8", "replace"))

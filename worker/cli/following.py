"""Following a job to its end: its status and its logs, told to a narrator as they come."""

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from worker.cli.cancellation import cancel_and_wait
from worker.cli.live_view import LiveView
from worker.cli.terminal import Terminal
from worker.job_status import JobStatus

if TYPE_CHECKING:
    from worker.client import JobClient
    from worker.log_store import LogChunk

# How long the rest of an attempt's log may take after the attempt has ended. Logs are stored before the end is
# recorded, so this covers reading alone.
LOG_DRAIN_SECONDS: Final = 30.0
PROGRESS_SECONDS: Final = 0.5


class Narrator(Protocol):
    """Hears what happens to a job."""

    def status(self, status: JobStatus) -> None:
        """The job's status has changed."""

    def log(self, line: "LogChunk") -> None:
        """Its log has one more line."""

    def remark(self, text: str) -> None:
        """The follower itself has something to say."""

    def tick(self) -> None:
        """Time has passed."""


class TerminalNarrator:
    """Tells it on a terminal. `quiet` leaves out the log, not what went wrong with it."""

    def __init__(self, terminal: Terminal, view: LiveView, *, quiet: bool = False) -> None:
        self.terminal, self.view, self.quiet = terminal, view, quiet

    def status(self, status: JobStatus) -> None:
        """Print what is new, and renew the progress line."""
        lines = self.view.status(status, time.time())
        if not self.quiet:
            self.terminal.print(lines)
        self.tick()

    def log(self, line: "LogChunk") -> None:
        """Print one line of the log."""
        if not self.quiet or line.notice:
            self.terminal.print(self.view.log(line, time.time()))

    def remark(self, text: str) -> None:
        """Print a sentence of our own."""
        self.terminal.print([self.terminal.paint("warning", f"dynapod: {text}")])

    def tick(self) -> None:
        """Renew the progress line."""
        self.terminal.progress(self.view.progress(time.time()))


async def follow(client: "JobClient", job_id: str, narrator: Narrator, *, interval: float = 0.25) -> JobStatus:
    """Tell the narrator everything until the job has ended and its log is read; returns the last status.

    Every attempt's log is read to its end before the next one's begins. A log that cannot be read is remarked on; it
    does not stop the following.

    Raises:
        UnknownJobError: when Redis has no such job.
        BrokenPipeError: nobody hears the narrator any more (`| head`); at once, not only when the job changes.
    """
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ticker = asyncio.create_task(_tick(narrator))
    follower = asyncio.create_task(_follow(client, job_id, narrator, closed, interval))
    try:
        waits: set[asyncio.Future[Any]] = {closed, follower}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if closed.done():
            closed.result()
        return follower.result()
    finally:
        await cancel_and_wait(ticker, follower)


async def _follow(
    client: "JobClient", job_id: str, narrator: Narrator, closed: "asyncio.Future[None]", interval: float
) -> JobStatus:
    reader: asyncio.Task[None] | None = None
    attempt = 0
    try:
        async for status in client.changes(job_id, interval=interval):
            while attempt < status.attempt:
                await _drain(reader, narrator)
                attempt += 1
                reader = asyncio.create_task(_read_log(client, job_id, attempt, narrator, closed))
            narrator.status(status)
            if status.ended:
                break
        await _drain(reader, narrator)
    finally:
        await cancel_and_wait(reader)
    return status


async def _read_log(
    client: "JobClient", job_id: str, attempt: int, narrator: Narrator, closed: "asyncio.Future[None]"
) -> None:
    try:
        async with aclosing(client.logs(job_id, attempt, follow=True)) as lines:
            async for line in lines:
                narrator.log(line)
    except BrokenPipeError as error:
        if not closed.done():
            closed.set_exception(error)
    except Exception as error:  # noqa: BLE001 - whatever a store raises: the job goes on, and so does the following
        narrator.remark(f"the log of attempt {attempt} could not be read to its end: {type(error).__name__}: {error}")


async def _drain(reader: "asyncio.Task[None] | None", narrator: Narrator) -> None:
    if reader is None:
        return
    _, pending = await asyncio.wait({reader}, timeout=LOG_DRAIN_SECONDS)
    if pending:
        reader.cancel()
        narrator.remark(f"the log's end did not come within {LOG_DRAIN_SECONDS:.0f} s: some of it may be missing above")


async def _tick(narrator: Narrator) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        narrator.tick()

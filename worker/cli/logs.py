"""`dynapod logs`: one attempt's log, as it was written."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from worker.cli.connection import redis_option, store_option, with_client
from worker.cli.exit_status import InvalidInputError
from worker.cli.log_text import display_lines
from worker.cli.terminal import wants_colours

if TYPE_CHECKING:
    from worker.client import JobClient
    from worker.log_store import LogChunk


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt has ended.")
@click.option("--container", metavar="NAME", help="Only this container: checkout, run, upload or a service.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; the newest by default.")
@click.option("--timestamps", is_flag=True, help="Begin every line with its time.")
@redis_option
@store_option
def logs(
    job: str,
    container: str | None,
    attempt: int | None,
    redis_url: str,
    store_url: str | None,
    *,
    follow: bool,
    timestamps: bool,
) -> None:
    """Print the log of JOB.

    To a terminal, control characters are shown by their codes and colours stay. To a file or a pipe, the bytes go as
    the job wrote them. What dynapod itself has to say (a gap in the log, say) goes to standard error.
    """
    writer = LogPrinter(timestamps=timestamps, names=container is None)

    async def work(client: "JobClient") -> None:
        number = attempt or (await client.status(job)).attempt
        if not number:
            raise InvalidInputError(f"job {job!r} has no log yet: no attempt has begun")
        async with aclosing(client.logs(job, number, container=container, follow=follow)) as lines:
            async for line in lines:
                writer.print(line)
        if not writer.printed and container is None:
            click.echo(
                f"attempt {number} of {job} has no log here: its pod never started (`dynapod status {job}` says why), "
                "or the workers keep their logs in another store than --store names",
                err=True,
            )

    with_client(work, redis_url, store_url)


class LogPrinter:
    """Writes lines to standard output; `names` puts the container before each line."""

    def __init__(self, *, timestamps: bool, names: bool) -> None:
        self.timestamps, self.names = timestamps, names
        self._colours = wants_colours(sys.stdout)
        self._terminal = sys.stdout.isatty()
        self.printed = False
        self._open: str | None = None  # the container whose overlong line is printed in parts

    def print(self, line: "LogChunk") -> None:
        """Print one line, or one part of an overlong one."""
        self.printed = True
        if self._open is not None and self._open != line.container:
            self._write(b"\n")
            self._open = None
        if line.notice:
            click.echo(f"{line.container}: {line.text.decode('utf-8', 'replace')}", err=True)
            return
        prefix = ""
        if self._open is None:
            prefix += f"{line.container} | " if self.names else ""
            prefix += f"{line.timestamp} " if self.timestamps and line.timestamp else ""
        text = line.text
        if self._terminal:
            text = "\n".join(display_lines(text, colours=self._colours)).encode()
        self._write(prefix.encode() + text + (b"" if line.partial else b"\n"))
        self._open = line.container if line.partial else None

    @staticmethod
    def _write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

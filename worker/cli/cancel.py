"""`dynapod cancel`: a waiting job never starts, a running one is stopped."""

import getpass
import socket
from typing import TYPE_CHECKING

import click

from worker.cli.connection import redis_option, with_client
from worker.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from worker.client import JobClient

_SAID = {
    "canceled": "canceled before it started",
    "stopping": "told to stop; follow it with `dynapod logs -f` or `dynapod status`",
    "ended": "had ended before",
}


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@redis_option
@click.pass_context
def cancel(context: click.Context, jobs: tuple[str, ...], redis_url: str) -> None:
    """Cancel JOBS. A running job is asked to stop: it gets SIGTERM and its grace period.

    An unknown job is reported and the others are canceled; the exit status is then 2.
    """
    unknown = with_client(lambda client: _cancel_all(client, jobs), redis_url)
    if unknown:
        context.exit(int(ExitStatus.INVALID))


async def _cancel_all(client: "JobClient", jobs: tuple[str, ...]) -> int:
    from worker.client import ClientError

    failures = 0
    for job in jobs:
        try:
            click.echo(f"{job}: {_SAID[await client.cancel(job, by=requester())]}")
        except ClientError as error:
            click.echo(f"Error: {error}", err=True)
            failures += 1
    return failures


def requester() -> str:
    """Who asks, for the record: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"  # a container's uid without a name
    return f"{user}@{socket.gethostname()}"

"""`dynapod status`: what a job does, or how it ended."""

import json
import time

import click

from worker.cli.connection import json_option, redis_option, with_client
from worker.cli.status_view import doing, status_lines
from worker.cli.terminal import Terminal


@click.command()
@click.argument("job")
@redis_option
@json_option
def status(job: str, redis_url: str, *, as_json: bool) -> None:
    """Show what JOB does and why it waits, its attempts, and how it ended."""
    found = with_client(lambda client: client.status(job), redis_url)
    if as_json:
        click.echo(json.dumps({**found.as_dict(), "doing": doing(found)}, indent=2))
        return
    terminal = Terminal()
    terminal.print(status_lines(found, time.time(), terminal.paint))

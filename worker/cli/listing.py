"""`dynapod list`: the newest jobs."""

import json
import time

import click

from worker.cli.connection import json_option, redis_option, with_client
from worker.cli.status_view import doing, listing_lines
from worker.cli.terminal import Terminal
from worker.job_status import ALL_STATUSES


@click.command("list")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice(ALL_STATUSES), help="Only jobs of this status; repeatable."
)
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only jobs of this queue; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many jobs.")
@redis_option
@json_option
def list_jobs(statuses: tuple[str, ...], queues: tuple[str, ...], limit: int, redis_url: str, *, as_json: bool) -> None:
    """List the newest jobs, newest first."""
    listing = with_client(
        lambda client: client.list(statuses=statuses, queues=queues or None, limit=limit), redis_url
    )  # fmt: skip
    if as_json:
        jobs = [{**job.as_dict(), "doing": doing(job)} for job in listing.jobs]
        click.echo(json.dumps({"total": listing.total, "jobs": jobs}, indent=2))
        return
    Terminal().print(listing_lines(listing, time.time()))

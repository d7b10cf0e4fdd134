"""`dynapod submit`: put a description on the queue, and follow the job if asked to."""

import json
import sys
import time
import uuid
from typing import TYPE_CHECKING

import click

from runner_spec.wire import DEFAULT_QUEUE
from worker.cli.connection import json_option, redis_option, store_option, with_client
from worker.cli.description_file import file_argument, read_file
from worker.cli.exit_status import PlatformError
from worker.cli.following import follow
from worker.cli.local_source import local_source
from worker.cli.reporting import narrator, report
from worker.cli.terminal import Terminal

if TYPE_CHECKING:
    from worker.client import JobClient
    from worker.job_status import JobStatus


@click.command()
@file_argument
@redis_option
@store_option
@click.option("--queue", default=DEFAULT_QUEUE, show_default=True, metavar="NAME", help="The queue.")
@click.option("--job-id", metavar="ID", help="The job's id: letters, digits, _ and -. A new UUID by default.")
@click.option("--unique", is_flag=True, help="Refuse when a job with this --job-id exists.")
@click.option(
    "--replicas",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Return only once N replicas of Redis have the job, too; exit status 3 when they have not in time.",
)
@click.option("--local", is_flag=True, help="Take paths in the source from this machine: for `dynapod dev`.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Follow the job to its end; its end is the exit status.")
@json_option
@click.pass_context
def submit(
    context: click.Context,
    file: str,
    redis_url: str,
    store_url: str | None,
    queue: str,
    job_id: str | None,
    *,
    unique: bool,
    replicas: int,
    local: bool,
    follows: bool,
    as_json: bool,
) -> None:
    """Put the job that FILE describes on the queue, and print its id.

    With --replicas, submit again with the same --job-id when that fails: a job that exists is left as it is, and never
    runs twice.

    With --follow, Ctrl-C ends the following, not the job: `dynapod cancel` does that.
    """
    if unique and not job_id:
        raise click.UsageError("--unique needs --job-id: a new id is always unique")
    if follows and not store_url:
        raise click.UsageError("--follow needs --store, the object store that the workers keep logs in")
    description = read_file(file)
    data = local_source(description.document.data, description.folder) if local else description.document.data
    description.parse(data)
    job = job_id or str(uuid.uuid4())
    terminal = Terminal(sys.stderr if as_json else sys.stdout)

    async def work(client: "JobClient") -> "JobStatus | None":
        await client.ping()
        await _enqueue(client, data, job, queue, unique=unique, replicas=replicas)
        if not (as_json and not follows):
            click.echo(job, err=as_json)
        return await follow(client, job, narrator(terminal)) if follows else None

    begun = time.monotonic()
    status = with_client(work, redis_url, store_url)
    if status is not None:
        context.exit(int(report(status, terminal, seconds=time.monotonic() - begun, as_json=as_json)))
    if as_json:
        click.echo(json.dumps({"job": job, "queue": queue}))


async def _enqueue(
    client: "JobClient", data: dict[str, object], job: str, queue: str, *, unique: bool, replicas: int
) -> None:
    from adapters.redis_server import RedisUnavailable
    from worker.client import NotReplicatedError

    try:
        await client.submit(data, job_id=job, unique=unique, queue=queue, replicas=replicas)
    except NotReplicatedError as error:
        raise PlatformError(f"{error}: `--job-id {job}`.") from error
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--job-id") from error
    except RedisUnavailable as error:
        # The reply may be what was lost, not the request.
        message = f"{str(error).rstrip('.')}. The job may have been enqueued or not: ask with `dynapod status {job}`."
        raise PlatformError(message) from error

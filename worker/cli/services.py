"""`dynapod worker` and `dynapod gateway`: the services, with an option per setting."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import click

from gateway.settings import GatewaySettings, Limits
from gateway.settings import SettingsError as GatewaySettingsError
from worker.cli.exit_status import InvalidInputError
from worker.cli.faults import told_as_faults
from worker.cli.service_log import configure_service_log
from worker.cli.settings_options import settings_options
from worker.settings import ENV_PREFIX, SettingsError, WorkerSettings

GATEWAY_PREFIX: Final = "DYNAPOD_GATEWAY_"


@click.command()
@settings_options((WorkerSettings,), ENV_PREFIX)
def worker(environ: Mapping[str, str]) -> None:
    """Run a worker: take jobs from the queues, run each as a pod, record how it ended.

    SIGTERM and Ctrl-C make it leave at once: the pods go on, and other workers take them over.
    """
    from worker.service import run_worker

    try:
        settings = WorkerSettings.load(environ)
    except SettingsError as error:
        raise InvalidInputError(str(error)) from error
    configure_service_log(settings.log_level, settings.log_format)
    serve(run_worker(settings))


@click.command()
@settings_options((GatewaySettings, Limits), GATEWAY_PREFIX)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False),
    help="Kubeconfig file; without it $KUBECONFIG, else the pod's own service account.",
)
def gateway(environ: Mapping[str, str], kubeconfig: str | None) -> None:
    """Run a gateway: it takes artifacts and caches from the pods and serves caches to them.

    Each pod shows the identity token that Kubernetes made for it; the gateway has Kubernetes review it.
    """
    from worker.cli.gateway_service import run_gateway

    try:
        settings = GatewaySettings.load(environ)
    except GatewaySettingsError as error:
        raise InvalidInputError(str(error)) from error
    configure_service_log(settings.log_level, settings.log_format)
    serve(run_gateway(settings, kubeconfig))


def serve(service: Coroutine[Any, Any, None]) -> None:
    """Run a service until it ends by itself or by a signal.

    Raises:
        InvalidInputError, PlatformError: see `told_as_faults`.
    """
    with told_as_faults():
        asyncio.run(service)

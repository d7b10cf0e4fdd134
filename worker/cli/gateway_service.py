"""The gateway as a process of its own: its parts put together, its signals, its end."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

from prometheus_client import REGISTRY

from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore
from adapters.redis_fitness import until_fit
from adapters.redis_server import Connections
from gateway.context import GATEWAY, Gateway
from gateway.identity import CachingTokenReviewer, KubernetesTokenReviewer
from gateway.masks import RedisMasks
from gateway.server import GatewayServer, create_app
from gateway.settings import GatewaySettings
from worker.cancellation import end_tasks

log = logging.getLogger(__name__)

LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run_gateway(settings: GatewaySettings, kubeconfig: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT; running transfers then have `settings.drain_seconds` to finish.

    Raises:
        StoreConfigError, BadRedisURL, UnfitRedis: a URL, or the Redis behind it, cannot be used.
        ApiError, GatewayStartError: no Kubernetes configuration, or no address to listen on.
    """
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(redis_server.connect(settings.redis_url))
        api = await KubernetesApi.connect(settings.namespaces[0], kubeconfig=kubeconfig)
        stack.push_async_callback(api.close)
        app = create_app(
            store=ObjectStore.from_url(settings.store),
            reviewer=CachingTokenReviewer(KubernetesTokenReviewer(api, namespaces=settings.namespaces)),
            masks=RedisMasks(connections.control),
            registry=REGISTRY,
            limits=settings.limits,
        )
        server = GatewayServer(app, host=settings.host, port=settings.port, drain_seconds=settings.drain_seconds)
        await server.start()
        stack.push_async_callback(server.stop)
        log.info("the gateway listens on %s", server.url, extra={"action": "started"})
        leaving = asyncio.Event()
        for number in LEAVE_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, leaving.set)
        await _serve(app[GATEWAY], connections, leaving)
        log.info("the gateway leaves", extra={"action": "leaving"})


async def _serve(gateway: Gateway, connections: Connections, leaving: asyncio.Event) -> None:
    """Until told to leave; not ready while Redis is away, and over when it is there and cannot be used."""
    told = asyncio.create_task(leaving.wait())
    looking = asyncio.create_task(until_fit(connections))
    gateway.waits_for = lambda: connections.outage.why or ("" if looking.done() else "Redis has not answered yet")
    try:
        await asyncio.wait([told, looking], return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            looking.result()
        await told
    finally:
        await end_tasks([told, looking])

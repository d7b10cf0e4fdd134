"""The gateway as a process of its own: its parts put together, its signals, its end."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

from prometheus_client import REGISTRY

from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore
from gateway.identity import CachingTokenReviewer, KubernetesTokenReviewer
from gateway.masks import RedisMasks
from gateway.server import GatewayServer, create_app
from gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run_gateway(settings: GatewaySettings, kubeconfig: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT; running transfers then have `settings.drain_seconds` to finish.

    Raises:
        StoreConfigError, BadRedisURL: a URL cannot be used.
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
        await leaving.wait()
        log.info("the gateway leaves", extra={"action": "leaving"})

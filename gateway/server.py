"""The application from its parts, and a server that can run beside other things in one event loop."""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from adapters.object_store import ObjectStore
from gateway import handlers
from gateway.bearer import verified
from gateway.body import answer_expectation_later
from gateway.context import GATEWAY, Gateway
from gateway.identity import TokenReviewer
from gateway.masks import MaskSink
from gateway.metrics import Metrics
from gateway.middleware import name_request, observe
from gateway.routes import ROUTES, Routes
from gateway.settings import Limits

assert handlers.__all__  # imported because that registers them

# A path of 4096 bytes, each percent-encoded.
MAX_REQUEST_LINE_BYTES: Final = 16 * 1024
# After an early refusal the server goes on reading for this long, so that a client that sends its whole body first
# gets to see the answer.
LINGER_S: Final = 30.0
# Longer than the 60 s after which common load balancers reuse an idle connection, which must not be closed by then.
KEEP_ALIVE_S: Final = 75.0

# How long aiohttp gives handlers to end after the drain time is over.
CUT_AFTER_S: Final = 1.0

_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - to be recognised


class GatewayStartError(Exception):
    """The gateway cannot listen where it should."""


def create_app(
    *,
    store: ObjectStore,
    reviewer: TokenReviewer,
    masks: MaskSink,
    registry: CollectorRegistry,
    limits: Limits | None = None,
    routes: Routes = ROUTES,
) -> web.Application:
    """The gateway as an aiohttp application.

    Args:
        store: where artifacts and cache entries go.
        reviewer: verifies bearer tokens (in production a `CachingTokenReviewer` over a `KubernetesTokenReviewer`).
        masks: where the values to mask go.
        registry: takes the metrics; one application per registry.
        limits: quotas; the defaults of `Limits` when None.
        routes: the handlers; those of this package and of every module imported before that used `@route`.
    """
    app = web.Application(middlewares=[observe])
    app[GATEWAY] = Gateway(store, reviewer, masks, limits or Limits(), Metrics(registry))
    app.on_response_prepare.append(name_request)
    for item in routes:
        handler = verified(item.handler) if item.identity else item.handler
        app.router.add_route(item.method, item.path, handler, expect_handler=answer_expectation_later)
    return app


class GatewayServer:
    """Serves an application of `create_app` in the running event loop.

    Args:
        app: the application.
        host: address to listen on.
        port: 0 takes a free one.
        drain_seconds: how long running requests may go on after `stop` was called.
    """

    def __init__(
        self, app: web.Application, *, host: str = "127.0.0.1", port: int = 0, drain_seconds: float = 30.0
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._drain_seconds = drain_seconds
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Start to serve; returns when connections are accepted.

        Raises:
            GatewayStartError: the address is taken or not ours.
        """
        runner = web.AppRunner(
            self._app,
            access_log=None,  # the middleware's own line knows job and attempt
            auto_decompress=False,  # a small compressed body must not become a large one in memory
            max_line_size=MAX_REQUEST_LINE_BYTES,
            lingering_time=LINGER_S,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=CUT_AFTER_S,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise GatewayStartError(f"cannot listen on {self._host}:{self._port}: {error}") from error
        self._runner = runner
        self._port = runner.addresses[0][1]

    @property
    def port(self) -> int:
        """The port, once started the real one."""
        return self._port

    @property
    def url(self) -> str:
        """Base URL without trailing slash, as reached from this machine."""
        host = _ANY_ADDRESS.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def stop(self) -> None:
        """Accept no more, let running requests finish for `drain_seconds`, then cut them. Twice does no harm."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        gateway = self._app[GATEWAY]
        gateway.draining = True
        for site in list(runner.sites):
            await site.stop()
        # Waited for here, because aiohttp's own clean-up reads no more bytes: uploads could not end under it.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await gateway.idle()
        await runner.cleanup()

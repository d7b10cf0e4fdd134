"""Health, readiness and metrics: for the cluster, without identity."""

import asyncio
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from adapters.object_store import StoreError
from gateway.context import GATEWAY
from gateway.problem import unavailable
from gateway.routes import route

PROBE_TIMEOUT_S: Final = 5.0


@route("GET", "/healthz", identity=False)
async def healthz(_request: web.Request) -> web.StreamResponse:
    """The process answers."""
    return web.json_response({"status": "ok"})


@route("GET", "/readyz", identity=False)
async def readyz(request: web.Request) -> web.StreamResponse:
    """Redis has been there and can be used, the object store answers, and the gateway is not about to stop."""
    gateway = request.app[GATEWAY]
    if gateway.draining:
        raise unavailable("draining", "the gateway is stopping")
    if why := gateway.waits_for():
        raise unavailable("redis-unavailable", why)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await gateway.store.probe()
    except (StoreError, TimeoutError) as error:
        raise unavailable("store-unavailable", f"the object store does not answer: {error}") from error
    return web.json_response({"status": "ready"})


@route("GET", "/metrics", identity=False)
async def metrics(request: web.Request) -> web.StreamResponse:
    """The registry in Prometheus' text format."""
    page = generate_latest(request.app[GATEWAY].metrics.registry)
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

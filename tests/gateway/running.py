"""A gateway as in production, on real HTTP: real token review against a small API server, a folder as store."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import fakeredis
from prometheus_client import CollectorRegistry

from adapters.object_store import ObjectStore
from gateway.identity import CachingTokenReviewer, KubernetesTokenReviewer
from gateway.masks import RedisMasks
from gateway.server import GatewayServer, create_app
from gateway.settings import Limits
from tests.gateway.apiserver import NAMESPACE, FakeApiServer

JOB = "job 7/ä"
TOKEN = "token-of-job-7"
ANONYMOUS: dict[str, str] = {}


@dataclass
class Running:
    url: str
    port: int
    folder: Path
    store: ObjectStore
    api: FakeApiServer
    redis: fakeredis.FakeAsyncRedis
    redis_server: fakeredis.FakeServer
    registry: CollectorRegistry
    client: aiohttp.ClientSession

    @property
    def files(self) -> list[str]:
        """Every file in the store's folder, temporary ones included."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def count(self, metric: str, **labels: str) -> float:
        return self.registry.get_sample_value(metric, labels) or 0.0


@asynccontextmanager
async def gateway(
    folder: Path,
    *,
    store: ObjectStore | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Running]:
    api = FakeApiServer()
    api.add(TOKEN, JOB, 2)
    store, registry = store or ObjectStore.from_url(str(folder)), CollectorRegistry()
    redis_server = fakeredis.FakeServer()
    redis = fakeredis.FakeAsyncRedis(server=redis_server)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with api.serving(), api.client() as caller, aiohttp.ClientSession(headers=headers) as client:
        reviewer = CachingTokenReviewer(KubernetesTokenReviewer(caller, namespaces=[NAMESPACE]), clock=clock)
        app = create_app(
            store=store, reviewer=reviewer, masks=RedisMasks(redis), registry=registry, limits=limits or Limits()
        )
        server = GatewayServer(app, drain_seconds=2.0)
        await server.start()
        try:
            yield Running(server.url, server.port, folder, store, api, redis, redis_server, registry, client)
        finally:
            await server.stop()
            await redis.aclose()


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def entries(folder: Path) -> list[str]:
    """Names in a folder."""
    return sorted(path.name for path in folder.iterdir())

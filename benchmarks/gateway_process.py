"""A gateway under measurement: the process that users start, with Redis and a folder as store.

Its cluster is the API server of the gateway's own tests, in a thread: it is asked once in a while, because the gateway
remembers what it was told of a token.
"""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.redis_server import start_server
from tests.cluster.processes import dynapod, free_port, process
from tests.gateway.apiserver import NAMESPACE, FakeApiServer

HOST: Final = "127.0.0.1"
START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """Where it listens, and its process."""

    host: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://{self.host}:{self.port}"


@contextmanager
def gateway(folder: Path, tokens: Sequence[str]) -> Iterator[GatewayProcess]:
    """It is ready when the block begins; each token is that of a running pod, of a job of its own."""
    port = free_port(HOST)
    with start_server(folder / "redis") as redis, _cluster(tokens) as api:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(api.url)), encoding="utf-8")
        settings = {
            "HOST": HOST,
            "PORT": str(port),
            "STORE": str(folder / "store"),
            "REDIS_URL": redis.url,
            "NAMESPACES": NAMESPACE,
        }
        started = process(
            dynapod("gateway", "--kubeconfig", str(kubeconfig)),
            log=folder / "gateway.log",
            ready=lambda: _is_ready(port),
            environment={f"DYNAPOD_GATEWAY_{name}": value for name, value in settings.items()},
        )
        with started as it:
            yield GatewayProcess(HOST, port, it.pid)


@contextmanager
def _cluster(tokens: Sequence[str]) -> Iterator[FakeApiServer]:
    api = FakeApiServer()
    for token in tokens:
        api.add(token, f"job-{token}", 1)
    loop, up, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with api.serving():
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="cluster")
    thread.start()
    try:
        assert up.wait(START_S), "the cluster does not start"
        yield api
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _kubeconfig(url: str) -> dict[str, object]:
    return {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": url}}],
        "users": [{"name": "it", "user": {"token": "gateway"}}],
    }


def _is_ready(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True

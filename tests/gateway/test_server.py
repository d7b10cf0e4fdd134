import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from adapters.object_store import ObjectStore
from gateway.context import POD
from gateway.identity import PodIdentity, Refused
from gateway.routes import Routes
from gateway.server import GatewayServer, GatewayStartError, create_app
from tests.gateway.running import ANONYMOUS, TOKEN, Running, gateway, sealed

# The gateway in a process of its own with a small limit on file sizes (ulimit -f): a full disk, for real.
FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tests.gateway.running import gateway, sealed
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
async def scenario():
    async with gateway(Path(sys.argv[1])) as running:
        url = running.url + "/runner/v1/artifacts/w/"
        for size, status in ((900_000, 201), (40_000_000, 507), (900_000, 201)):
            async def pieces():
                body = sealed(bytes(size))
                for start in range(0, len(body), 500_000):
                    yield body[start:start + 500_000]
            async with running.client.put(url + str(size), data=pieces()) as answer:
                assert answer.status == status, (size, answer.status, await answer.text())
                assert status == 201 or answer.headers["Retry-After"]
        assert len(running.files) == 1, running.files
        print("store-full", running.count("dynapod_gateway_refusals_total", reason="store-full"))
asyncio.run(scenario())
"""

# A large upload and the download of it as a cache entry, sent by the same process; prints its peak memory.
LARGE_TRANSFER = """
import asyncio, hashlib, resource, sys
from pathlib import Path
from tests.gateway.running import gateway
from gateway.settings import Limits
PIECE, PIECES = bytes(1 << 20), int(sys.argv[2])
async def scenario():
    async with gateway(Path(sys.argv[1])) as running:
        async def pieces():
            digest = hashlib.sha256()
            for _ in range(PIECES):
                digest.update(PIECE)
                yield PIECE
            yield digest.digest()
        async def transfer():
            url, headers = running.url + "/runner/v1/caches", {"Dynapod-Archive": "tar.gz"}
            async with running.client.put(url + "/k", data=pieces(), headers=headers) as answer:
                assert answer.status == 201
            size = 0
            async with running.client.get(url + "?key=k") as answer:
                async for chunk in answer.content.iter_any():
                    size += len(chunk)
            assert size == PIECES * len(PIECE) + 32
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await transfer()
        print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
asyncio.run(scenario())
"""


def _run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_answered_with_507_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert _run(FULL_DISK, str(tmp_path)) == "store-full 1.0\n"


def test_a_large_transfer_needs_little_memory(tmp_path: Path) -> None:
    before, after = map(int, _run(LARGE_TRANSFER, str(tmp_path), "200").split())
    assert after - before < 64 * 1024  # KiB, for 200 MiB both ways, sender included


CLOSED_PORT = "http://127.0.0.1:1"  # tcpmux, which nothing serves


async def _status(running: Running, path: str) -> int:
    async with running.client.get(running.url + path, headers=ANONYMOUS) as answer:
        return answer.status


def test_health_and_metrics_need_no_identity(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            del running.client.headers["Authorization"]
            assert await _status(running, "/healthz") == 200
            assert await _status(running, "/readyz") == 200
            async with running.client.get(running.url + "/metrics") as answer:
                text = await answer.text()
            assert 'dynapod_gateway_requests_total{code="200",method="GET",route="/readyz"} 1.0' in text

    asyncio.run(scenario())


class _Nobody:
    async def review(self, token: str, *, within: float = 0.0) -> PodIdentity | Refused:  # noqa: ARG002 - the protocol
        return PodIdentity("n", "p", "u", token, 1, None)


class _NoMasks:
    async def put(self, job_id: str, attempt: int, values: object) -> None:
        raise AssertionError((job_id, attempt, values))


def test_a_store_that_is_away_makes_the_gateway_unready_but_not_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT_URL": CLOSED_PORT, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv("AWS_" + name, value)
    store = ObjectStore.from_url("s3://bucket", client_retries=0)

    async def scenario() -> None:
        app = create_app(store=store, reviewer=_Nobody(), masks=_NoMasks(), registry=CollectorRegistry())
        server = GatewayServer(app)
        await server.start()
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer me"}) as client:
            for path, status in (("/healthz", 200), ("/readyz", 503)):
                async with client.get(server.url + path) as answer:
                    assert answer.status == status
            async with client.put(server.url + "/runner/v1/manifest", data=b"{}") as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
        await server.stop()

    asyncio.run(scenario())


def test_a_plug_in_brings_its_own_handlers(tmp_path: Path) -> None:
    routes = Routes()

    @routes.route("GET", "/hello/{name}")
    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"{request[POD].job_id} {request.match_info['name']}")

    @routes.route("GET", "/crash", identity=False)
    async def crash(_request: web.Request) -> web.StreamResponse:
        raise RuntimeError("a bug with secrets in its message")

    with pytest.raises(ValueError, match="already handled"):
        routes.route("GET", "/crash")(hello)

    async def scenario() -> None:
        app = create_app(
            store=ObjectStore.from_url(str(tmp_path)),
            reviewer=_Nobody(),
            masks=_NoMasks(),
            registry=CollectorRegistry(),
            routes=routes,
        )
        server = GatewayServer(app)
        await server.start()
        async with aiohttp.ClientSession() as client:
            async with client.get(server.url + "/hello/x", headers={"Authorization": "Bearer me"}) as answer:
                assert (answer.status, await answer.text()) == (200, "me x")
            async with client.get(server.url + "/hello/x") as answer:
                assert answer.status == 401
            async with client.get(server.url + "/crash") as answer:
                assert answer.status == 500
                assert "secrets" not in await answer.text()
        await server.stop()
        await server.stop()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path / "one") as running:
            other = GatewayServer(web.Application(), port=running.port)
            with pytest.raises(GatewayStartError, match=str(running.port)):
                await other.start()
            await other.stop()

    asyncio.run(scenario())


def test_a_running_upload_may_finish_while_the_gateway_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            head = f"PUT /runner/v1/artifacts/w/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            writer.write(head.encode() + b"Content-Length: 35\r\nExpect: 100-continue\r\n\r\n")
            assert b"100" in await reader.readline()  # the handler waits for the body now
            asyncio.get_running_loop().call_later(0.1, writer.write, sealed(b"abc"))
        rest = await reader.read()
        assert b"HTTP/1.1 201" in rest
        writer.close()

    asyncio.run(scenario())

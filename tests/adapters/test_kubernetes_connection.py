"""The way of a request to the API server: by which proxy, with whose credentials."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from adapters.kubernetes_connection import JSON, KubernetesConnection
from adapters.kubernetes_package import Configuration

TIMEOUT = aiohttp.ClientTimeout(10)


@asynccontextmanager
async def listening(heard: list[web.BaseRequest]) -> AsyncIterator[str]:
    """A server, or a proxy, that hears of each request; its URL."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        heard.append(request)
        return web.json_response({})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(configuration: Configuration) -> None:
    connection = KubernetesConnection(configuration, limit=1)
    try:
        answer = await connection.send(
            "GET", "/api", query={"labelSelector": "a in (b,c)"}, body=None, accept=JSON, timeout=TIMEOUT
        )
        assert await answer.json() == {}
    finally:
        await connection.close()


def target(host: str, proxy: str | None = None) -> Configuration:
    configuration = Configuration(host=host)
    configuration.api_key["BearerToken"] = "Bearer secret"
    configuration.proxy = proxy
    return configuration


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_proxy_of_the_environment_is_used_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        heard: list[web.BaseRequest] = []
        async with listening(heard) as proxy:
            monkeypatch.setenv("http_proxy", proxy.replace("//", "//user:pass@"))
            await ask(target("http://cluster.invalid:6443"))
        assert [request.headers["Host"] for request in heard] == ["cluster.invalid:6443"]
        assert heard[0].headers["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"
        assert heard[0].headers["Authorization"] == "Bearer secret"
        assert heard[0].query["labelSelector"] == "a in (b,c)"

    asyncio.run(test())


def test_hosts_without_a_proxy_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        heard: list[web.BaseRequest] = []
        async with listening(heard) as server:
            monkeypatch.setenv("http_proxy", "http://proxy.invalid")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            await ask(target(server))
        assert len(heard) == 1

    asyncio.run(test())


def test_the_proxy_of_the_kubeconfig_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        heard: list[web.BaseRequest] = []
        async with listening(heard) as proxy:
            monkeypatch.setenv("http_proxy", "http://proxy.invalid")
            await ask(target("http://cluster.invalid", proxy))
        assert [request.headers["Host"] for request in heard] == ["cluster.invalid"]

    asyncio.run(test())


def test_no_password_is_taken_from_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def test() -> None:
        heard: list[web.BaseRequest] = []
        async with listening(heard) as server:
            (tmp_path / "netrc").write_text("default login someone password else\n")
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            await ask(target(server))
        assert heard[0].headers["Authorization"] == "Bearer secret"

    asyncio.run(test())

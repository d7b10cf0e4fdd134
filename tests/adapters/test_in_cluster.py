"""The configuration that a pod finds in itself: its service account, whose token the kubelet replaces all the time."""

import asyncio
import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import certifi
import pytest
from kubernetes.aio.config import incluster_config

from adapters.kubernetes_api import KubernetesApi

NOW = dt.datetime(2025, 1, 1)  # noqa: DTZ001 - the library compares naive times


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the token, of a pod that this process takes itself for."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", certifi.where())
    return token


def stop_clock(monkeypatch: pytest.MonkeyPatch, now: dt.datetime) -> None:
    clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda: now), timedelta=dt.timedelta)
    monkeypatch.setattr(incluster_config, "datetime", clock)


async def sent_tokens(api: KubernetesApi) -> set[str]:
    """What calls and streams would send now."""
    tokens = set()
    for client in (api._calls, api._streams):
        tokens.add((await client.headers("application/json"))["authorization"])
    return tokens


def test_a_replaced_token_is_sent_by_calls_and_streams_within_a_minute(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        stop_clock(monkeypatch, NOW)
        api = await KubernetesApi.connect("jobs")
        assert await sent_tokens(api) == {"bearer first"}
        token.write_text("second")  # noqa: ASYNC240 - nothing else runs in this loop
        stop_clock(monkeypatch, NOW + dt.timedelta(seconds=61))
        assert await sent_tokens(api) == {"bearer second"}
        await api.close()

    asyncio.run(test())

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_spec.grammar import ENV_RESERVED_PREFIX
from tests.runner.gateway_server import GatewayServer, serving
from tests.runner.pod import Pod


@pytest.fixture(autouse=True)
def outside_of_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pod that these tests may run in themselves: dynapod builds dynapod, and its runner would work there."""
    for name in [name for name in os.environ if name.startswith(ENV_RESERVED_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayServer]:
    with serving(tmp_path / "stored") as server:
        yield server


@pytest.fixture
def pod(tmp_path: Path, gateway: GatewayServer) -> Pod:
    return Pod(tmp_path / "pod", gateway.url)

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.gateway_server import GatewayServer, serving
from tests.runner.pod import Pod


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayServer]:
    with serving(tmp_path / "stored") as server:
        yield server


@pytest.fixture
def pod(tmp_path: Path, gateway: GatewayServer) -> Pod:
    return Pod(tmp_path / "pod", gateway.url)

"""One suite, two clusters: devcluster as its own process, and the one that KUBECONFIG names, if any."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.devcluster.conformance.api_client import Cluster, unique

ROOT = Path(__file__).parents[3]


@pytest.fixture(
    scope="session",
    params=["devcluster", pytest.param("kubernetes", marks=pytest.mark.cluster)],
)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if request.param == "devcluster":
        yield from _devcluster(tmp_path_factory.mktemp("devcluster"))
        return
    path = os.environ.get("KUBECONFIG")
    if not path:
        pytest.skip("KUBECONFIG names no cluster")
    yield from _kubernetes(Path(path), tmp_path_factory.mktemp("kubernetes"))


def _devcluster(root: Path) -> Iterator[Cluster]:
    kubeconfig = root / "kubeconfig"
    command = [sys.executable, "-m", "devcluster", "--root", str(root), "--kubeconfig", str(kubeconfig)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:"), process.stderr.read()
        config = json.loads(kubeconfig.read_text())
        token = config["users"][0]["user"]["token"]
        url = config["clusters"][0]["cluster"]["server"].partition("/as/")[0]  # the token goes into a header
        yield Cluster(url, "default", {"Authorization": f"Bearer {token}"})
    finally:
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 0
    assert complaints.count("\n") == 1, complaints  # the notice, said once, and no error
    assert list(root.glob("pods/*")) == []


def _kubernetes(path: Path, folder: Path) -> Iterator[Cluster]:
    config = yaml.safe_load(path.read_text())
    server = config["clusters"][0]["cluster"]
    user = config["users"][0]["user"]
    tls = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
    headers = {}
    if token := user.get("token"):
        headers["Authorization"] = f"Bearer {token}"
    else:
        files = []
        for name in ("client-certificate-data", "client-key-data"):
            files.append(folder / name)
            files[-1].write_bytes(base64.b64decode(user[name]))
            files[-1].chmod(0o600)
        tls.load_cert_chain(certfile=files[0], keyfile=files[1])
    image = os.environ.get("CONFORMANCE_IMAGE", "localhost/bb:latest")
    found = Cluster(server["server"], unique("conformance"), headers, tls, image, isolates=True)
    asyncio.run(_prepare(found))
    yield found
    asyncio.run(_remove(found))


async def _prepare(cluster: Cluster) -> None:
    async with cluster.client() as client:
        body: dict[str, Any] = {"metadata": {"name": cluster.namespace}}
        assert (await client.call("POST", "/api/v1/namespaces", body)).status == 201
        end = time.monotonic() + 60
        while (await client.call("GET", f"{client.namespaced}/serviceaccounts/default")).status != 200:
            assert time.monotonic() < end, "the namespace got no default service account"
            await asyncio.sleep(0.2)


async def _remove(cluster: Cluster) -> None:
    with suppress(OSError):
        async with cluster.client() as client:
            await client.call("DELETE", f"/api/v1/namespaces/{cluster.namespace}")

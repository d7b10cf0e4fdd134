"""The golden manifests before a real API server: no field unknown, none invalid, and all at the restricted level."""

import asyncio
import copy
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.kubernetes_api import ApiError, KubernetesApi
from tests.devcluster.conformance.api_client import TLS_CLOSE_S

pytestmark = pytest.mark.cluster

GOLDEN = Path(__file__).parent.parent / "runner_spec" / "golden"
STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@asynccontextmanager
async def namespace() -> AsyncIterator[KubernetesApi]:
    """A namespace of its own that admits restricted pods only."""
    name = f"dynapod-test-{uuid.uuid4().hex[:8]}"
    api = await KubernetesApi.connect(name)
    try:
        await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name, "labels": RESTRICTED}})
        account = {"metadata": {"name": "default"}}
        try:
            await api.call("POST", f"/api/v1/namespaces/{name}/serviceaccounts", body=account)
        except ApiError as error:  # the cluster's controller was quicker
            if error.status != 409:
                raise
        yield api
    finally:
        await api.call("DELETE", f"/api/v1/namespaces/{name}")
        await api.close()
        await asyncio.sleep(TLS_CLOSE_S)


async def dry_run(api: KubernetesApi, pod: dict[str, Any]) -> None:
    own = copy.deepcopy(pod)
    own["metadata"]["namespace"] = api.namespace
    own["spec"]["serviceAccountName"] = "default"
    # The operator's classes do not exist in a test cluster.
    for field in ("runtimeClassName", "priorityClassName"):
        own["spec"].pop(field, None)
    await api.call("POST", f"/api/v1/namespaces/{api.namespace}/pods", query=STRICT, body=own)


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_a_real_api_server_admits_the_golden_pod(name: str) -> None:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    pod = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())

    async def test() -> None:
        async with namespace() as api:
            if name == "local-folder":  # for local runs only: a real cluster at this level must refuse it
                with pytest.raises(ApiError, match=r"violates PodSecurity.*hostPath"):
                    await dry_run(api, pod)
            else:
                await dry_run(api, pod)

    asyncio.run(test())

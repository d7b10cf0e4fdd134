"""Where pods are moved without containers: the fake nodes of the cluster that KUBECONFIG names, and a namespace there.

A fake node (kwok's, say) is known by a label, `type=kwok` unless DYNAPOD_BENCH_FAKE_NODES says otherwise. Everything
else is real: API server, etcd, scheduler. Its pods last a second.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.suite import BenchmarkError
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.policy import parse_policy
from runner_spec.render import Attempt, render
from tests.chaos_cluster.cluster_api import ClusterApi
from tests.chaos_cluster.ground import FAKE, survey
from tests.cluster.site import jobs_namespace

LABEL: Final = "type=kwok"
DESCRIPTION: Final[dict[str, Any]] = {
    "name": "bench",
    "image": "localhost/job",
    "steps": [{"name": "t", "run": "true"}],
}


@dataclass(frozen=True, slots=True)
class FakeNodes:
    """A namespace for jobs whose pods run there. `policy` is the operator's, as its file would say."""

    kubeconfig: str
    namespace: str
    policy: dict[str, Any]
    version: str
    api: ClusterApi

    async def is_empty(self) -> bool:
        """Whether no pod is left."""
        found = await self.api.call("GET", f"/api/v1/namespaces/{self.namespace}/pods", limit="1")
        return not found["items"]

    def manifest(self) -> dict[str, Any]:
        """The pod that a worker creates for a job of `DESCRIPTION`."""
        admitted = admit(parse_description(DESCRIPTION), parse_policy(self.policy))
        return render(admitted, Attempt("bench", 1, "nobody"))

    def bare_manifest(self) -> dict[str, Any]:
        """A pod as small as one of three containers can be, for the same nodes."""
        spec = {key: value for key, value in self.manifest()["spec"].items() if key in {"nodeSelector", "tolerations"}}
        spec |= {
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "checkout", "image": "x"},
                {"name": "upload", "image": "x", "restartPolicy": "Always"},
            ],
            "containers": [{"name": "run", "image": "x", "command": ["sh", "-c", "true"]}],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": spec}


@asynccontextmanager
async def fake_nodes() -> AsyncIterator[FakeNodes]:
    """A new namespace, removed afterwards with everything in it.

    Raises:
        BenchmarkError: there is no cluster, or no fake node in it.
    """
    kubeconfig = os.environ.get("KUBECONFIG", "")
    label = os.environ.get("DYNAPOD_BENCH_FAKE_NODES", LABEL)
    if not kubeconfig:
        raise BenchmarkError("KUBECONFIG is not set: name the credentials file of a cluster with a fake node (kwok)")
    namespace = f"dynapod-bench-{uuid.uuid4().hex[:6]}"
    # Without a pod security level: the bare pods beside which dynapod is measured have no security context.
    async with jobs_namespace(namespace, labels={}), ClusterApi(Path(kubeconfig)) as api:
        ground = await survey(api, label)
        if not ground.fakes:
            raise BenchmarkError(
                f"no node has the label {label}: start a fake node (https://kwok.sigs.k8s.io), or name the label of "
                "yours by DYNAPOD_BENCH_FAKE_NODES"
            )
        policy = ground.policy(FAKE, namespace, "http://127.0.0.1:1")
        version = (await api.call("GET", "/version"))["gitVersion"]
        yield FakeNodes(kubeconfig, namespace, {**policy, "images": ["localhost/*"]}, version, api)

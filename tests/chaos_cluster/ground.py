"""The cluster as a chaos run finds it: which nodes run pods for real, which are fake, and policies for both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.chaos_cluster.cluster_api import ClusterApi
from tests.cluster import images

REAL: Final = "real"
FAKE: Final = "fake"
# Much goes wrong here, none of it by a job; poison has a test of its own. Retries come at once.
PATIENT: Final[Mapping[str, Any]] = {
    "worker_losses": 0,
    "platform_retries": 20,
    "platform_backoff": ["1s"],
    "upload_budget": "30s",
    "grace": "2s",
}
# Small, because a test node is: about nine pods at a time on two cores.
SMALL: Final[Mapping[str, Any]] = {
    "runner_image": images.RUNNER,
    "images": ["localhost/*"],
    "default_resources": {"cpu": "180m", "memory": "128Mi", "ephemeral-storage": "256Mi"},
    "runner_resources": {
        "requests": {"cpu": "10m", "memory": "48Mi", "ephemeral-storage": "64Mi"},
        "limits": {"cpu": "2", "memory": "256Mi", "ephemeral-storage": "512Mi"},
    },
}


@dataclass(frozen=True, slots=True)
class Ground:
    """Names of real and of fake nodes; fake ones are known by `label`, and have taints with these keys."""

    nodes: tuple[str, ...]
    fakes: tuple[str, ...]
    label: tuple[str, str]
    taints: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of jobs can be run here."""
        return (REAL, FAKE) if self.fakes else (REAL,)

    def policy(self, kind: str, namespace: str, gateway_url: str) -> dict[str, Any]:
        """The operator's policy for the workers of a kind of jobs."""
        policy = {**PATIENT, **SMALL, "namespace": namespace, "gateway_url": gateway_url}
        if kind == FAKE:
            tolerations = [{"key": key, "operator": "Exists"} for key in self.taints]
            policy |= {"node_selector": dict([self.label]), "tolerations": tolerations, "user_namespaces": False}
        return policy


async def survey(api: ClusterApi, label: str) -> Ground:
    """Look at the nodes; `label` (`key=value`) is that of fake ones. Those are given a disk if they have none."""
    key, _, value = label.partition("=")
    items = (await api.call("GET", "/api/v1/nodes"))["items"]
    fakes = [item for item in items if item["metadata"]["labels"].get(key) == value]
    for item in fakes:
        if "ephemeral-storage" not in item["status"].get("allocatable", {}):
            disk = {"capacity": {"ephemeral-storage": "1000Ti"}, "allocatable": {"ephemeral-storage": "1000Ti"}}
            await api.call("PATCH", f"/api/v1/nodes/{item['metadata']['name']}/status", {"status": disk})
    names = {item["metadata"]["name"] for item in items}
    fake_names = {item["metadata"]["name"] for item in fakes}
    taints = {taint["key"] for item in fakes for taint in item["spec"].get("taints", ())}
    return Ground(tuple(sorted(names - fake_names)), tuple(sorted(fake_names)), (key, value), tuple(sorted(taints)))

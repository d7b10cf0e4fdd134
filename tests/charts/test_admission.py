"""Every object of the chart before a real API server: no field unknown, none invalid, no warning."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.charts.cluster import applied, kubectl, manifests, namespace_values, require_cluster, run
from tests.charts.helm import Objects, render

pytestmark = pytest.mark.cluster

MONITORING: Final = "monitoring.coreos.com/v1"
# Everything optional at once; the cluster has neither the Prometheus operator nor the operator's own classes.
EVERYTHING: Final[dict[str, Any]] = {
    "imagePullSecrets": ["registry"],
    "worker": {"replicas": None, "podLabels": {"team": "ci"}, "env": [{"name": "A", "value": "b"}]},
    "gateway": {"limits": {"max_cache_bytes": "2Gi", "transfers": 4}},
    "redis": {"server": {"persistence": {"enabled": True, "storageClass": "fast"}}},
    "store": {"existingSecret": "s3", "env": [{"name": "AWS_REGION", "value": "x"}]},
    "policy": {"allow_debug": True},
    "debug": {"subjects": [{"kind": "Group", "name": "ops", "apiGroup": "rbac.authorization.k8s.io"}]},
    "placement": {"nodeSelector": {"role": "patrician"}, "tolerations": [{"key": "trusted", "operator": "Exists"}]},
    "network": {
        "cluster": ["198.51.100.0/24", "2001:db8::/32"],
        "allowed": [{"cidr": "10.1.2.3/32", "ports": [{"port": 443, "endPort": 444, "protocol": "TCP"}]}],
        "dns": {"addresses": ["169.254.20.10/32"]},
        "producers": [{"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {}}],
        "gateway": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    },
}
EXTERNAL: Final[dict[str, Any]] = {
    "redis": {"url": "rediss://redis.example:6380/0"},
    "store": {"url": "s3://bucket"},
    "network": {"outside": False, "metrics": []},
    "quota": {"hard": None},
}


@pytest.fixture(scope="module")
def own_namespaces() -> Iterator[dict[str, Any]]:
    """Values that name two namespaces which exist: a dry run makes none for the objects in it."""
    require_cluster()
    values = namespace_values()
    system = values["namespaces"]["system"]["name"]
    with applied(render(values).of("Namespace")):
        # Made by the cluster's controller; without it no pod is admitted.
        kubectl("wait", "--for=create", "serviceaccount/default", "--namespace", system, "--timeout=60s")
        yield values


def pods_of(objects: Objects) -> list[dict[str, Any]]:
    """A pod as each deployment would make it: only pods are held to the enforced level."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": item["spec"]["template"]["metadata"]
            | {"name": item["metadata"]["name"], "namespace": item["metadata"]["namespace"]},
            # The service accounts are dry as well.
            "spec": {k: v for k, v in item["spec"]["template"]["spec"].items() if k != "serviceAccountName"},
        }
        for item in objects.of("Deployment")
    ]


@pytest.mark.parametrize("values", [{}, EVERYTHING, EXTERNAL], ids=["defaults", "everything", "external"])
def test_a_real_api_server_admits_every_object_without_a_warning(
    own_namespaces: dict[str, Any], values: dict[str, Any]
) -> None:
    objects = render(own_namespaces | values)
    dry = run(
        "kubectl",
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=manifests([*objects, *pods_of(objects)]),
    )
    assert dry.stderr == ""
    assert len(dry.stdout.splitlines()) == len(objects.all) + len(objects.of("Deployment"))

"""Who may talk to whom, computed from the rendered NetworkPolicy objects."""

from typing import Any, Final

import pytest

from runner_spec import anatomy
from tests.charts.helm import RELEASE, Objects, render
from tests.charts.network_policy import Endpoint, allowed

pytestmark = pytest.mark.cluster

# As in a cluster whose pods, services and nodes have private addresses.
COMPONENT: Final = {"app.kubernetes.io/name": "dynapod", "app.kubernetes.io/instance": RELEASE}
JOB_LABELS: Final = {anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY}

JOB: Final = Endpoint("10.244.1.10", "dynapod-jobs", JOB_LABELS)
OTHER_JOB: Final = Endpoint("10.244.1.11", "dynapod-jobs", JOB_LABELS)
UNLABELLED: Final = Endpoint("10.244.1.12", "dynapod-jobs")
WORKER: Final = Endpoint("10.244.2.1", "dynapod-system", {**COMPONENT, "app.kubernetes.io/component": "worker"})
GATEWAY: Final = Endpoint("10.244.2.2", "dynapod-system", {**COMPONENT, "app.kubernetes.io/component": "gateway"})
REDIS: Final = Endpoint("10.244.2.3", "dynapod-system", {**COMPONENT, "app.kubernetes.io/component": "redis"})
NEIGHBOUR: Final = Endpoint("10.244.2.4", "dynapod-system", {"app": "operator's"})
DNS: Final = Endpoint("10.244.0.2", "kube-system", {"k8s-app": "kube-dns"})
SYSTEM_POD: Final = Endpoint("10.244.0.3", "kube-system", {"k8s-app": "metrics-server"})
PROMETHEUS: Final = Endpoint("10.244.3.1", "monitoring", {"app": "prometheus"})
STRANGER: Final = Endpoint("10.244.4.1", "shop", {"app": "web"})
IMPOSTOR: Final = Endpoint("10.244.4.2", "shop", {**JOB_LABELS, **GATEWAY.labels})
API_SERVER: Final = Endpoint("10.96.0.1")
API_NODE: Final = Endpoint("192.168.7.10")
NODE: Final = Endpoint("172.18.0.3")
METADATA: Final = Endpoint("169.254.169.254")
METADATA_V6: Final = Endpoint("fd00:ec2::254")
WORLD: Final = Endpoint("203.0.113.5")
WORLD_V6: Final = Endpoint("2001:db8::5")


@pytest.fixture(scope="module")
def objects() -> Objects:
    return render()


def flows(objects: Objects, source: Endpoint, target: Endpoint, port: int, protocol: str = "TCP") -> bool:
    return allowed(objects.of("NetworkPolicy"), source, target, port, protocol)


ALLOWED: Final = {
    "a job asks for names": (JOB, DNS, 53, "UDP"),
    "a job asks for long names": (JOB, DNS, 53, "TCP"),
    "a job's runner reaches the gateway": (JOB, GATEWAY, 8080, "TCP"),
    "a job clones from the outside world": (JOB, WORLD, 443, "TCP"),
    "a job clones by IPv6": (JOB, WORLD_V6, 443, "TCP"),
    "a job uses any port out there": (JOB, WORLD, 5432, "TCP"),
    "the worker reaches the queue": (WORKER, REDIS, 6379, "TCP"),
    "the gateway reaches the queue": (GATEWAY, REDIS, 6379, "TCP"),
    "the worker reaches the API server": (WORKER, API_SERVER, 443, "TCP"),
    "the worker reaches the object store": (WORKER, WORLD, 443, "TCP"),
    "the gateway reaches the API server": (GATEWAY, API_SERVER, 443, "TCP"),
    "the gateway reaches the object store": (GATEWAY, WORLD, 443, "TCP"),
    "the worker asks for names": (WORKER, DNS, 53, "UDP"),
    "the operator's pods reach the gateway": (NEIGHBOUR, GATEWAY, 8080, "TCP"),
    "Prometheus scrapes the worker": (PROMETHEUS, WORKER, 9090, "TCP"),
    "Prometheus scrapes the gateway": (PROMETHEUS, GATEWAY, 8080, "TCP"),
}
REFUSED: Final = {
    "a job and the API server's service": (JOB, API_SERVER, 443, "TCP"),
    "a job and the API server's node": (JOB, API_NODE, 6443, "TCP"),
    "a job and the kubelet": (JOB, NODE, 10250, "TCP"),
    "a job and a node's SSH": (JOB, NODE, 22, "TCP"),
    "a job and the cloud's metadata": (JOB, METADATA, 80, "TCP"),
    "a job and the cloud's metadata by IPv6": (JOB, METADATA_V6, 80, "TCP"),
    "a job and another job": (JOB, OTHER_JOB, 8080, "TCP"),
    "a job and a pod beside it": (JOB, UNLABELLED, 80, "TCP"),
    "a pod beside a job and the API server": (UNLABELLED, API_SERVER, 443, "TCP"),
    "a pod beside a job and the gateway": (UNLABELLED, GATEWAY, 8080, "TCP"),
    "a job and the queue": (JOB, REDIS, 6379, "TCP"),
    "a job and the worker's metrics": (JOB, WORKER, 9090, "TCP"),
    "a job and another port of the gateway": (JOB, GATEWAY, 9090, "TCP"),
    "a job and the gateway by UDP": (JOB, GATEWAY, 8080, "UDP"),
    "a job and another pod of the system": (JOB, NEIGHBOUR, 8080, "TCP"),
    "a job and who is named like the gateway": (JOB, IMPOSTOR, 8080, "TCP"),
    "a job and another port of the DNS server": (JOB, DNS, 9153, "TCP"),
    "a job and another pod of kube-system": (JOB, SYSTEM_POD, 53, "UDP"),
    "a job and somebody's pod": (JOB, STRANGER, 80, "TCP"),
    "a job and somebody's DNS": (JOB, STRANGER, 53, "UDP"),
    "a job and loopback": (JOB, Endpoint("127.0.0.1"), 80, "TCP"),
    "a job and a carrier's network": (JOB, Endpoint("100.64.0.1"), 80, "TCP"),
    "a job and multicast": (JOB, Endpoint("224.0.0.251"), 5353, "UDP"),
    "a job and broadcast": (JOB, Endpoint("255.255.255.255"), 67, "UDP"),
    "a job and a unique local address": (JOB, Endpoint("fd12:3456::1"), 443, "TCP"),
    "a job and a link-local address": (JOB, Endpoint("fe80::1"), 443, "TCP"),
    "a job and a private address through NAT64": (JOB, Endpoint("64:ff9b::a00:1"), 443, "TCP"),
    "a job and a private address through 6to4": (JOB, Endpoint("2002:a00:1::1"), 443, "TCP"),
    "the worker and a job": (WORKER, JOB, 8080, "TCP"),
    "the gateway and a job": (GATEWAY, JOB, 8080, "TCP"),
    "Prometheus and a job": (PROMETHEUS, JOB, 9090, "TCP"),
    "the world and a job": (WORLD, JOB, 80, "TCP"),
    "somebody and a job": (STRANGER, JOB, 80, "TCP"),
    "somebody and the gateway": (STRANGER, GATEWAY, 8080, "TCP"),
    "who is labelled like a job, and the gateway": (IMPOSTOR, GATEWAY, 8080, "TCP"),
    "who is labelled like the gateway, and the queue": (IMPOSTOR, REDIS, 6379, "TCP"),
    "somebody and the queue": (STRANGER, REDIS, 6379, "TCP"),
    "the operator's pods and the queue": (NEIGHBOUR, REDIS, 6379, "TCP"),
    "Prometheus and the queue": (PROMETHEUS, REDIS, 6379, "TCP"),
    "somebody and the worker's metrics": (STRANGER, WORKER, 9090, "TCP"),
    "the world and the gateway": (WORLD, GATEWAY, 8080, "TCP"),
    "the queue and anybody": (REDIS, WORLD, 443, "TCP"),
}


@pytest.mark.parametrize("flow", ALLOWED.values(), ids=ALLOWED)
def test_is_allowed(objects: Objects, flow: tuple[Endpoint, Endpoint, int, str]) -> None:
    assert flows(objects, *flow)


@pytest.mark.parametrize("flow", REFUSED.values(), ids=REFUSED)
def test_is_refused(objects: Objects, flow: tuple[Endpoint, Endpoint, int, str]) -> None:
    assert not flows(objects, *flow)


def test_without_the_policies_nothing_would_be_refused() -> None:
    """Otherwise the table above could hold for reasons that are not the chart's."""
    none = render({"network": {"enabled": False}})
    assert not none.of("NetworkPolicy")
    assert all(flows(none, *flow) for flow in REFUSED.values())


def test_a_cluster_with_public_addresses_names_them() -> None:
    own = {"network": {"cluster": ["203.0.113.0/24", "2001:db8::/32"]}}
    assert not flows(render(own), JOB, WORLD, 443)
    assert not flows(render(own), JOB, WORLD_V6, 443)
    assert flows(render(own), JOB, Endpoint("198.51.100.1"), 443)
    assert not flows(render(own), JOB, METADATA, 80), "the defaults stay"


def test_an_exception_is_an_address_and_its_ports() -> None:
    exception = {"cidr": "10.1.2.3/32", "ports": [{"port": 443, "protocol": "TCP"}]}
    objects = render({"network": {"allowed": [exception, {"cidr": "10.9.0.0/16"}]}})
    assert flows(objects, JOB, Endpoint("10.1.2.3"), 443)
    assert not flows(objects, JOB, Endpoint("10.1.2.3"), 22)
    assert not flows(objects, JOB, Endpoint("10.1.2.4"), 443)
    assert flows(objects, JOB, Endpoint("10.9.8.7"), 22)


def test_the_outside_world_can_be_shut_out() -> None:
    objects = render({"network": {"outside": False}})
    assert not flows(objects, JOB, WORLD, 443)
    assert not flows(objects, JOB, WORLD_V6, 443)
    assert flows(objects, JOB, GATEWAY, 8080)
    assert flows(objects, JOB, DNS, 53, "UDP")


def test_a_node_local_dns_cache_is_reached_for_names_only() -> None:
    objects = render({"network": {"dns": {"addresses": ["169.254.20.10/32"]}}})
    assert flows(objects, JOB, Endpoint("169.254.20.10"), 53, "UDP")
    assert not flows(objects, JOB, Endpoint("169.254.20.10"), 80)
    assert not flows(objects, JOB, METADATA, 80)


def test_peers_are_let_in_where_values_say_so() -> None:
    shop: list[dict[str, Any]] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]
    producers = render({"network": {"producers": shop}})
    assert flows(producers, STRANGER, REDIS, 6379)
    assert not flows(producers, STRANGER, GATEWAY, 8080)
    visitors = render({"network": {"gateway": shop, "metrics": []}})
    assert flows(visitors, STRANGER, GATEWAY, 8080)
    assert not flows(visitors, STRANGER, REDIS, 6379)
    assert not flows(visitors, PROMETHEUS, WORKER, 9090), "nobody scrapes when nobody is named"


def test_names_of_namespaces_follow_the_values() -> None:
    objects = render({"namespaces": {"system": {"name": "trusted"}, "jobs": {"name": "locked"}}})
    assert {item["metadata"]["namespace"] for item in objects.of("NetworkPolicy")} == {"trusted", "locked"}
    job, gateway = Endpoint("10.0.0.1", "locked", JOB_LABELS), Endpoint("10.0.0.2", "trusted", GATEWAY.labels)
    assert flows(objects, job, gateway, 8080)
    assert not flows(objects, job, GATEWAY, 8080), "the gateway of another installation"

"""What NetworkPolicy objects allow, computed from them: the semantics of networking.k8s.io/v1, without a network.

A pod that no policy selects for a direction is open in that direction. One that is selected lets through what any rule
of any of its policies allows (policies only ever add). A connection needs the source's egress and the target's ingress.
Replies need nothing. https://kubernetes.io/docs/concepts/services-networking/network-policies/

Addresses count for pods as well: what an ipBlock means for pods differs among networks, and the wider reading is the
careful one for a flow that must be refused.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]
NAMESPACE_NAME = "kubernetes.io/metadata.name"  # every namespace carries it, and nobody can change it


@dataclass(frozen=True)
class Endpoint:
    """One end of a connection: an address, and for a pod its namespace and labels."""

    address: str
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_namespace_labels(self) -> Mapping[str, str]:
        return {**self.namespace_labels, NAMESPACE_NAME: self.namespace or ""}


def allowed(policies: Iterable[Json], source: Endpoint, target: Endpoint, port: int, protocol: str = "TCP") -> bool:
    """Whether `source` may open a connection to this port of `target`."""
    known = list(policies)
    return _passes(known, "Egress", source, target, port, protocol) and _passes(
        known, "Ingress", target, source, port, protocol
    )


def _passes(  # noqa: PLR0917 - the six facts of one question
    policies: list[Json], direction: str, pod: Endpoint, other: Endpoint, port: int, protocol: str
) -> bool:
    if pod.namespace is None:
        return True  # not a pod: no policy is about it
    own = [policy for policy in policies if _selects(policy, pod) and direction in _types(policy["spec"])]
    if not own:
        return True
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _peer_matches(rule.get(peers), other, pod.namespace) and _port_matches(rule.get("ports"), port, protocol)
        for policy in own
        for rule in policy["spec"].get(rules) or ()
    )


def _selects(policy: Json, pod: Endpoint) -> bool:
    return policy["metadata"]["namespace"] == pod.namespace and matches(policy["spec"]["podSelector"], pod.labels)


def _types(spec: Json) -> list[str]:
    """Without policyTypes: Ingress always, Egress where there are rules for it."""
    given: list[str] | None = spec.get("policyTypes")
    return given if given is not None else ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _peer_matches(peers: list[Json] | None, other: Endpoint, namespace: str) -> bool:
    return not peers or any(_is_peer(peer, other, namespace) for peer in peers)


def _is_peer(peer: Json, other: Endpoint, namespace: str) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(other.address)
        block = peer["ipBlock"]
        return _within(address, block["cidr"]) and not any(_within(address, cut) for cut in block.get("except") or ())
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        here = matches(peer["namespaceSelector"], other.all_namespace_labels)
    else:
        here = other.namespace == namespace
    return here and matches(peer.get("podSelector") or {}, other.labels)


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return address.version == network.version and address in network


def _port_matches(ports: list[Json] | None, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        rule.get("protocol", "TCP") == protocol
        and ("port" not in rule or rule["port"] <= port <= rule.get("endPort", rule["port"]))
        for rule in ports
    )


def matches(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) selects something with these labels."""
    return all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or ()
    )


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    name, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case "DoesNotExist":
            return name not in labels
        case operator:
            raise ValueError(f"{operator} is no operator of a label selector")

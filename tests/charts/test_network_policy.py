"""The evaluator itself, against the semantics that the Kubernetes documentation states."""

from typing import Any

import pytest

from tests.charts.network_policy import Endpoint, allowed, matches

WEB = Endpoint("10.0.0.1", "shop", {"app": "web"})
DB = Endpoint("10.0.0.2", "shop", {"app": "db"})
STRANGER = Endpoint("10.0.0.3", "other", {"app": "web"}, {"team": "x"})
WORLD = Endpoint("203.0.113.5")


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {}, **spec}}


def test_a_pod_that_no_policy_selects_is_open() -> None:
    elsewhere = policy(podSelector={"matchLabels": {"app": "other"}}, policyTypes=["Ingress", "Egress"])
    assert allowed([], WEB, DB, 5432)
    assert allowed([elsewhere], WEB, DB, 5432)


def test_a_policy_without_rules_denies_its_directions_and_no_other() -> None:
    assert not allowed([policy(policyTypes=["Ingress"])], WORLD, DB, 5432)
    assert allowed([policy(policyTypes=["Ingress"])], DB, WORLD, 443)
    assert not allowed([policy(policyTypes=["Egress"])], DB, WORLD, 443)
    assert not allowed([policy()], WORLD, DB, 1), "without policyTypes it is about ingress"
    assert allowed([policy()], DB, WORLD, 1)
    assert not allowed([policy(egress=[{"ports": [{"port": 53}]}])], DB, WORLD, 443)


def test_a_rule_without_peers_allows_everybody_and_one_without_ports_every_port() -> None:
    assert allowed([policy(ingress=[{}])], WORLD, DB, 1)
    assert allowed([policy(ingress=[{"ports": [{"port": 5432}]}])], WORLD, DB, 5432)
    assert not allowed([policy(ingress=[{"ports": [{"port": 5432}]}])], WORLD, DB, 5433)


def test_policies_add_to_each_other() -> None:
    deny = policy(policyTypes=["Ingress"])
    admit = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])
    assert allowed([deny, admit], WEB, DB, 5432)
    assert not allowed([deny, admit], STRANGER, DB, 5432), "a podSelector alone means the policy's own namespace"


def test_selectors_in_one_peer_must_both_match_and_those_in_two_need_not() -> None:
    both = {"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "db"}}}
    assert not allowed([policy(ingress=[{"from": [both]}])], STRANGER, DB, 1)
    either = [{"namespaceSelector": both["namespaceSelector"]}, {"podSelector": both["podSelector"]}]
    assert allowed([policy(ingress=[{"from": either}])], STRANGER, DB, 1)
    by_name = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}
    assert allowed([policy(ingress=[{"from": [by_name]}])], STRANGER, DB, 1)


def test_an_address_block_has_exceptions_and_one_family() -> None:
    block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}
    policies = [policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": block}]}])]
    assert allowed(policies, DB, WORLD, 443)
    assert not allowed(policies, DB, STRANGER, 443)
    assert not allowed(policies, DB, Endpoint("2001:db8::1"), 443)


def test_both_ends_must_agree() -> None:
    out = policy(policyTypes=["Egress"], podSelector={"matchLabels": {"app": "web"}})
    assert not allowed([out], WEB, DB, 1)
    assert allowed([out], DB, WEB, 1)


def test_ports_have_a_protocol_and_may_be_a_range() -> None:
    policies = [policy(ingress=[{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 8000, "endPort": 8010}]}])]
    assert allowed(policies, WORLD, DB, 53, "UDP")
    assert not allowed(policies, WORLD, DB, 53)
    assert allowed(policies, WORLD, DB, 8010)
    assert not allowed(policies, WORLD, DB, 8011)


@pytest.mark.parametrize(
    ("operator", "values", "selected"),
    [
        ("In", ["web"], [True, False, False]),
        ("NotIn", ["web"], [False, True, True]),
        ("Exists", None, [True, True, False]),
        ("DoesNotExist", None, [False, False, True]),
    ],
)
def test_expressions_of_a_selector(operator: str, values: list[str] | None, selected: list[bool]) -> None:
    expression = {"key": "app", "operator": operator, **({"values": values} if values else {})}
    labels: list[dict[str, str]] = [{"app": "web"}, {"app": "db"}, {}]
    assert [matches({"matchExpressions": [expression]}, item) for item in labels] == selected

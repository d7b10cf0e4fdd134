"""Values: what is refused and in which words, and that chart, policy and settings mean the same."""

import json
from dataclasses import fields
from typing import Any, Final

import pytest
import yaml

from gateway.settings import GatewaySettings, Limits
from runner_spec.policy import Policy, parse_policy
from runner_spec.version import __version__
from tests.charts.helm import CHART, RefusedError, render
from worker.settings import WorkerSettings

pytestmark = pytest.mark.cluster

# What the chart knows better than its values do.
MANAGED: Final = {"namespace", "gateway_url", "service_account", "runner_image"}


def schema() -> dict[str, Any]:
    return dict(json.loads((CHART / "values.schema.json").read_text()))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": {}}, "additional properties 'workers' not allowed"),
        ({"worker": {"replica": 3}}, "at '/worker': additional properties 'replica' not allowed"),
        ({"worker": {"replicas": "3"}}, "at '/worker/replicas': got string"),
        ({"worker": {"capacity": 0}}, "at '/worker/capacity': minimum: got 0, want 1"),
        ({"policy": {"images_allowed": []}}, "at '/policy': additional properties 'images_allowed' not allowed"),
        ({"policy": {"namespace": "x"}}, "at '/policy': additional properties 'namespace' not allowed"),
        (
            {"gateway": {"limits": {"transfer": 1}}},
            "at '/gateway/limits': additional properties 'transfer' not allowed",
        ),
        ({"network": {"blocked": ["10.0.0.0"]}}, "at '/network/blocked/0'"),
        ({"redis": {"url": "localhost:6379"}}, "at '/redis/url'"),
        ({"redis": {"server": {"password": "two words"}}}, "at '/redis/server/password'"),
        ({"store": {"url": "/var/data"}}, "at '/store/url'"),
        ({"namespaces": {"jobs": {"podSecurity": "strict"}}}, "at '/namespaces/jobs/podSecurity'"),
        ({"image": {"digest": "sha256:short"}}, "at '/image/digest'"),
        ({"metrics": {"podMonitor": {"enabled": "yes"}}}, "at '/metrics/podMonitor/enabled'"),
    ],
)
def test_a_mistake_is_refused_and_its_place_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        render(values)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"namespaces": {"jobs": {"name": "dynapod-system"}}}, "jobs need a namespace of their own"),
        ({"redis": {"url": "redis://r", "existingSecret": {"name": "s"}}}, "redis: url and existingSecret.name"),
        ({"debug": {"subjects": [{"kind": "Group", "name": "ops"}]}}, "set policy.allow_debug=true"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_a_remedy(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        render(values)
    assert words in str(refused.value)


def test_a_namespace_that_holds_the_release_itself_cannot_be_made() -> None:
    with pytest.raises(RefusedError, match=r"set namespaces\.system\.create=false"):
        render(namespace="dynapod-system")
    objects = render({"namespaces": {"system": {"create": False}}}, namespace="dynapod-system")
    assert [item["metadata"]["name"] for item in objects.of("Namespace")] == ["dynapod-jobs"]


def test_every_value_has_a_place_in_the_schema_and_a_description() -> None:
    def check(node: dict[str, Any], path: str) -> None:
        node = schema()["$defs"][node["$ref"].rpartition("/")[2]] | node if "$ref" in node else node
        assert node.get("description"), f"{path} has no description"
        for name, inner in node.get("properties", {}).items():
            check(inner, f"{path}/{name}")
        if node.get("properties"):
            assert node.get("additionalProperties") is False, f"{path} accepts names that do not exist"

    # Kubernetes' own types are Kubernetes' to describe.
    foreign = {"global"}
    for name, node in schema()["properties"].items():
        if name not in foreign:
            check(node, name)
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) == set(schema()["properties"]) - foreign


def test_the_schema_knows_every_field_of_the_policy_and_no_other() -> None:
    """When this fails, put what the assertion shows into values.schema.json, under properties.policy.properties."""
    described = Policy.model_json_schema()
    expected = {
        name: _for_helm(node, described["$defs"])
        for name, node in described["properties"].items()
        if name not in MANAGED
    }
    assert schema()["properties"]["policy"]["properties"] == expected, json.dumps(expected, indent=2)


def _for_helm(node: Any, definitions: dict[str, Any]) -> Any:
    """Without references, and without what the chart's own schema does not tell; Helm's patterns know no lookahead."""
    if isinstance(node, list):
        return [_for_helm(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node.replace("(?=.)", "") if isinstance(node, str) else node
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]] | node
    left_out = {"$ref", "title", "default", "examples"}
    return {
        name: {key: _for_helm(inner, definitions) for key, inner in value.items()}
        if name == "properties"
        else _for_helm(value, definitions)
        for name, value in node.items()
        if name not in left_out
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"policy": {"max_timeout": "2hours"}}, "max_timeout"),
        ({"policy": {"images": "python"}}, "images"),
        ({"policy": {"max_log_bytes": "1Mi"}}, "max_log_bytes"),
        ({"policy": {"max_resources": {"cpu": "many"}}}, "cpu"),
        ({"policy": {"over_cap": "maybe"}}, "over_cap"),
        ({"gateway": {"limits": {"transfers": "many"}}}, "transfers"),
    ],
)
def test_a_value_that_no_worker_and_no_gateway_would_take_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        render(values)
    assert words in str(refused.value)


def test_the_schema_knows_every_quota_of_the_gateway() -> None:
    known = schema()["properties"]["gateway"]["properties"]["limits"]["properties"]
    assert set(known) == {setting.name for setting in fields(Limits)}


def test_chart_images_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    objects = render()
    assert objects.container("dynapod-worker")["image"] == f"dynapod-worker:{__version__}"
    assert objects.container("dynapod-gateway")["image"] == f"dynapod-worker:{__version__}"
    assert objects.policy()["runner_image"] == Policy().runner_image == f"dynapod-runner:{__version__}"


def test_images_are_named_by_the_values() -> None:
    digest = "sha256:" + "0" * 64
    objects = render(
        {
            "image": {"repository": "mirror/dynapod-worker", "tag": "next", "pullPolicy": "Always"},
            "runnerImage": {"repository": "mirror/dynapod-runner", "digest": digest},
        }
    )
    assert objects.container("dynapod-worker")["image"] == "mirror/dynapod-worker:next"
    assert objects.container("dynapod-worker")["imagePullPolicy"] == "Always"
    assert parse_policy(objects.policy()).runner_image == f"mirror/dynapod-runner@{digest}"


def test_the_policy_arrives_word_for_word() -> None:
    policy = {
        "images": ["python:*", "node:*"],
        "secrets": {"npm": ["token"]},
        "default_timeout": "30m",
        "max_log_bytes": 268435456,
        "max_resources": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "20Gi"},
        "node_selector": {"role": "peasant"},
        "tolerations": [{"key": "jobs", "operator": "Exists", "effect": "NoSchedule"}],
        "platform_backoff": [10, 60],
        "pod_patch": {"spec": {"priorityClassName": "batch"}},
    }
    read = parse_policy(render({"policy": policy}).policy())
    assert read == parse_policy(
        policy
        | {
            "namespace": "dynapod-jobs",
            "gateway_url": "http://dynapod-gateway.dynapod-system.svc:8080",
            "service_account": "dynapod-job",
            "runner_image": f"dynapod-runner:{__version__}",
        }
    )


def test_the_services_understand_the_variables_they_get() -> None:
    objects = render(
        {
            "worker": {"capacity": 100000, "queues": ["urgent", "jobs"], "leaseSeconds": 7.5, "logLevel": "debug"},
            "gateway": {"limits": {"max_artifact_bytes": 1048576, "max_cache_bytes": "2Gi", "stall_seconds": 0.5}},
            "store": {"url": "s3://bucket/prefix"},
        }
    )
    worker = WorkerSettings.load(objects.environment("dynapod-worker"))
    assert (worker.capacity, worker.queues, worker.lease_seconds) == (100000, ("urgent", "jobs"), 7.5)
    assert (worker.store, worker.log_level, worker.log_format) == ("s3://bucket/prefix", "debug", "json")
    assert (worker.health_host, worker.health_port) == ("0.0.0.0", 9090)
    gateway = GatewaySettings.load(objects.environment("dynapod-gateway"))
    assert (gateway.host, gateway.port, gateway.namespaces) == ("0.0.0.0", 8080, ("dynapod-jobs",))
    assert (gateway.store, gateway.log_format) == ("s3://bucket/prefix", "json")
    assert gateway.limits == Limits(max_artifact_bytes=1048576, max_cache_bytes=2 * 1024**3, stall_seconds=0.5)


def test_a_service_outlives_its_drain_time() -> None:
    spec = render({"gateway": {"drainSeconds": 120}}).one("Deployment", "dynapod-gateway")["spec"]["template"]["spec"]
    unlisted = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > unlisted + 120


def test_the_documentation_names_every_value() -> None:
    text = (CHART.parent.parent / "docs" / "operations.md").read_text()
    known = set(schema()["properties"]) - {"global"}
    assert [name for name in sorted(known) if f"`{name}`" not in text] == []

"""The rendered objects: how they are secured, where they go, and what a change of values changes."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from runner_spec import anatomy
from tests.charts.helm import RELEASE, Objects, render

pytestmark = pytest.mark.cluster

DEPLOYMENTS: Final = ("dynapod-worker", "dynapod-gateway", "dynapod-redis")
CLUSTER_WIDE: Final = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
MONITORING: Final = "monitoring.coreos.com/v1"


@pytest.fixture(scope="module")
def objects() -> Objects:
    return render()


def pod_specs(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in objects.of("Deployment"):
        yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def test_every_object_names_its_namespace_and_its_release(objects: Objects) -> None:
    for item in objects:
        metadata = item["metadata"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == RELEASE, metadata["name"]
        if item["kind"] not in CLUSTER_WIDE:
            assert metadata["namespace"] in {"dynapod-system", "dynapod-jobs"}, metadata["name"]


def test_two_installations_share_no_name() -> None:
    def names(values: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {
            (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in render(values)
        }

    other = {"namespaces": {"system": {"name": "b-system"}, "jobs": {"name": "b-jobs"}}}
    assert not names({}) & names(other)


def test_both_namespaces_enforce_the_restricted_level(objects: Objects) -> None:
    for name in ("dynapod-system", "dynapod-jobs"):
        labels = objects.one("Namespace", name)["metadata"]["labels"]
        for mode in ("enforce", "warn", "audit"):
            assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_a_lower_level_is_enforced_only_by_name_and_still_warns() -> None:
    objects = render({"namespaces": {"jobs": {"podSecurity": "baseline", "labels": {"team": "ci"}}}})
    labels = objects.one("Namespace", "dynapod-jobs")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"
    assert labels["pod-security.kubernetes.io/warn"] == "restricted"
    assert labels["team"] == "ci"


def test_namespaces_that_exist_are_left_alone() -> None:
    objects = render({"namespaces": {"system": {"create": False}, "jobs": {"create": False}}})
    assert objects.of("Namespace") == []


def test_every_container_is_locked(objects: Objects) -> None:
    seen = 0
    for name, spec in pod_specs(objects):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"], name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            seen += 1
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], container["name"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
            for amount in ("memory", "ephemeral-storage"):
                assert container["resources"]["limits"][amount], container["name"]
            assert container["resources"]["requests"]["cpu"], container["name"]
    assert seen == len(DEPLOYMENTS)


def test_only_who_talks_to_the_api_server_gets_a_token(objects: Objects) -> None:
    tokens = {name: spec["automountServiceAccountToken"] for name, spec in pod_specs(objects)}
    assert tokens == {"dynapod-worker": True, "dynapod-gateway": True, "dynapod-redis": False}
    for account in objects.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False, account["metadata"]["name"]


def test_a_policy_that_changes_rolls_the_workers_and_nothing_else() -> None:
    def annotations(deployment: str, values: dict[str, Any]) -> dict[str, str]:
        return dict(render(values).one("Deployment", deployment)["spec"]["template"]["metadata"]["annotations"])

    stricter = {"policy": {"max_timeout": "1h"}}
    assert annotations("dynapod-worker", {}) == annotations("dynapod-worker", {})
    assert annotations("dynapod-worker", {}) != annotations("dynapod-worker", stricter)
    assert annotations("dynapod-gateway", {}) == annotations("dynapod-gateway", stricter)


def test_workers_roll_without_a_gap_and_leave_quickly(objects: Objects) -> None:
    spec = objects.one("Deployment", "dynapod-worker")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] <= 15
    probes = objects.container("dynapod-worker")
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_an_autoscaler_may_own_the_number_of_workers() -> None:
    assert "replicas" not in render({"worker": {"replicas": None}}).one("Deployment", "dynapod-worker")["spec"]
    assert render({"worker": {"replicas": 0}}).one("Deployment", "dynapod-worker")["spec"]["replicas"] == 0


def test_selectors_find_their_own_pods_only(objects: Objects) -> None:
    templates = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"] for item in objects.of("Deployment")
    }

    def found(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in templates.items() if selector.items() <= labels.items()}

    for item in objects.of("Deployment"):
        assert found(item["spec"]["selector"]["matchLabels"]) == {item["metadata"]["name"]}
    for item in objects.of("Service"):
        assert found(item["spec"]["selector"]) == {item["metadata"]["name"].removesuffix("-metrics")}
    for item in objects.of("PodDisruptionBudget"):
        assert found(item["spec"]["selector"]["matchLabels"]) == {item["metadata"]["name"]}
    assert all(labels[anatomy.LABEL_MANAGED_BY] != anatomy.MANAGED_BY for labels in templates.values()), (
        "a worker would take the chart's pods for jobs"
    )


def test_the_charts_redis_never_forgets_by_itself_and_asks_for_a_password(objects: Objects) -> None:
    secret = objects.one("Secret", "dynapod-redis")["stringData"]
    lines = secret["redis.conf"].splitlines()
    assert "appendonly yes" in lines
    assert "maxmemory-policy noeviction" in lines
    assert f'requirepass "{secret["password"]}"' in lines
    assert len(secret["password"]) == 32
    assert secret["url"] == f"redis://:{secret['password']}@dynapod-redis.dynapod-system.svc:6379/0"


def test_a_password_of_the_operators_own_survives_the_url() -> None:
    secret = render({"redis": {"server": {"password": "a/b@c:d+e"}}}).one("Secret", "dynapod-redis")["stringData"]
    assert secret["url"] == "redis://:a%2Fb%40c%3Ad%2Be@dynapod-redis.dynapod-system.svc:6379/0"


def test_an_external_redis_replaces_the_charts_own() -> None:
    by_url = render({"redis": {"url": "rediss://user:pw@redis.example:6380/1"}})
    assert by_url.one("Secret", "dynapod-redis")["stringData"] == {"url": "rediss://user:pw@redis.example:6380/1"}
    by_secret = render({"redis": {"existingSecret": {"name": "queue", "key": "dsn"}}})
    assert by_secret.of("Secret") == []
    for objects, reference in (
        (by_url, {"name": "dynapod-redis", "key": "url"}),
        (by_secret, {"name": "queue", "key": "dsn"}),
    ):
        assert {item["metadata"]["name"] for item in objects.of("Deployment")} == {"dynapod-worker", "dynapod-gateway"}
        assert "dynapod-redis" not in {item["metadata"]["name"] for item in objects.of("NetworkPolicy")}
        worker = objects.one("Deployment", "dynapod-worker")["spec"]["template"]["spec"]
        assert "initContainers" not in worker
        for name in ("dynapod-worker", "dynapod-gateway"):
            (sources,) = [i["valueFrom"] for i in objects.container(name)["env"] if i["name"].endswith("_REDIS_URL")]
            assert sources == {"secretKeyRef": reference}


def test_the_store_is_a_bucket_with_credentials_or_a_volume() -> None:
    bucket = render({"store": {"url": "s3://b", "existingSecret": "s3", "env": [{"name": "AWS_REGION", "value": "x"}]}})
    volume = render()
    shared = render({"store": {"volume": {"existingClaim": "nfs"}}})
    assert [claim["metadata"]["name"] for claim in volume.of("PersistentVolumeClaim")] == ["dynapod-store"]
    assert bucket.of("PersistentVolumeClaim") == shared.of("PersistentVolumeClaim") == []
    for name in ("dynapod-worker", "dynapod-gateway"):
        assert bucket.container(name)["envFrom"] == [{"secretRef": {"name": "s3"}}]
        assert bucket.environment(name)["AWS_REGION"] == "x"
        assert "store" not in {mount["name"] for mount in bucket.container(name)["volumeMounts"]}
    for objects, claim in ((volume, "dynapod-store"), (shared, "nfs")):
        for name, variable in (("dynapod-worker", "DYNAPOD_STORE"), ("dynapod-gateway", "DYNAPOD_GATEWAY_STORE")):
            (mount,) = [m for m in objects.container(name)["volumeMounts"] if m["name"] == "store"]
            assert objects.environment(name)[variable] == mount["mountPath"]
            volumes = objects.one("Deployment", name)["spec"]["template"]["spec"]["volumes"]
            (source,) = [v["persistentVolumeClaim"]["claimName"] for v in volumes if v["name"] == "store"]
            assert source == claim


def test_everything_trusted_goes_to_the_operators_nodes() -> None:
    placement = {
        "nodeSelector": {"role": "patrician"},
        "tolerations": [{"key": "trusted", "operator": "Exists"}],
        "priorityClassName": "infrastructure",
    }
    for name, spec in pod_specs(render({"placement": placement, "imagePullSecrets": ["registry"]})):
        assert spec["nodeSelector"] == {"role": "patrician"}, name
        assert spec["tolerations"] == [{"key": "trusted", "operator": "Exists"}], name
        assert spec["priorityClassName"] == "infrastructure", name
        assert spec["imagePullSecrets"] == [{"name": "registry"}], name


def test_quota_and_limits_bound_the_jobs_namespace() -> None:
    objects = render({"quota": {"hard": {"pods": "50", "limits.cpu": 100}}})
    assert objects.one("ResourceQuota", "dynapod-jobs", "dynapod-jobs")["spec"]["hard"] == {
        "pods": "50",
        "limits.cpu": 100,
    }
    assert objects.one("LimitRange", "dynapod-jobs", "dynapod-jobs")["spec"]["limits"][0]["type"] == "Container"
    without = render({"quota": {"hard": None}, "limitRange": {"limits": []}})
    assert without.of("ResourceQuota") == without.of("LimitRange") == []


@pytest.mark.parametrize(
    ("enabled", "apis", "expected"),
    [("auto", (), 0), ("auto", (MONITORING,), 1), (True, (), 1), (False, (MONITORING,), 0)],
)
def test_pods_are_monitored_where_prometheus_operator_is(enabled: object, apis: tuple[str, ...], expected: int) -> None:
    objects = render({"metrics": {"podMonitor": {"enabled": enabled}}}, apis=apis)
    monitors = objects.of("PodMonitor")
    assert len(monitors) == expected
    for monitor in monitors:
        ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        assert ports == {objects.container(name)["ports"][0]["name"] for name in DEPLOYMENTS[:2]}


def test_further_variables_labels_and_annotations_reach_the_pods() -> None:
    extra = {
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "podLabels": {"team": "ci"},
        "podAnnotations": {"note": "x"},
        "serviceAccountAnnotations": {"role": "y"},
    }
    objects = render({"worker": extra, "gateway": extra})
    for name in ("dynapod-worker", "dynapod-gateway"):
        assert objects.environment(name)["HTTPS_PROXY"] == "http://proxy.example:3128"
        metadata = objects.one("Deployment", name)["spec"]["template"]["metadata"]
        assert metadata["labels"]["team"] == "ci"
        assert metadata["annotations"]["note"] == "x"
        assert objects.one("ServiceAccount", name)["metadata"]["annotations"] == {"role": "y"}


def test_no_image_names_a_registry() -> None:
    for _, spec in pod_specs(render()):
        for container in spec["containers"]:
            host, slash, _ = container["image"].partition("/")
            assert not slash or ("." not in host and ":" not in host), container["image"]

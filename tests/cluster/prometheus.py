"""Debian's Prometheus as a pod that scrapes the pods of a namespace, asked through the API server's proxy."""

import json
import time
from typing import Any, Final
from urllib.parse import quote

import yaml

from tests.charts.cluster import kubectl, manifests
from tests.cluster import images

READY_S: Final = 90
PATIENCE_S: Final = 40.0
POLL_S: Final = 0.5


class Prometheus:
    """Lives in `namespace`, scrapes every second what has a port named `metrics` or `http` in `scraped`."""

    def __init__(self, namespace: str, scraped: str) -> None:
        self._namespace = namespace
        self._scraped = scraped

    def start(self) -> None:
        """Create the pod; `wait` tells when it is ready."""
        account = {"kind": "ServiceAccount", "name": "prometheus", "namespace": self._namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "prometheus"}
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
        here = {"name": "prometheus", "namespace": self._namespace}
        there = {"name": "prometheus", "namespace": self._scraped}
        api = "rbac.authorization.k8s.io/v1"
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
            {"apiVersion": api, "kind": "Role", "metadata": there, "rules": rules},
            {"apiVersion": api, "kind": "RoleBinding", "metadata": there, "roleRef": role, "subjects": [account]},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": here,
                "data": {"prometheus.yml": yaml.safe_dump(self._configuration())},
            },
            {"apiVersion": "v1", "kind": "Pod", "metadata": here, "spec": _pod()},
        ]
        kubectl("apply", "-f", "-", stdin=manifests(objects))

    def wait(self) -> None:
        """Until it answers."""
        kubectl(
            "wait", "--for=condition=Ready", "pod/prometheus", "--namespace", self._namespace, f"--timeout={READY_S}s"
        )

    def _configuration(self) -> dict[str, Any]:
        def from_pod(fact: str, label: str) -> dict[str, Any]:
            return {"source_labels": [f"__meta_kubernetes_pod_{fact}"], "target_label": label}

        named = {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "metrics|http"}
        return {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "dynapod",
                    "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [self._scraped]}}],
                    "relabel_configs": [
                        named | {"action": "keep"},
                        from_pod("label_app_kubernetes_io_component", "component"),
                        from_pod("name", "pod"),
                    ],
                }
            ],
        }

    def ask(self, query: str) -> float | None:
        """The value of a query that yields one number; None where it yields nothing."""
        proxy = f"/api/v1/namespaces/{self._namespace}/pods/prometheus:9090/proxy"
        answer = json.loads(kubectl("get", "--raw", f"{proxy}/api/v1/query?query={quote(query)}"))
        assert answer["status"] == "success", answer
        found = answer["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def wait_for(self, query: str, value: float) -> None:
        """Until the query yields this value; Prometheus tells nobody when it does.

        Raises:
            AssertionError: it does not in `PATIENCE_S` seconds.
        """
        end = time.monotonic() + PATIENCE_S
        while (last := self.ask(query)) != value:
            assert time.monotonic() < end, f"{query} is {last}, not {value}"
            time.sleep(POLL_S)


def _pod() -> dict[str, Any]:
    command = "prometheus --config.file=/etc/config/prometheus.yml --storage.tsdb.path=/data --web.listen-address=:9090"
    return {
        "serviceAccountName": "prometheus",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 1000},
        "containers": [
            {
                "name": "prometheus",
                "image": images.SERVICES,
                "imagePullPolicy": "IfNotPresent",
                "command": command.split(),
                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                "volumeMounts": [
                    {"name": "configuration", "mountPath": "/etc/config"},
                    {"name": "data", "mountPath": "/data"},
                ],
            }
        ],
        "volumes": [
            {"name": "configuration", "configMap": {"name": "prometheus"}},
            {"name": "data", "emptyDir": {}},
        ],
    }

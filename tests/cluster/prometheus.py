"""Debian's Prometheus as a pod that scrapes an installation, asked through the API server's proxy.

It finds the pods by name: Debian's has no discovery by Kubernetes.
"""

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
    """Lives in `namespace`, scrapes each second, as `worker` and `gateway`, those pods of `system`."""

    def __init__(self, namespace: str, system: str) -> None:
        self._namespace = namespace
        self._system = system

    def start(self) -> None:
        """Create the pod; `wait` tells when it is ready."""
        here = {"name": "prometheus", "namespace": self._namespace}
        data = {"prometheus.yml": yaml.safe_dump(self._configuration())}
        configuration = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": here, "data": data}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": here, "spec": _pod()}
        kubectl("apply", "-f", "-", stdin=manifests([configuration, pod]))

    def wait(self) -> None:
        """Until it answers."""
        kubectl(
            "wait", "--for=condition=Ready", "pod/prometheus", "--namespace", self._namespace, f"--timeout={READY_S}s"
        )

    def _configuration(self) -> dict[str, Any]:
        def scraped(component: str, port: int) -> dict[str, Any]:
            name = f"dynapod-{component}-metrics.{self._system}.svc"
            discovery = {"names": [name], "type": "A", "port": port, "refresh_interval": "1s"}
            return {"job_name": component, "dns_sd_configs": [discovery]}

        return {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [scraped("worker", 9090), scraped("gateway", 8080)],
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
        "automountServiceAccountToken": False,
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

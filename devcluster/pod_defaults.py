"""What the apiserver fills in before it stores a pod: pkg/apis/core/v1/defaults.go and the admission plugins."""

from typing import Any, Final

from devcluster.quantity import parse_quantity
from devcluster.resources import Object

DEFAULT_MODE: Final = 0o644
DEFAULT_GRACE_SECONDS: Final = 30
TERMINATION_LOG: Final = "/dev/termination-log"
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


def apply_defaults(pod: Object) -> None:
    """Fill `pod["spec"]` in place; it has been decoded, so every part has the right type."""
    spec = pod.setdefault("spec", {})
    for name, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("enableServiceLinks", True),
        ("preemptionPolicy", "PreemptLowerPriority"),
        ("priority", 0),
    ):
        spec.setdefault(name, value)
    spec.setdefault("securityContext", {})
    if spec["terminationGracePeriodSeconds"] < 0:
        spec["terminationGracePeriodSeconds"] = 1  # as the apiserver stores it
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    if "tolerations" not in spec:  # admission plugin DefaultTolerationSeconds
        spec["tolerations"] = [
            {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for what in ("not-ready", "unreachable")
        ]
    for container in [*spec.get("initContainers", ()), *spec.get("containers", ())]:
        _container(container)
    for volume in spec.get("volumes", ()):
        _volume(volume)


def _container(container: dict[str, Any]) -> None:
    image: str = container.get("image", "")
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    latest = tag == "latest" or (not tag and "@" not in image)
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", TERMINATION_LOG)
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        resources["requests"] = {**limits, **resources.get("requests", {})}
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for variable in container.get("env", ()):
        if field := variable.get("valueFrom", {}).get("fieldRef"):
            field.setdefault("apiVersion", "v1")
    for name in _PROBES:
        if (probe := container.get(name)) is not None:
            _probe(probe)


def _probe(probe: dict[str, Any]) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(name):
            probe[name] = value
    if get := probe.get("httpGet"):
        get.setdefault("path", "/")
        get.setdefault("scheme", "HTTP")


def _volume(volume: dict[str, Any]) -> None:
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if (source := volume.get(name)) is not None:
            source.setdefault("defaultMode", DEFAULT_MODE)
            for item in source.get("items", ()):
                _downward_item(item)
    if (host := volume.get("hostPath")) is not None:
        host.setdefault("type", "")
    for projection in volume.get("projected", {}).get("sources", ()):
        if (token := projection.get("serviceAccountToken")) is not None:
            token.setdefault("expirationSeconds", 3600)
        for item in projection.get("downwardAPI", {}).get("items", ()):
            _downward_item(item)


def _downward_item(item: dict[str, Any]) -> None:
    if field := item.get("fieldRef"):
        field.setdefault("apiVersion", "v1")


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort (pkg/apis/core/helper/qos); containers have their defaults already."""
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    computed = ("cpu", "memory")
    totals: dict[str, dict[str, Any]] = {"requests": {}, "limits": {}}
    guaranteed = bool(containers)
    for container in containers:
        for side, total in totals.items():
            for name in computed:
                value = parse_quantity(container["resources"].get(side, {}).get(name, 0))
                if value > 0:
                    total[name] = total.get(name, 0) + value
                elif side == "limits":
                    guaranteed = False
    if not totals["requests"] and not totals["limits"]:
        return "BestEffort"
    return "Guaranteed" if guaranteed and totals["requests"] == totals["limits"] else "Burstable"

"""Reading a pod: its containers by role, and the fields that the downward API hands out."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from devcluster.quantity import parse_quantity, whole
from devcluster.resources import Object

VOLUME_SOURCES: Final = ("emptyDir", "hostPath", "secret", "configMap", "downwardAPI", "projected")
NODE_IP: Final = "127.0.0.1"


class Role(Enum):
    """What a container is to its pod's lifecycle."""

    INIT = "init"
    SIDECAR = "sidecar"  # an init container with restartPolicy Always
    MAIN = "main"


def containers_by_role(spec: Object) -> list[tuple[Role, dict[str, Any]]]:
    """Init containers and sidecars in their order of start, then the main containers."""
    listed = [
        (Role.SIDECAR if container.get("restartPolicy") == "Always" else Role.INIT, container)
        for container in spec.get("initContainers", ())
    ]
    return listed + [(Role.MAIN, container) for container in spec["containers"]]


_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def field_value(pod: Object, path: str, *, node_name: str) -> str:
    """The text of one field, as `fieldRef` gives it.

    Raises:
        ValueError: for a field that the downward API does not know.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    if found := _SUBSCRIPT.fullmatch(path):
        return str(metadata.get(found[1], {}).get(found[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return _format_map(metadata.get(path.partition(".")[2], {}))
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return str(metadata[path.partition(".")[2]])
    known = {
        "spec.nodeName": node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": NODE_IP,
        "status.hostIPs": NODE_IP,
        "status.podIP": NODE_IP,
        "status.podIPs": NODE_IP,
    }
    if path not in known:
        raise ValueError(f"unsupported fieldPath: {path}")
    return str(known[path])


def _format_map(values: Mapping[str, str]) -> str:
    """`key="value"` lines, sorted, quoted as Go's %q does for the usual characters (pkg/fieldpath)."""
    return "\n".join(f"{key}={go_quoted(value)}" for key, value in sorted(values.items()))


_ESCAPES: Final = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def go_quoted(text: str) -> str:
    """A Go string literal (strconv.Quote): printable characters stay as they are."""
    parts = []
    for char in text:
        if char in '"\\':
            parts.append("\\" + char)
        elif char in _ESCAPES:
            parts.append(_ESCAPES[char])
        elif char.isprintable():
            parts.append(char)
        elif ord(char) < 0x80:  # noqa: PLR2004 - ASCII
            parts.append(f"\\x{ord(char):02x}")
        else:
            parts.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")  # noqa: PLR2004 - the BMP
    return f'"{"".join(parts)}"'


def resource_value(container: Mapping[str, Any], path: str, divisor: str | float, capacity: Mapping[str, int]) -> str:
    """The text of `limits.cpu`, `requests.memory`, …, in units of the divisor, rounded up.

    A container without that limit sees the node's `capacity` (cpu in cores, memory and ephemeral-storage in bytes).

    Raises:
        ValueError: for an unknown resource.
    """
    side, _, name = path.partition(".")
    if side not in ("limits", "requests") or not name:
        raise ValueError(f"unsupported container resource : {path}")
    text = container.get("resources", {}).get(side, {}).get(name)
    if text is None:
        text = str(capacity.get(name, 0)) if side == "limits" else "0"
    unit = parse_quantity(divisor) or parse_quantity("1")
    return str(whole(parse_quantity(text) / unit))

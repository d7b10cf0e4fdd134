"""What makes a pod invalid, and nothing else: the rules of pkg/apis/core/validation that this cluster can check.

Pure: a decoded pod with defaults in, all problems out, each with its path. Two rules are this cluster's own, and say
so: only `restartPolicy: Never` is supported, and only volumes that a folder can stand in for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from devcluster.names import (
    ANNOTATIONS_MAX_BYTES,
    annotations_bytes,
    config_key_problem,
    dns_label_problem,
    ip_address_problem,
    label_key_problem,
    label_value_problem,
    subdomain_problem,
)
from devcluster.pod_fields import VOLUME_SOURCES
from devcluster.quantity import PATTERN_MESSAGE, parse_quantity
from devcluster.resources import Object
from devcluster.status_error import (
    Cause,
    dangling,
    duplicate,
    refused,
    required,
    too_long,
    unsupported,
    wrong,
)

Item = dict[str, Any]
_NOT_NEGATIVE: Final = "must be greater than or equal to 0"
_MIN_TOKEN_SECONDS: Final = 600
_MAX_MODE: Final = 0o777
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES: Final = ("FallbackToLogsOnError", "File")
_RESTART_POLICIES: Final = ("Always", "OnFailure", "Never")


def metadata_problems(metadata: Item, *, label_name: bool = False) -> list[Cause]:
    """Problems of any object's metadata; `label_name` where the name must be a DNS label (namespaces)."""
    problems: list[Cause] = []
    name = metadata.get("name", "")
    if not name:
        problems.append(required("metadata.name", "name or generateName is required"))
    elif problem := (dns_label_problem if label_name else subdomain_problem)(name):
        problems.append(wrong("metadata.name", name, problem))
    for key, value in metadata.get("labels", {}).items():
        if problem := label_key_problem(key):
            problems.append(wrong("metadata.labels", key, problem))
        if problem := label_value_problem(value):
            problems.append(wrong("metadata.labels", value, problem))
    annotations = metadata.get("annotations", {})
    problems += [
        wrong("metadata.annotations", key, problem)
        for key in annotations
        if (problem := label_key_problem(key.lower()))
    ]
    if annotations_bytes(annotations) > ANNOTATIONS_MAX_BYTES:
        problems.append(too_long("metadata.annotations", f"may not be more than {ANNOTATIONS_MAX_BYTES} bytes"))
    return problems


def config_problems(metadata: Item, data: Mapping[str, str]) -> list[Cause]:
    """Problems of a secret or a config map."""
    problems = metadata_problems(metadata)
    problems += [wrong(f"data[{key}]", key, problem) for key in data if (problem := config_key_problem(key))]
    return problems


def pod_problems(pod: Object) -> list[Cause]:
    """Every problem of a pod, in the apiserver's order: metadata, volumes, containers, the rest of the spec."""
    spec: Item = pod["spec"]
    volumes: Sequence[Item] = spec.get("volumes", ())
    problems = metadata_problems(pod["metadata"])
    problems += _volumes(volumes)
    names = {volume.get("name") for volume in volumes}
    seen: set[str] = set()
    containers: Sequence[Item] = spec.get("containers", ())
    if not containers:
        problems.append(required("spec.containers"))
    for kind, group in (("containers", containers), ("initContainers", spec.get("initContainers", ()))):
        for i, container in enumerate(group):
            path = f"spec.{kind}[{i}]"
            problems += _container(path, container, names, seen)
            problems += (
                _init_container(path, container) if kind == "initContainers" else _main_container(path, container)
            )
    problems += _spec(spec)
    return problems


def _spec(spec: Item) -> Iterator[Cause]:
    policy = spec["restartPolicy"]
    if policy not in _RESTART_POLICIES:
        yield unsupported("spec.restartPolicy", policy, _RESTART_POLICIES)
    elif policy != "Never":
        yield refused(
            "spec.restartPolicy", f"this embedded cluster runs pods to their end only: set it to Never, not {policy}"
        )
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline < 2**31:
        yield wrong("spec.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    if problem := subdomain_problem(spec["serviceAccountName"]):
        yield wrong("spec.serviceAccountName", spec["serviceAccountName"], problem)
    for name, value in spec.get("nodeSelector", {}).items():
        if problem := label_key_problem(name) or label_value_problem(value):
            yield wrong("spec.nodeSelector", name, problem)
    yield from _host_aliases(spec.get("hostAliases", ()))


def _host_aliases(aliases: Sequence[Item]) -> Iterator[Cause]:
    for i, alias in enumerate(aliases):
        if problem := ip_address_problem(alias.get("ip", "")):
            yield wrong(f"spec.hostAliases[{i}].ip", alias.get("ip", ""), problem)
        for j, name in enumerate(alias.get("hostnames", ())):
            if problem := subdomain_problem(name):
                yield wrong(f"spec.hostAliases[{i}].hostnames[{j}]", name, problem)


def _container(path: str, container: Item, volumes: set[str | None], seen: set[str]) -> Iterator[Cause]:
    name = container.get("name", "")
    if not name:
        yield required(f"{path}.name")
    elif problem := dns_label_problem(name):
        yield wrong(f"{path}.name", name, problem)
    elif name in seen:
        yield duplicate(f"{path}.name", name)
    seen.add(name)
    image = container.get("image", "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield wrong(f"{path}.image", image, "must not have leading or trailing whitespace")
    if container["imagePullPolicy"] not in _PULL_POLICIES:
        yield unsupported(f"{path}.imagePullPolicy", container["imagePullPolicy"], _PULL_POLICIES)
    if container["terminationMessagePolicy"] not in _MESSAGE_POLICIES:
        yield unsupported(f"{path}.terminationMessagePolicy", container["terminationMessagePolicy"], _MESSAGE_POLICIES)
    yield from _env(path, container)
    yield from _mounts(path, container, volumes)
    yield from _resources(path, container["resources"])
    yield from _probes(path, container)


def _main_container(path: str, container: Item) -> Iterator[Cause]:
    if "restartPolicy" in container:
        yield refused(f"{path}.restartPolicy", "may not be set for non-init containers")


def _init_container(path: str, container: Item) -> Iterator[Cause]:
    policy = container.get("restartPolicy")
    if policy is not None and policy != "Always":
        yield unsupported(f"{path}.restartPolicy", policy, ("Always",))
    if policy is None:
        for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if name in container:
                yield refused(f"{path}.{name}", "may not be set for init containers without restartPolicy=Always")


def _env(path: str, container: Item) -> Iterator[Cause]:
    for i, variable in enumerate(container.get("env", ())):
        at = f"{path}.env[{i}]"
        name = variable.get("name", "")
        if not name:
            yield required(f"{at}.name")
        elif "=" in name or not name.isprintable() or not name.isascii():
            # RelaxedEnvironmentVariableValidation: printable ASCII except "="
            why = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            yield wrong(f"{at}.name", name, why)
        if (source := variable.get("valueFrom")) is not None:
            yield from _env_source(f"{at}.valueFrom", source, has_value=bool(variable.get("value")))


_ENV_SOURCES: Final = "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"


def _env_source(path: str, source: Item, *, has_value: bool) -> Iterator[Cause]:
    if not source:
        yield wrong(path, "", f"must specify one of: {_ENV_SOURCES}")
    elif has_value:
        yield wrong(path, "", "may not be specified when `value` is not empty")
    elif len(source) > 1:
        yield wrong(path, "", "may not have more than one field specified at a time")
    for reference in ("secretKeyRef", "configMapKeyRef"):
        if reference in source:
            if not source[reference].get("key"):
                yield required(f"{path}.{reference}.key")
            elif problem := config_key_problem(source[reference]["key"]):
                yield wrong(f"{path}.{reference}.key", source[reference]["key"], problem)
    if "fieldRef" in source and not source["fieldRef"].get("fieldPath"):
        yield required(f"{path}.fieldRef.fieldPath")


def _mounts(path: str, container: Item, volumes: set[str | None]) -> Iterator[Cause]:
    seen: set[str] = set()
    for i, mount in enumerate(container.get("volumeMounts", ())):
        at = f"{path}.volumeMounts[{i}]"
        name, mount_path = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            yield required(f"{at}.name")
        if name not in volumes:
            yield dangling(f"{at}.name", name)
        if not mount_path:
            yield required(f"{at}.mountPath")
        if mount_path in seen:
            yield wrong(f"{at}.mountPath", mount_path, "must be unique")
        seen.add(mount_path)
        if mount.get("subPath"):
            # the apiserver omits the index in this one path; so do we
            yield from descending_path(f"{path}.volumeMounts.subPath", mount["subPath"])


def descending_path(path: str, value: str) -> Iterator[Cause]:
    """Problems of a path that must stay below where it starts."""
    if value.startswith("/"):
        yield wrong(path, value, "must be a relative path")
    if ".." in value.split("/"):
        yield wrong(path, value, "must not contain '..'")


def _resources(path: str, resources: Item) -> Iterator[Cause]:
    values: dict[str, dict[str, Any]] = {"limits": {}, "requests": {}}
    for side, known in values.items():
        for name, text in resources.get(side, {}).items():
            try:
                known[name] = parse_quantity(text)
            except ValueError:
                yield wrong(f"{path}.resources.{side}.{name}", text, PATTERN_MESSAGE)
            else:
                if known[name] < 0:
                    yield wrong(f"{path}.resources.{side}[{name}]", text, _NOT_NEGATIVE)
    for name, request in values["requests"].items():
        limit = values["limits"].get(name)
        if limit is not None and request > limit:
            text = resources["requests"][name]
            why = f"must be less than or equal to {name} limit of {resources['limits'][name]}"
            yield wrong(f"{path}.resources.requests", text, why)


def _probes(path: str, container: Item) -> Iterator[Cause]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if (probe := container.get(name)) is not None:
            handlers = [handler for handler in ("exec", "httpGet", "tcpSocket", "grpc") if handler in probe]
            if not handlers:
                yield required(f"{path}.{name}", "must specify a handler type")
            elif len(handlers) > 1:
                yield refused(f"{path}.{name}.{handlers[1]}", "may not specify more than 1 handler type")


def _volumes(volumes: Sequence[Item]) -> Iterator[Cause]:
    seen: set[str] = set()
    for i, volume in enumerate(volumes):
        path = f"spec.volumes[{i}]"
        name = volume.get("name", "")
        if not name:
            yield required(f"{path}.name")
        elif problem := dns_label_problem(name):
            yield wrong(f"{path}.name", name, problem)
        elif name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)
        sources = [key for key in volume if key != "name"]
        if not sources:
            yield required(path, "must specify a volume type")
        for extra in sources[1:]:
            yield refused(f"{path}.{extra}", "may not specify more than 1 volume type")
        for source in sources[:1]:
            if source not in VOLUME_SOURCES:
                supported = ", ".join(VOLUME_SOURCES)
                yield refused(f"{path}.{source}", f"this embedded cluster has only these volumes: {supported}")
            yield from _volume_source(f"{path}.{source}", source, volume[source])


def _volume_source(path: str, kind: str, source: Item) -> Iterator[Cause]:
    if kind == "secret" and not source.get("secretName"):
        yield required(f"{path}.secretName")
    elif kind == "configMap" and not source.get("name"):
        yield required(f"{path}.name")
    elif kind == "hostPath":
        if not source.get("path"):
            yield required(f"{path}.path")
        elif ".." in source["path"].split("/"):
            yield wrong(f"{path}.path", source["path"], "must not contain '..'")
    elif kind == "emptyDir":
        yield from _size_limit(f"{path}.sizeLimit", source.get("sizeLimit", "0"))
    elif kind == "projected":
        for i, projection in enumerate(source.get("sources", ())):
            yield from _projection(f"{path}.sources[{i}]", projection)
    yield from _items(f"{path}.items", kind, source.get("items", ()))


def _size_limit(path: str, text: str | float) -> Iterator[Cause]:
    try:
        negative = parse_quantity(text) < 0
    except ValueError:
        yield wrong(path, text, PATTERN_MESSAGE)
    else:
        if negative:
            yield refused(path, "SizeLimit field must be a valid resource quantity")


def _projection(path: str, projection: Item) -> Iterator[Cause]:
    if len(projection) > 1:
        yield refused(path, "may not specify more than 1 volume type")
    for kind, source in projection.items():
        if kind == "clusterTrustBundle":
            yield refused(f"{path}.{kind}", "this embedded cluster has no trust bundles")
        elif kind == "serviceAccountToken":
            if source["expirationSeconds"] < _MIN_TOKEN_SECONDS:
                seconds = source["expirationSeconds"]
                yield wrong(
                    f"{path}.{kind}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"
                )
            if not source.get("path"):
                yield required(f"{path}.{kind}.path")
            else:
                yield from descending_path(f"{path}.{kind}.path", source["path"])
        else:
            if kind != "downwardAPI" and not source.get("name"):
                yield required(f"{path}.{kind}.name")
            yield from _items(f"{path}.{kind}", kind, source.get("items", ()))


def _items(path: str, kind: str, items: Sequence[Item]) -> Iterator[Cause]:
    for i, item in enumerate(items):
        at = f"{path}[{i}]"
        if kind == "downwardAPI":
            if ("fieldRef" in item) == ("resourceFieldRef" in item):
                yield required(at, "one of fieldRef and resourceFieldRef is required")
        elif not item.get("key"):
            yield required(f"{at}.key")
        if not item.get("path"):
            yield required(f"{at}.path")
        else:
            yield from descending_path(f"{at}.path", item["path"])
        mode = item.get("mode")
        if mode is not None and not 0 <= mode <= _MAX_MODE:
            yield wrong(f"{at}.mode", mode, "must be a number between 0 and 0777 (octal), both inclusive")

"""A container's environment variables: the kubelet's makeEnvironmentVariables, pure but for the objects it looks up."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from devcluster.pod_fields import field_value, resource_value
from devcluster.resources import CONFIG_MAPS, SECRETS, Object, Resource
from devcluster.runtime import StartRefusedError

# Looks an object of the pod's namespace up by name.
Lookup = Callable[[Resource, str], Object | None]
CONFIG_ERROR: Final = "CreateContainerConfigError"
# k8s.io/kubernetes/third_party/forked/golang/expansion: $(NAME) is replaced, $$ is an escaped $.
_REFERENCE: Final = re.compile(r"\$(\$|\(([^)]*)\))")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by its value; an unknown name stays as it stands; `$$` becomes `$`."""

    def replace(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return values.get(found[2], found[0])

    return _REFERENCE.sub(replace, text)


def resolve_environment(
    pod: Object,
    container: Mapping[str, Any],
    lookup: Lookup,
    *,
    node_name: str,
    capacity: Mapping[str, int],
) -> dict[str, str]:
    """The variables that the pod asks for, in order, later ones winning.

    Raises:
        StartRefusedError: CreateContainerConfigError, when a secret, a config map or a key is missing.
    """
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        values.update(_from_source(source, lookup))
    for variable in container.get("env", ()):
        name, source = variable["name"], variable.get("valueFrom")
        if source is None:
            values[name] = expand(variable.get("value", ""), values)
        elif "fieldRef" in source:
            path = source["fieldRef"]["fieldPath"]
            values[name] = _config_error(partial(field_value, pod, path, node_name=node_name))
        elif "resourceFieldRef" in source:
            values[name] = _resource(pod, container, source["resourceFieldRef"], capacity)
        else:
            value = _from_key(pod, source, lookup)
            if value is not None:
                values[name] = value
    return values


def data_of(resource: Resource, obj: Object) -> dict[str, bytes]:
    """Keys and bytes of a secret or a config map."""
    if resource is SECRETS:
        return {key: base64.b64decode(value) for key, value in obj.get("data", {}).items()}
    found = {key: value.encode() for key, value in obj.get("data", {}).items()}
    return found | {key: base64.b64decode(value) for key, value in obj.get("binaryData", {}).items()}


def select_container(pod: Object, name: str) -> Mapping[str, Any] | None:
    """A container of the pod by its name."""
    listed: Sequence[Mapping[str, Any]] = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]
    return next((container for container in listed if container["name"] == name), None)


def _from_source(source: Mapping[str, Any], lookup: Lookup) -> Iterator[tuple[str, str]]:
    for field, resource, singular in (("secretRef", SECRETS, "secret"), ("configMapRef", CONFIG_MAPS, "configmap")):
        if (reference := source.get(field)) is None:
            continue
        obj = lookup(resource, reference["name"])
        if obj is None:
            if reference.get("optional"):
                continue
            raise StartRefusedError(CONFIG_ERROR, f'{singular} "{reference["name"]}" not found')
        for key, value in data_of(resource, obj).items():
            yield source.get("prefix", "") + key, _text(value)


def _from_key(pod: Object, source: Mapping[str, Any], lookup: Lookup) -> str | None:
    for field, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
        if (reference := source.get(field)) is None:
            continue
        name, key = reference["name"], reference["key"]
        obj = lookup(resource, name)
        optional = reference.get("optional", False)
        if obj is None:
            if optional:
                return None
            raise StartRefusedError(CONFIG_ERROR, f'{resource.kind.lower()} "{name}" not found')
        value = data_of(resource, obj).get(key)
        if value is None:
            if optional:
                return None
            place = f"{pod['metadata']['namespace']}/{name}"
            raise StartRefusedError(CONFIG_ERROR, f"couldn't find key {key} in {resource.kind} {place}")
        return _text(value)
    return None


def _resource(
    pod: Object, container: Mapping[str, Any], reference: Mapping[str, Any], capacity: Mapping[str, int]
) -> str:
    name = reference.get("containerName") or container["name"]
    target = select_container(pod, name)
    if target is None:
        raise StartRefusedError(CONFIG_ERROR, f"container {name} not found")
    path, divisor = reference.get("resource", ""), reference.get("divisor", "1")
    return _config_error(lambda: resource_value(target, path, divisor, capacity))


def _config_error(compute: Callable[[], str]) -> str:
    try:
        return compute()
    except ValueError as error:
        raise StartRefusedError(CONFIG_ERROR, str(error)) from error


def _text(value: bytes) -> str:
    # The surrogates carry bytes that are not UTF-8 unharmed into execve.
    return value.decode("utf-8", "surrogateescape")

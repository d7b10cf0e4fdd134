"""Whether the containers of a pod are those that the policy gives, each in its role."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from runner_spec import anatomy
from runner_spec.conformity_volumes import secret_conformity
from runner_spec.containment import RESOURCES
from runner_spec.grammar import ENV_NAME, ENV_RESERVED_PREFIX, IMAGE
from runner_spec.manifest import Finding, Json, Path, known, mapping, mappings, match
from runner_spec.policy import Amounts, Policy
from runner_spec.quantity import parse_quantity

SERVICE: Final = "service"  # the role of a container that is none of dynapod's own

# Kubernetes expands `$(NAME)` in values and commands, unless written `$$(NAME)` (third_party/forked/golang/expansion).
_EXPANSION: Final = re.compile(r"\$\$|\$\([^)]*\)")
_CONTAINER_FIELDS: Final = (
    *("name", "image", "imagePullPolicy", "command", "env", "resources", "securityContext", "volumeMounts"),
    "terminationMessagePolicy",
)
_ROLE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    SERVICE: ("args", "restartPolicy", "startupProbe"),
    anatomy.CHECKOUT: ("workingDir", "terminationMessagePath"),
    anatomy.UPLOAD: ("workingDir", "terminationMessagePath", "restartPolicy"),
    anatomy.RUN: ("workingDir", "terminationMessagePath"),
}
_RUNNERS: Final = (anatomy.CHECKOUT, anatomy.UPLOAD)


def role_of(container: Json) -> str:
    """`checkout`, `upload`, `run` or `service`."""
    name = str(container.get("name"))
    return name if name in anatomy.RESERVED_CONTAINERS else SERVICE


def container_conformity(path: Path, container: Json, policy: Policy) -> Iterator[Finding]:
    """What is wrong with one container."""
    role = role_of(container)
    ours = role in _RUNNERS
    yield from known(path, container, (*_CONTAINER_FIELDS, *_ROLE_FIELDS[role]))
    expected: dict[str, Any] = {
        "imagePullPolicy": policy.image_pull_policy,
        # Never from the log of `run`: it may hold secrets, and a pod's status is read by many.
        "terminationMessagePolicy": "File" if role == anatomy.RUN else "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            **({"readOnlyRootFilesystem": True} if ours else {}),
        },
        "workingDir": None if role == SERVICE else anatomy.WORKSPACE_PATH,
        "terminationMessagePath": None if role == SERVICE else anatomy.TERMINATION_LOG_PATH,
        **({"image": policy.runner_image, "command": [*policy.runner_command, role]} if ours else {}),
    }
    for field, value in expected.items():
        yield from match((*path, field), container.get(field), value)
    if not ours:
        image = str(container.get("image"))
        if not IMAGE.fullmatch(image) or not any(fnmatchcase(image, glob) for glob in policy.images):
            yield Finding((*path, "image"), "policy.images does not allow this image", image)
    for field in ("command", "args") if role == SERVICE else ():
        yield from _words((*path, field), container.get(field, []))
    yield from _probe((*path, "startupProbe"), container.get("startupProbe"), policy)
    yield from _amounts((*path, "resources"), mapping(container.get("resources")), role, policy)
    yield from _env((*path, "env"), container, role, policy)
    mounts = _mounts(role, policy)
    for index, mount in enumerate(mappings(container.get("volumeMounts"))):
        name = str(mount.get("name"))
        if name not in mounts:
            yield Finding((*path, "volumeMounts", index), f"the policy gives {role} no such volume", name)
        else:
            yield from match((*path, "volumeMounts", index), mount, {"name": name, **mounts[name]})


def _mounts(role: str, policy: Policy) -> dict[str, Json]:
    """Volume → how containers of this role mount it."""

    def at(path: str, *, read_only: bool = False) -> dict[str, Any]:
        return {"mountPath": path, "readOnly": True} if read_only else {"mountPath": path}

    mounts: dict[str, Json] = {"workspace": at(anatomy.WORKSPACE_PATH, read_only=role == SERVICE)}
    if role == SERVICE:
        return mounts
    mounts |= {"home": at(anatomy.HOME_PATH), "state": at(anatomy.STATE_PATH)}
    mounts["plan"] = at(anatomy.PLAN_PATH, read_only=True)
    copied = policy.shim_delivery == "copy"
    if role == anatomy.RUN:
        mounts["bin"] = at(anatomy.BIN_PATH, read_only=True)
        if not copied:
            mounts["bin"] = {**mounts["bin"], "subPath": anatomy.BIN_PATH.lstrip("/")}
        return mounts
    mounts |= {"token": at(anatomy.TOKEN_PATH, read_only=True), "tmp": at("/tmp")}  # noqa: S108 - a volume of the pod
    if role == anatomy.CHECKOUT:
        paths = {
            "credentials": anatomy.CREDENTIALS_PATH,
            "secrets": anatomy.SECRETS_PATH,
            "source": anatomy.SOURCE_PATH,
        }
        mounts |= {name: at(path, read_only=True) for name, path in paths.items()}
        mounts |= {"bin": at(anatomy.BIN_PATH)} if copied else {}
    return mounts


def _words(path: Path, words: object) -> Iterator[Finding]:
    if not isinstance(words, list) or not all(isinstance(word, str) and _is_literal(word) for word in words):
        yield Finding(path, "a command is a list of texts without references", words)


def _is_literal(text: str) -> bool:
    """Whether Kubernetes finds nothing to expand in it."""
    return all(found.group() == "$$" for found in _EXPANSION.finditer(text))


def _probe(path: Path, probe: object, policy: Policy) -> Iterator[Finding]:
    """A command alone: a probe of the kubelet's own reaches any address that the node does."""
    if probe is None:
        return
    probe = mapping(probe)
    tries = probe.get("failureThreshold")
    command = mapping(probe.get("exec")).get("command")
    expected = {"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": tries}
    yield from match(path, probe, expected)
    yield from _words((*path, "exec", "command"), command)
    if not isinstance(tries, int) or not 1 <= tries <= policy.max_timeout:
        yield Finding((*path, "failureThreshold"), f"policy.max_timeout allows {policy.max_timeout}", tries)


def _amounts(path: Path, resources: Json, role: str, policy: Policy) -> Iterator[Finding]:
    requested, limited = policy.max_resources, policy.max_resources
    if role == SERVICE:
        requested = limited = policy.max_service_resources
    elif role in _RUNNERS:
        requested, limited = policy.runner_resources.requests, policy.runner_resources.limits
    yield from known(path, resources, ("requests", "limits"))
    for field, caps in (("requests", requested), ("limits", limited)):
        amounts = mapping(resources.get(field))
        yield from known((*path, field), amounts, RESOURCES)
        yield from _within((*path, field), amounts, caps)


def _within(path: Path, amounts: Json, caps: Amounts) -> Iterator[Finding]:
    for name, cap in caps.as_mapping().items():
        try:
            within = parse_quantity(amounts.get(name)) <= cap
        except ValueError:
            within = False
        if not within:
            yield Finding((*path, name), f"the policy allows {cap}", amounts.get(name))


def _env(path: Path, container: Json, role: str, policy: Policy) -> Iterator[Finding]:
    known: dict[str, str] = {}  # in dynapod's own containers: name → value; `run` and services have none of ours
    if role in _RUNNERS:
        known |= {"HOME": anatomy.HOME_PATH, anatomy.ENV_GATEWAY: policy.gateway_address}
        if policy.gateway_name:
            known[anatomy.ENV_GATEWAY_NAME] = policy.gateway_name
    for index, variable in enumerate(mappings(container.get("env"))):
        name = str(variable.get("name"))
        # What `run` is given, so that a Secret that is missing is told before anything starts.
        needs = role == anatomy.CHECKOUT and name.startswith(anatomy.ENV_NEEDS) and "valueFrom" in variable
        if not ENV_NAME.fullmatch(name):
            yield Finding((*path, index, "name"), "this is no variable's name", name)
        elif name not in known and (role in _RUNNERS or name.startswith(ENV_RESERVED_PREFIX)) and not needs:
            yield Finding((*path, index), f"the policy gives {role} no such variable", name)
        if "valueFrom" in variable:
            yield from _reference((*path, index), variable, role, policy)
        else:
            yield from _value((*path, index), variable, known.get(name))


def _value(path: Path, variable: Json, expected: str | None) -> Iterator[Finding]:
    yield from known(path, variable, ("name", "value"))
    value = variable.get("value")
    if not isinstance(value, str) or not _is_literal(value):
        yield Finding((*path, "value"), "a value is a text without references", value)
    elif expected is not None and value.replace("$$", "$") != expected.replace("$$", "$"):
        yield Finding((*path, "value"), f"the policy gives {expected}", value)


def _reference(path: Path, variable: Json, role: str, policy: Policy) -> Iterator[Finding]:
    yield from known(path, variable, ("name", "valueFrom"))
    source = mapping(variable.get("valueFrom"))
    reference = mapping(source.get("secretKeyRef"))
    if set(source) != {"secretKeyRef"} or set(reference) != {"name", "key"}:
        yield Finding((*path, "valueFrom"), "a variable's source is one key of a Secret", source)
    elif role not in {anatomy.RUN, anatomy.CHECKOUT}:
        yield Finding((*path, "valueFrom"), f"{role} is given no Secrets as variables", reference)
    else:
        yield from secret_conformity((*path, "valueFrom"), reference["name"], reference["key"], policy)

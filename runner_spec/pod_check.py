"""A semantic check of a rendered pod: what the API's own types do not say, and what the policy forbids.

It is the tests' oracle for `render`, and guards the result of the operator's pod patch. It trusts no shape: a patch
may have put anything anywhere.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from runner_spec import anatomy
from runner_spec.admission import is_below
from runner_spec.grammar import DNS_LABEL, DNS_SUBDOMAIN
from runner_spec.policy import Policy
from runner_spec.problem import Problem, join_path, shorten
from runner_spec.quantity import parse_quantity

_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
_REMEDY: Final = "change policy.pod_patch"
_HOST_NAMESPACES: Final = ("hostNetwork", "hostPID", "hostIPC")
# The capability that the restricted profile lets a container add.
_HARMLESS_CAPABILITIES: Final = frozenset({"NET_BIND_SERVICE"})
_PRIVATE_VOLUMES: Final = ("token", "secrets", "credentials")

Path = tuple[str | int, ...]


def check_pod(pod: Mapping[str, Any], policy: Policy) -> list[Problem]:
    """Everything wrong with a pod; empty when it may be created."""
    spec = _mapping(pod.get("spec"))
    containers = list(_containers(spec))
    return [
        *_metadata(_mapping(pod.get("metadata"))),
        *_roster(spec, containers),
        *_pod_level(spec, policy),
        *_volumes(spec, policy),
        *(problem for path, container in containers for problem in _container(path, container, spec, policy)),
    ]


def _problem(path: Path, message: str, value: object = "") -> Problem:
    return Problem(join_path(path), message, shorten(value) if value != "" else "", _REMEDY)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Mapping[str, Any]]:
    return [_mapping(item) for item in value] if isinstance(value, list) else []


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(_list(spec.get(field))):
            yield ("spec", field, index), container


def _metadata(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    name = metadata.get("name")
    if not isinstance(name, str) or not DNS_LABEL.fullmatch(name):
        yield _problem(("metadata", "name"), "this is no DNS label", name)
    labels, annotations = _mapping(metadata.get("labels")), _mapping(metadata.get("annotations"))
    for label in (anatomy.LABEL_MANAGED_BY, anatomy.LABEL_JOB, anatomy.LABEL_ATTEMPT, anatomy.LABEL_WORKER):
        if not isinstance(labels.get(label), str):
            yield _problem(("metadata", "labels", label), "the worker could not find its pod without this label")
    for annotation in (anatomy.ANNOTATION_JOB, anatomy.ANNOTATION_PLAN, anatomy.ANNOTATION_STEPS):
        if not isinstance(annotations.get(annotation), str):
            yield _problem(("metadata", "annotations", annotation), "the pod has nothing to do without this annotation")
    size = sum(len(str(key).encode()) + len(str(value).encode()) for key, value in annotations.items())
    if size > anatomy.ANNOTATIONS_LIMIT_BYTES:
        yield _problem(("metadata", "annotations"), f"{size} bytes; {anatomy.ANNOTATIONS_LIMIT_BYTES} are allowed")


def _roster(spec: Mapping[str, Any], containers: list[tuple[Path, Mapping[str, Any]]]) -> Iterator[Problem]:
    """Which containers there are, and how they restart: `classify` builds on it."""
    for name, count in _repeated(container.get("name") for _, container in containers):
        yield _problem(("spec", "containers"), f"{count} containers have the name", name)
    if [container.get("name") for container in _list(spec.get("containers"))] != [anatomy.RUN]:
        yield _problem(("spec", "containers"), "the only main container is run")
    if spec.get("restartPolicy") != "Never":
        yield _problem(
            ("spec", "restartPolicy"), "a pod is one attempt: it is never restarted", spec.get("restartPolicy")
        )
    for index, container in enumerate(_list(spec.get("initContainers"))):
        expected = None if container.get("name") == anatomy.CHECKOUT else "Always"
        if container.get("restartPolicy") != expected:
            message = "checkout runs once" if expected is None else "a service, or upload, is a native sidecar"
            yield _problem(("spec", "initContainers", index, "restartPolicy"), message, container.get("restartPolicy"))
    if anatomy.CHECKOUT not in {container.get("name") for container in _list(spec.get("initContainers"))}:
        yield _problem(("spec", "initContainers"), "checkout is missing: run has no shim without it")


def _repeated(values: Iterable[object]) -> list[tuple[str, int]]:
    return [(value, count) for value, count in Counter(map(str, values)).items() if count > 1]


def _pod_level(spec: Mapping[str, Any], policy: Policy) -> Iterator[Problem]:
    for field in _HOST_NAMESPACES:
        if spec.get(field):
            yield _problem(("spec", field), "the pod would share a namespace of its node")
    if spec.get("automountServiceAccountToken") is not False:
        yield _problem(("spec", "automountServiceAccountToken"), "run would get an API token")
    if spec.get("shareProcessNamespace"):
        yield _problem(("spec", "shareProcessNamespace"), "run could read the memory of upload")
    security = _mapping(spec.get("securityContext"))
    if _mapping(security.get("seccompProfile")).get("type") == "Unconfined" and not policy.allow_privileged:
        yield _problem(("spec", "securityContext", "seccompProfile"), "policy.allow_privileged is false")
    if policy.user_namespaces and spec.get("hostUsers") is not False:
        yield _problem(("spec", "hostUsers"), "root inside needs a user namespace: hostUsers must be false")
    for field in ("terminationGracePeriodSeconds", "activeDeadlineSeconds"):
        value = spec.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            yield _problem(("spec", field), "a positive whole number below 2^31 is needed", value)


def _volumes(spec: Mapping[str, Any], policy: Policy) -> Iterator[Problem]:
    volumes = _list(spec.get("volumes"))
    for name, count in _repeated(volume.get("name") for volume in volumes):
        yield _problem(("spec", "volumes"), f"{count} volumes have the name", name)
    for index, volume in enumerate(volumes):
        path: Path = ("spec", "volumes", index)
        if not isinstance(volume.get("name"), str) or not DNS_LABEL.fullmatch(volume["name"]):
            yield _problem((*path, "name"), "this is no DNS label", volume.get("name"))
        if "hostPath" in volume:
            folder = _mapping(volume["hostPath"]).get("path")
            if not isinstance(folder, str) or not is_below(folder, policy.host_paths):
                yield _problem((*path, "hostPath"), "policy.host_paths does not allow this folder", folder)


def _container(path: Path, container: Mapping[str, Any], spec: Mapping[str, Any], policy: Policy) -> Iterator[Problem]:
    name = container.get("name")
    if not isinstance(name, str) or not DNS_LABEL.fullmatch(name):
        yield _problem((*path, "name"), "this is no DNS label", name)
    if not isinstance(container.get("image"), str) or not container["image"]:
        yield _problem((*path, "image"), "the container has no image", container.get("image"))
    yield from _security(path, container, spec, policy)
    yield from _mounts(path, container, spec)
    yield from _variables(path, container)
    yield from _resources(path, _mapping(container.get("resources")))


def _security(path: Path, container: Mapping[str, Any], spec: Mapping[str, Any], policy: Policy) -> Iterator[Problem]:
    context = _mapping(container.get("securityContext"))
    path = (*path, "securityContext")
    if not policy.allow_privileged:
        capabilities = _mapping(context.get("capabilities"))
        added = capabilities.get("add")
        if context.get("privileged"):
            yield _problem((*path, "privileged"), "policy.allow_privileged is false")
        if context.get("allowPrivilegeEscalation") is not False:
            yield _problem((*path, "allowPrivilegeEscalation"), "policy.allow_privileged is false")
        if not isinstance(added, list | None) or not set(map(str, added or ())) <= _HARMLESS_CAPABILITIES:
            yield _problem((*path, "capabilities", "add"), "policy.allow_privileged is false", added)
        if capabilities.get("drop") != ["ALL"]:
            yield _problem(
                (*path, "capabilities", "drop"), "policy.allow_privileged is false", capabilities.get("drop")
            )
    effective = {**_mapping(spec.get("securityContext")), **context}
    rooted = effective.get("runAsUser") in {0, None} or not effective.get("runAsNonRoot")
    if rooted and not (policy.allow_root or policy.user_namespaces):
        yield _problem((*path, "runAsUser"), "policy.allow_root is false", effective.get("runAsUser"))


def _mounts(path: Path, container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Problem]:
    volumes = {volume.get("name"): volume for volume in _list(spec.get("volumes"))}
    mounts = _list(container.get("volumeMounts"))
    path = (*path, "volumeMounts")
    for place, count in _repeated(mount.get("mountPath") for mount in mounts):
        yield _problem(path, f"{count} volumes are mounted at", place)
    for index, mount in enumerate(mounts):
        name = mount.get("name")
        volume = volumes.get(name)
        if volume is None:
            yield _problem((*path, index, "name"), "there is no such volume", name)
        elif container.get("name") not in {anatomy.CHECKOUT, anatomy.UPLOAD} and _is_private(volume):
            yield _problem((*path, index, "name"), "only checkout and upload may see tokens and credentials", name)
        if container.get("name") == anatomy.RUN and name == "bin" and not mount.get("readOnly"):
            yield _problem((*path, index, "readOnly"), "run could change the shim")
        if volume is not None and "hostPath" in volume and not mount.get("readOnly"):
            yield _problem((*path, index, "readOnly"), "a folder of the node is mounted read-only")


def _is_private(volume: Mapping[str, Any]) -> bool:
    sources = _list(_mapping(volume.get("projected")).get("sources"))
    return volume.get("name") in _PRIVATE_VOLUMES or any("serviceAccountToken" in source for source in sources)


def _variables(path: Path, container: Mapping[str, Any]) -> Iterator[Problem]:
    variables = _list(container.get("env"))
    for name, count in _repeated(variable.get("name") for variable in variables):
        yield _problem((*path, "env"), f"{count} variables have the name", name)
    for index, variable in enumerate(variables):
        value = variable.get("value", "")
        if not isinstance(value, str) or "\0" in value:
            yield _problem((*path, "env", index, "value"), "a variable is a text without NUL", value)
        reference = _mapping(_mapping(variable.get("valueFrom")).get("secretKeyRef"))
        if reference and not DNS_SUBDOMAIN.fullmatch(str(reference.get("name"))):
            yield _problem((*path, "env", index, "valueFrom"), "this is no name of a Secret", reference.get("name"))


def _resources(path: Path, resources: Mapping[str, Any]) -> Iterator[Problem]:
    requests, limits = _mapping(resources.get("requests")), _mapping(resources.get("limits"))
    for name in _RESOURCES:
        where = (*path, "resources", name)
        try:
            request, limit = parse_quantity(requests.get(name)), parse_quantity(limits.get(name))
        except ValueError:
            shown = {"requests": requests.get(name), "limits": limits.get(name)}
            yield _problem(where, "request and limit are needed, both quantities", shown)
            continue
        if request > limit:
            yield _problem(where, f"the request exceeds the limit of {limit}", str(request))

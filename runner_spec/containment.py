"""What no pod of a job may have, whoever asked for it: the walls between a job and all that is not its own.

The operator's pod patch cannot take them down; a gate of the policy is named in the message where there is one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from runner_spec import anatomy
from runner_spec.admission import is_below
from runner_spec.grammar import DNS_LABEL, DNS_SUBDOMAIN
from runner_spec.manifest import Finding, Json, Path, containers, mapping, mappings, repeated
from runner_spec.policy import Policy
from runner_spec.quantity import parse_quantity

RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
_HOST_NAMESPACES: Final = ("hostNetwork", "hostPID", "hostIPC")
# What the baseline and restricted profiles let a container add or name (Pod Security Standards, Kubernetes 1.34).
# Tuples where anything may be looked for: a list cannot be looked for in a set.
_HARMLESS_CAPABILITIES: Final = frozenset({"NET_BIND_SERVICE"})
_HARMLESS_SELINUX_TYPES: Final = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_CONFINED: Final = ("RuntimeDefault", "Localhost")
_APPARMOR_ANNOTATION: Final = "container.apparmor.security.beta.kubernetes.io/"
_UNPRIVILEGED: Final = "policy.allow_privileged is false"
# Kinds of hostPath that are a folder or a file, and not a device or a socket of the node.
_PLAIN_HOST_PATHS: Final = (None, "", "Directory", "File", "DirectoryOrCreate", "FileOrCreate")
# Volumes with what identifies the pod or opens something, and who may see them.
_PRIVATE_VOLUMES: Final[Mapping[str, tuple[str, ...]]] = {
    "token": (anatomy.CHECKOUT, anatomy.UPLOAD),
    "secrets": (anatomy.CHECKOUT,),
    "credentials": (anatomy.CHECKOUT,),
}
_NODE_ROOT: Final = (anatomy.ROOT_UID, None)  # None: whatever the image says
_INT32: Final = 2**31  # activeDeadlineSeconds and terminationGracePeriodSeconds are bounded by it


def containment(pod: Json, policy: Policy) -> Iterator[Finding]:
    """Every breach; no shape is trusted."""
    spec = mapping(pod.get("spec"))
    yield from _metadata(mapping(pod.get("metadata")), policy)
    yield from _annotations(mapping(mapping(pod.get("metadata")).get("annotations")), policy)
    yield from _roster(spec, policy)
    yield from _pod_level(spec, policy)
    yield from _volumes(spec, policy)
    for path, container in containers(spec):
        name = container.get("name")
        if not isinstance(name, str) or not DNS_LABEL.fullmatch(name):
            yield Finding((*path, "name"), "this is no DNS label", name)
        if not isinstance(container.get("image"), str) or not container["image"]:
            yield Finding((*path, "image"), "the container has no image", container.get("image"))
        yield from _security(path, container, spec, policy)
        yield from _devices(path, container, policy)
        yield from _mounts(path, container, spec)
        yield from _variables(path, container)
        yield from _resources(path, mapping(container.get("resources")))


def _metadata(metadata: Json, policy: Policy) -> Iterator[Finding]:
    name = metadata.get("name")
    if not isinstance(name, str) or not DNS_LABEL.fullmatch(name):
        yield Finding(("metadata", "name"), "this is no DNS label", name)
    if metadata.get("namespace") != policy.namespace:
        message = f"policy.namespace is {policy.namespace}"
        yield Finding(("metadata", "namespace"), message, metadata.get("namespace"))
    labels = mapping(metadata.get("labels"))
    for label in (anatomy.LABEL_MANAGED_BY, anatomy.LABEL_JOB, anatomy.LABEL_ATTEMPT, anatomy.LABEL_WORKER):
        if not isinstance(labels.get(label), str):
            yield Finding(("metadata", "labels", label), "the worker could not find its pod without this label")


def _annotations(annotations: Json, policy: Policy) -> Iterator[Finding]:
    for annotation in (anatomy.ANNOTATION_JOB, anatomy.ANNOTATION_PLAN, anatomy.ANNOTATION_STEPS):
        if not isinstance(annotations.get(annotation), str):
            yield Finding(("metadata", "annotations", annotation), "the pod has nothing to do without this annotation")
    debug = annotations.get(anatomy.ANNOTATION_DEBUG)
    if debug is not None and (debug != anatomy.DEBUG_ALLOWED or not policy.allow_debug):
        yield Finding(("metadata", "annotations", anatomy.ANNOTATION_DEBUG), "policy.allow_debug is false", debug)
    for annotation, value in annotations.items():
        if str(annotation).startswith(_APPARMOR_ANNOTATION) and value == "unconfined" and not policy.allow_privileged:
            yield Finding(("metadata", "annotations", str(annotation)), _UNPRIVILEGED, value)
    size = sum(len(str(key).encode()) + len(str(value).encode()) for key, value in annotations.items())
    if size > anatomy.ANNOTATIONS_LIMIT_BYTES:
        yield Finding(("metadata", "annotations"), f"{size} bytes; {anatomy.ANNOTATIONS_LIMIT_BYTES} are allowed")


def _roster(spec: Json, policy: Policy) -> Iterator[Finding]:
    """Which containers there are, and how they restart: `classify` builds on it."""
    for name, count in repeated(container.get("name") for _, container in containers(spec)):
        yield Finding(("spec", "containers"), f"{count} containers have the name", name)
    mains = mappings(spec.get("containers"))
    if [container.get("name") for container in mains] != [anatomy.RUN]:
        yield Finding(("spec", "containers"), "the only main container is run")
    elif mains[0].get("command") != [f"{anatomy.BIN_PATH}/sh", f"{anatomy.BIN_PATH}/shim"] or mains[0].get("args"):
        yield Finding(("spec", "containers", 0, "command"), "run runs the shim, which keeps the job's limits")
    if spec.get("ephemeralContainers"):
        yield Finding(("spec", "ephemeralContainers"), "no pod is created with them")
    if spec.get("restartPolicy") != "Never":
        message = "a pod is one attempt: it is never restarted"
        yield Finding(("spec", "restartPolicy"), message, spec.get("restartPolicy"))
    yield from _init_containers(mappings(spec.get("initContainers")), mapping(next(iter(mains), None)), policy)


def _init_containers(inits: Sequence[Json], run: Json, policy: Policy) -> Iterator[Finding]:
    for index, container in enumerate(inits):
        expected = None if container.get("name") == anatomy.CHECKOUT else "Always"
        if container.get("restartPolicy") != expected:
            message = "checkout runs once" if expected is None else "a service, or upload, is a native sidecar"
            yield Finding(("spec", "initContainers", index, "restartPolicy"), message, container.get("restartPolicy"))
    if anatomy.CHECKOUT not in [container.get("name") for container in inits]:
        if policy.shim_delivery == "copy":
            yield Finding(("spec", "initContainers"), "checkout is missing: run has no shim without it")
        elif any("valueFrom" in variable for variable in mappings(run.get("env"))):
            yield Finding(("spec", "initContainers"), "checkout is missing: nothing would mask run's secrets")


def _pod_level(spec: Json, policy: Policy) -> Iterator[Finding]:
    for field in _HOST_NAMESPACES:
        if spec.get(field):
            yield Finding(("spec", field), "the pod would share a namespace of its node")
    if spec.get("automountServiceAccountToken") is not False:
        yield Finding(("spec", "automountServiceAccountToken"), "run would get an API token")
    if spec.get("shareProcessNamespace"):
        yield Finding(("spec", "shareProcessNamespace"), "run could read the memory of upload")
    if policy.roots_inside and spec.get("hostUsers") is not False:
        yield Finding(("spec", "hostUsers"), "root inside needs a user namespace: hostUsers must be false")
    if mapping(spec.get("securityContext")).get("sysctls") and not policy.allow_privileged:
        yield Finding(("spec", "securityContext", "sysctls"), _UNPRIVILEGED)
    for field in ("terminationGracePeriodSeconds", "activeDeadlineSeconds"):
        value = spec.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _INT32:
            yield Finding(("spec", field), "a positive whole number below 2^31 is needed", value)


def _volumes(spec: Json, policy: Policy) -> Iterator[Finding]:
    volumes = mappings(spec.get("volumes"))
    for name, count in repeated(volume.get("name") for volume in volumes):
        yield Finding(("spec", "volumes"), f"{count} volumes have the name", name)
    for index, volume in enumerate(volumes):
        path: Path = ("spec", "volumes", index)
        label = volume.get("name")
        if not isinstance(label, str) or not DNS_LABEL.fullmatch(label):
            yield Finding((*path, "name"), "this is no DNS label", label)
        if "hostPath" in volume:
            host = mapping(volume["hostPath"])
            if not isinstance(host.get("path"), str) or not is_below(host["path"], policy.host_paths):
                yield Finding((*path, "hostPath"), "policy.host_paths does not allow this folder", host.get("path"))
            if host.get("type") not in _PLAIN_HOST_PATHS and not policy.allow_privileged:
                yield Finding((*path, "hostPath", "type"), _UNPRIVILEGED, host.get("type"))
        for source in mappings(mapping(volume.get("projected")).get("sources")):
            token = source.get("serviceAccountToken")
            if token is not None and (label != "token" or mapping(token).get("audience") != anatomy.TOKEN_AUDIENCE):
                message = f"the only token is the volume `token`, for the audience {anatomy.TOKEN_AUDIENCE}"
                yield Finding((*path, "projected"), message, mapping(token).get("audience"))
            if "podCertificate" in source:
                yield Finding((*path, "projected"), "a pod has no identity but the volume `token`")


def _security(path: Path, container: Json, spec: Json, policy: Policy) -> Iterator[Finding]:
    context = mapping(container.get("securityContext"))
    effective = {**mapping(spec.get("securityContext")), **context}
    path = (*path, "securityContext")
    rooted = effective.get("runAsUser") in _NODE_ROOT or not effective.get("runAsNonRoot")
    if rooted and not (policy.allow_root or policy.roots_inside):
        yield Finding((*path, "runAsUser"), "policy.allow_root is false", effective.get("runAsUser"))
    if not policy.allow_privileged:
        yield from _privileges(path, context)
        yield from _confinement(path, effective)


def _privileges(path: Path, context: Json) -> Iterator[Finding]:
    capabilities = mapping(context.get("capabilities"))
    added = capabilities.get("add")
    if context.get("privileged"):
        yield Finding((*path, "privileged"), _UNPRIVILEGED)
    if context.get("allowPrivilegeEscalation") is not False:
        yield Finding((*path, "allowPrivilegeEscalation"), _UNPRIVILEGED)
    if not isinstance(added, list | None) or not set(map(str, added or ())) <= _HARMLESS_CAPABILITIES:
        yield Finding((*path, "capabilities", "add"), _UNPRIVILEGED, added)
    if capabilities.get("drop") != ["ALL"]:
        yield Finding((*path, "capabilities", "drop"), _UNPRIVILEGED, capabilities.get("drop"))
    if context.get("procMount") not in (None, "Default"):
        yield Finding((*path, "procMount"), _UNPRIVILEGED, context.get("procMount"))


def _confinement(path: Path, effective: Json) -> Iterator[Finding]:
    """`effective`: the container's security context over the pod's."""
    seccomp = mapping(effective.get("seccompProfile")).get("type")
    if seccomp not in _CONFINED:
        yield Finding((*path, "seccompProfile"), f"{_UNPRIVILEGED}: the system calls must be filtered", seccomp)
    if mapping(effective.get("appArmorProfile")).get("type") == "Unconfined":
        yield Finding((*path, "appArmorProfile"), _UNPRIVILEGED)
    selinux = mapping(effective.get("seLinuxOptions"))
    if selinux.get("user") or selinux.get("role") or selinux.get("type") not in _HARMLESS_SELINUX_TYPES:
        yield Finding((*path, "seLinuxOptions"), _UNPRIVILEGED)
    if effective.get("windowsOptions"):
        yield Finding((*path, "windowsOptions"), _UNPRIVILEGED)


def _devices(path: Path, container: Json, policy: Policy) -> Iterator[Finding]:
    """Ports and block devices of the node."""
    for index, port in enumerate(mappings(container.get("ports"))):
        if port.get("hostPort"):
            message = "the container would take a port of its node"
            yield Finding((*path, "ports", index, "hostPort"), message, port["hostPort"])
    if container.get("volumeDevices") and not policy.allow_privileged:
        yield Finding((*path, "volumeDevices"), _UNPRIVILEGED)
    for index, mount in enumerate(mappings(container.get("volumeMounts"))):
        if mount.get("mountPropagation") not in (None, "None") and not policy.allow_privileged:
            yield Finding((*path, "volumeMounts", index, "mountPropagation"), _UNPRIVILEGED, mount["mountPropagation"])
        if mount.get("subPathExpr"):
            message = "the path would be the job's to choose"
            yield Finding((*path, "volumeMounts", index, "subPathExpr"), message, mount["subPathExpr"])


def _mounts(path: Path, container: Json, spec: Json) -> Iterator[Finding]:
    volumes = {str(volume.get("name")): volume for volume in mappings(spec.get("volumes"))}
    mounts = mappings(container.get("volumeMounts"))
    role, path = container.get("name"), (*path, "volumeMounts")
    for place, count in repeated(mount.get("mountPath") for mount in mounts):
        yield Finding(path, f"{count} volumes are mounted at", place)
    for index, mount in enumerate(mounts):
        name = str(mount.get("name"))
        volume = volumes.get(name)
        if volume is None:
            yield Finding((*path, index, "name"), "there is no such volume", mount.get("name"))
            continue
        if name in _PRIVATE_VOLUMES and role not in _PRIVATE_VOLUMES[name]:
            seeing = " and ".join(_PRIVATE_VOLUMES[name])
            yield Finding((*path, index, "name"), f"only {seeing} may see tokens and credentials", name)
        if name == "bin" and role != anatomy.CHECKOUT and not mount.get("readOnly"):
            yield Finding((*path, index, "readOnly"), "run could change the shim")
        if "hostPath" in volume and not mount.get("readOnly"):
            yield Finding((*path, index, "readOnly"), "a folder of the node is mounted read-only")


def _variables(path: Path, container: Json) -> Iterator[Finding]:
    variables = mappings(container.get("env"))
    for name, count in repeated(variable.get("name") for variable in variables):
        yield Finding((*path, "env"), f"{count} variables have the name", name)
    for index, variable in enumerate(variables):
        value = variable.get("value", "")
        if not isinstance(value, str) or "\0" in value:
            yield Finding((*path, "env", index, "value"), "a variable is a text without NUL", value)
        reference = mapping(mapping(variable.get("valueFrom")).get("secretKeyRef"))
        if reference and not DNS_SUBDOMAIN.fullmatch(str(reference.get("name"))):
            yield Finding((*path, "env", index, "valueFrom"), "this is no name of a Secret", reference.get("name"))


def _resources(path: Path, resources: Json) -> Iterator[Finding]:
    requests, limits = mapping(resources.get("requests")), mapping(resources.get("limits"))
    for name in RESOURCES:
        where = (*path, "resources", name)
        try:
            request, limit = parse_quantity(requests.get(name)), parse_quantity(limits.get(name))
        except ValueError:
            shown = {"requests": requests.get(name), "limits": limits.get(name)}
            yield Finding(where, "request and limit are needed, both quantities", shown)
            continue
        if request > limit:
            yield Finding(where, f"the request exceeds the limit of {limit}", str(request))

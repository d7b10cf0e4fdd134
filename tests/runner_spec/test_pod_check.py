"""The policy is enforced on the rendered pod: hostile descriptions, and one broken pod for every rule."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_spec import anatomy
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.pod_check import check_pod
from runner_spec.policy import Policy, local_policy, parse_policy
from runner_spec.problem import InvalidDescription
from runner_spec.render import Attempt, render
from tests.runner_spec.descriptions import descriptions, least, whole

Json = dict[str, Any]
Change = Callable[[Json], object]

PEASANTS: Json = {
    "runner_image": "registry.example/dynapod/runner:1.2.3",
    "namespace": "jobs",
    "service_account": "jobs",
    "images": ["python:*", "postgres:*", "busybox", "registry.example/*"],
    "secrets": {"npm": ["token"], "git": ["*"]},
    "node_selector": {"pool": "jobs"},
    "tolerations": [{"key": "jobs", "operator": "Exists", "effect": "NoSchedule"}],
    "runtime_class": "gvisor",
    "image_pull_secrets": ["registry"],
    "max_keep": "1h",
}
NEEDED = f"{anatomy.ENV_NEEDS}NPM_TOKEN"
POLICIES: dict[str, Policy] = {
    "uid 1000": parse_policy(PEASANTS),
    "user namespace": parse_policy(PEASANTS | {"user_namespaces": True, "allow_debug": True}),
    "image volume": parse_policy(PEASANTS | {"shim_delivery": "image-volume"}),
    "clamping": parse_policy(PEASANTS | {"over_cap": "clamp", "max_timeout": "2h", "max_services": 16}),
    "local": local_policy(gateway_url="http://127.0.0.1:8080"),
}


def rendered(data: object, policy: Policy, job_id: str = "job-1") -> Json:
    return render(admit(parse_description(data), policy), Attempt(job_id, 1, "worker-1"))


# -- hostile descriptions: either refused, or a pod within the policy

NASTY: Sequence[Any] = [
    *(
        "",
        " ",
        "\0",
        "\n",
        "a\nb",
        "a: b\n- c",
        "{x: y}",
        "&a *a",
        "!!python/object:os.system",
        "# x",
        "'\"`",
        "\u2028",
    ),
    *(
        "$(HOME)",
        "$$(HOME)",
        "$(DYNAPOD_TOKEN)",
        "$(A",
        "$",
        "$$",
        "${A}",
        "`id`",
        "; id",
        "\ud800",
        "\u202eexe",
        "ÄÖ",
        "İ",
    ),
    *(
        "..",
        "../..",
        "../../../etc/shadow",
        "/",
        "/etc",
        "/var/run/secrets",
        "/dynapod/bin",
        "~/../..",
        "a/../../b",
        ".",
    ),
    *(
        "checkout",
        "upload",
        "run",
        "localhost",
        "kubernetes",
        "bin",
        "token",
        "db",
        "DB",
        "-a",
        "a-",
        "x" * 64,
        "x" * 5000,
    ),
    *(
        "*",
        "?",
        "[a-z]*",
        "git",
        "npm",
        "npm/token",
        "GIT",
        "token",
        "foreign.example/evil:latest",
        "evil/python:3",
        "python:*",
    ),
    *(
        "registry.example/a@sha256:" + "0" * 64,
        "registry.example/../evil",
        "python:3.12\nevil",
        "hostPath",
        "privileged",
    ),
    *("LD_PRELOAD", "PATH", "HOME", "DYNAPOD_TOKEN", "DYNAPOD_BIN", "dynapod_x", "BASH_ENV", "ENV", "IFS", "A=B", "1A"),
    *("file:///etc", "ext::sh -c id", "-u", "--upload-pack=id", "http://169.254.169.254/", "git@h:-oProxyCommand=id"),
    *(
        "on-failure 1h",
        "on-failure 99999d",
        "always 1h",
        "on-failure",
        "7d",
        "0s",
        "-1",
        "1e9",
        "9" * 400,
        "1Ei",
        "0",
        "1n",
    ),
    *(
        0,
        -1,
        1,
        2**31,
        2**63,
        10**400,
        -(2**70),
        1.5,
        1e308,
        float("inf"),
        float("nan"),
        True,
        False,
        None,
        [],
        {},
        [[]],
    ),
]
nasty = st.sampled_from(NASTY).map(copy.deepcopy) | st.text(st.characters(), max_size=12)
_FIELDS = (
    *("name", "image", "source", "env", "secrets", "services", "cache", "steps", "after", "artifacts", "timeout"),
    *("retry", "resources", "keep", "git", "folder", "files", "ref", "credentials", "secret", "key", "command", "args"),
    *("ready", "tcp", "http", "paths", "fallback", "run", "when", "kind", "cpu", "memory", "ephemeral-storage"),
    *("volumes", "hostNetwork", "securityContext", "serviceAccountName", "nodeName", "tolerations", "annotations"),
    *("LD_PRELOAD", "A", "B", "DYNAPOD_GATEWAY", "metadata", "spec", "pod_patch", "runtimeClassName", "hostUsers"),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a document."""
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _places(item, (*path, index))
    return found


@st.composite
def hostile(draw: st.DrawFn) -> Json:
    """A valid description with a few places made hostile: values replaced, keys added or renamed, items repeated."""
    data: Json = copy.deepcopy(draw(descriptions | st.sampled_from([whole(keep="on-failure 5m"), least()])))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(_places(data)[1:]))
        parent: Any = data
        for part in path[:-1]:
            parent = parent[part]
        what = draw(st.sampled_from(["replace", "replace", "add", "rename", "repeat"]))
        if what == "replace":
            parent[path[-1]] = draw(
                nasty | st.lists(nasty, max_size=2) | st.dictionaries(st.sampled_from(_FIELDS), nasty)
            )
        elif what == "add" and isinstance(parent[path[-1]], dict):
            parent[path[-1]][draw(st.sampled_from(_FIELDS) | nasty.filter(lambda key: isinstance(key, str)))] = draw(
                nasty
            )
        elif what == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(_FIELDS))] = parent.pop(path[-1])
        elif isinstance(parent, list):
            parent += [copy.deepcopy(parent[path[-1]])] * draw(st.integers(1, 20))
    return data


@settings(max_examples=300)
@given(data=hostile(), policy=st.sampled_from(sorted(POLICIES)), job_id=st.text(st.characters(), max_size=20))
def test_a_hostile_description_is_refused_or_makes_a_pod_within_the_policy(
    data: Json, policy: str, job_id: str
) -> None:
    try:
        pod = rendered(data, POLICIES[policy], job_id)
    except InvalidDescription:
        return
    assert check_pod(pod, POLICIES[policy]) == []


@given(data=descriptions, policy=st.sampled_from(sorted(POLICIES)))
def test_an_honest_description_makes_a_pod_within_every_policy_that_admits_it(data: Json, policy: str) -> None:
    try:
        pod = rendered(data, POLICIES[policy])
    except InvalidDescription:
        return
    assert check_pod(pod, POLICIES[policy]) == []


@given(value=nasty)
def test_every_text_field_takes_anything_and_yields_no_pod_outside_the_policy(value: Any) -> None:
    """The fields that a mutation at random rarely reaches with everything around them still valid."""
    policy = POLICIES["uid 1000"]
    service = {"name": "db", "image": "postgres:16"}
    for data in (
        least(env={"A": value}),
        least(env={str(value): "x"}),
        least(secrets={"A": {"secret": value, "key": "token"}}),
        least(secrets={"A": {"secret": "npm", "key": value}}),
        least(secrets={str(value): {"secret": "npm", "key": "token"}}),
        least(image=value),
        least(name=value),
        least(timeout=value),
        least(keep=value),
        least(keep=f"on-failure {value}"),
        least(resources={"cpu": value}),
        least(resources={"ephemeral-storage": value}),
        least(services=[service | {"name": value}]),
        least(services=[service | {"image": value}]),
        least(services=[service | {"command": [value], "args": [value, value]}]),
        least(services=[service | {"env": {"A": value, "LD_PRELOAD": value}}]),
        least(services=[service | {"ready": {"command": [value], "timeout": value}}]),
        least(services=[service | {"ready": {"command": ["x", value]}}]),
        least(services=[service | {"ready": {"tcp": value}}]),
        least(services=[service | {"resources": {"memory": value}}]),
        least(source={"folder": value}),
        least(source={"git": value}),
        least(source={"git": "https://h.example/a", "credentials": {"secret": value}}),
        least(steps=[{"name": value, "run": value}]),
        least(cache=[{"key": value, "paths": [value]}]),
        least(artifacts=[{"name": value, "paths": [value]}]),
    ):
        try:
            pod = rendered(data, policy)
        except InvalidDescription:
            continue
        assert check_pod(pod, policy) == [], data


# -- broken pods: one for each rule, each caught where it is broken


def init(name: str) -> Callable[[Json], Json]:
    return lambda pod: next(c for c in pod["spec"]["initContainers"] if c["name"] == name)


def run(pod: Json) -> Json:
    return pod["spec"]["containers"][0]  # type: ignore[no-any-return]


checkout, upload, service = init("checkout"), init("upload"), init("db")


def volume(pod: Json, name: str) -> Json:
    return next(v for v in pod["spec"]["volumes"] if v["name"] == name)


def variable(container: Json, name: str) -> Json:
    return next(v for v in container["env"] if v["name"] == name)


def security(container: Json, **fields: Any) -> None:
    container["securityContext"] |= fields


def mounts(container: Json, **mount: Any) -> None:
    container["volumeMounts"].append({"name": "workspace", "mountPath": "/x", **mount})


def adds_volume(pod: Json, **source: Any) -> None:
    pod["spec"]["volumes"].append({"name": "more", **source})


def spec(**fields: Any) -> Change:
    return lambda pod: pod["spec"].update(fields)


def adds_token(pod: Json, audience: str) -> None:
    source = {"serviceAccountToken": {"audience": audience, "path": "t"}}
    adds_volume(pod, projected={"sources": [source]})


def second_token(pod: Json) -> None:
    volume(pod, "token")["projected"]["sources"].append({"serviceAccountToken": {"path": "api"}})


BROKEN: dict[str, tuple[str, Change]] = {
    # what it is
    "another kind": ("kind", lambda pod: pod.update(kind="Job")),
    "a status": ("status", lambda pod: pod.update(status={})),
    "another namespace": ("metadata.namespace", lambda pod: pod["metadata"].update(namespace="kube-system")),
    "a finalizer": ("metadata.finalizers", lambda pod: pod["metadata"].update(finalizers=["a/b"])),
    "an owner": ("metadata.ownerReferences", lambda pod: pod["metadata"].update(ownerReferences=[])),
    "a name that is none": ("metadata.name", lambda pod: pod["metadata"].update(name="A_b")),
    "a foreign label": ("metadata.labels.app", lambda pod: pod["metadata"]["labels"].update(app="gateway")),
    "a label's value that is none": (
        'metadata.labels["dynapod.dev/job"]',
        lambda pod: pod["metadata"]["labels"].update({anatomy.LABEL_JOB: "a b"}),
    ),
    "a foreign manager": (
        'metadata.labels["app.kubernetes.io/managed-by"]',
        lambda pod: pod["metadata"]["labels"].update({anatomy.LABEL_MANAGED_BY: "helm"}),
    ),
    "no worker's label": (
        'metadata.labels["dynapod.dev/worker"]',
        lambda pod: pod["metadata"]["labels"].pop(anatomy.LABEL_WORKER),
    ),
    "a foreign annotation": ("metadata.annotations.x", lambda pod: pod["metadata"]["annotations"].update(x="y")),
    "no steps": (
        'metadata.annotations["dynapod.dev/steps"]',
        lambda pod: pod["metadata"]["annotations"].pop(anatomy.ANNOTATION_STEPS),
    ),
    "an unconfined AppArmor": (
        'metadata.annotations["container.apparmor.security.beta.kubernetes.io/run"]',
        lambda pod: pod["metadata"]["annotations"].update(
            {"container.apparmor.security.beta.kubernetes.io/run": "unconfined"}
        ),
    ),
    "debugging": (
        'metadata.annotations["dynapod.dev/debug"]',
        lambda pod: pod["metadata"]["annotations"].update({anatomy.ANNOTATION_DEBUG: "allowed"}),
    ),
    "a long timeout": (
        'metadata.annotations["dynapod.dev/timeout"]',
        lambda pod: pod["metadata"]["annotations"].update({anatomy.ANNOTATION_TIMEOUT: "21601"}),
    ),
    "a long keep": (
        'metadata.annotations["dynapod.dev/keep"]',
        lambda pod: pod["metadata"]["annotations"].update({anatomy.ANNOTATION_KEEP: "3601"}),
    ),
    "artifacts that are no number": (
        'metadata.annotations["dynapod.dev/artifacts"]',
        lambda pod: pod["metadata"]["annotations"].update({anatomy.ANNOTATION_ARTIFACTS: "-1"}),
    ),
    "large annotations": (
        "metadata.annotations",
        lambda pod: pod["metadata"]["annotations"].update({anatomy.ANNOTATION_JOB: "x" * 262_144}),
    ),
    # the node
    "the node's network": ("spec.hostNetwork", spec(hostNetwork=True)),
    "the node's processes": ("spec.hostPID", spec(hostPID=True)),
    "the node's semaphores": ("spec.hostIPC", spec(hostIPC=True)),
    "shared processes": ("spec.shareProcessNamespace", spec(shareProcessNamespace=True)),
    "the node's users": ("spec.hostUsers", spec(hostUsers=True)),
    "another node": ("spec.nodeName", spec(nodeName="patrician-1")),
    "no node selector": ("spec.nodeSelector.pool", spec(nodeSelector={})),
    "another pool": ("spec.nodeSelector.pool", spec(nodeSelector={"pool": "patricians"})),
    "a further label of nodes": (
        "spec.nodeSelector.host",
        lambda pod: pod["spec"]["nodeSelector"].update(host="patrician-1"),
    ),
    "an affinity": ("spec.affinity", spec(affinity={})),
    "a toleration": ("spec.tolerations[0]", spec(tolerations=[{"operator": "Exists"}])),
    "another scheduler": ("spec.schedulerName", spec(schedulerName="mine")),
    "a priority": ("spec.priorityClassName", spec(priorityClassName="system-node-critical")),
    "another runtime": ("spec.runtimeClassName", spec(runtimeClassName="runc")),
    "the default runtime": ("spec.runtimeClassName", lambda pod: pod["spec"].pop("runtimeClassName")),
    "a host name for another address": (
        "spec.hostAliases[0]",
        spec(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["db"]}]),
    ),
    "a host name that is no service's": (
        "spec.hostAliases[0]",
        spec(hostAliases=[{"ip": "127.0.0.1", "hostnames": ["dynapod-gateway"]}]),
    ),
    "a DNS server": ("spec.dnsConfig", spec(dnsConfig={"nameservers": ["10.0.0.1"]})),
    # identity
    "an API token": ("spec.automountServiceAccountToken", spec(automountServiceAccountToken=True)),
    "another account": ("spec.serviceAccountName", spec(serviceAccountName="admin")),
    "an account by its old name": ("spec.serviceAccount", spec(serviceAccount="admin")),
    "service links": ("spec.enableServiceLinks", spec(enableServiceLinks=True)),
    "a foreign pull secret": ("spec.imagePullSecrets[0]", spec(imagePullSecrets=[{"name": "admin"}])),
    "a token for the API": ("spec.volumes[9].projected", lambda pod: adds_token(pod, "https://kubernetes")),
    "a second token": ("spec.volumes[6].projected", second_token),
    "a certificate": (
        "spec.volumes[9].projected",
        lambda pod: adds_volume(pod, projected={"sources": [{"podCertificate": {}}]}),
    ),
    "a token for longer": (
        "spec.volumes[6].projected.sources",
        lambda pod: volume(pod, "token")["projected"]["sources"][0]["serviceAccountToken"].update(
            expirationSeconds=10**6
        ),
    ),
    "the token in run": ("spec.containers[0].volumeMounts[5].name", lambda pod: mounts(run(pod), name="token")),
    "the token in a service": (
        "spec.initContainers[0].volumeMounts[1].name",
        lambda pod: mounts(service(pod), name="token"),
    ),
    "the secrets in upload": (
        "spec.initContainers[2].volumeMounts[6].name",
        lambda pod: mounts(upload(pod), name="secrets", readOnly=True),
    ),
    "the credentials in run": (
        "spec.containers[0].volumeMounts[5].name",
        lambda pod: mounts(run(pod), name="credentials"),
    ),
    # time
    "no deadline": ("spec.activeDeadlineSeconds", lambda pod: pod["spec"].pop("activeDeadlineSeconds")),
    "a far deadline": ("spec.activeDeadlineSeconds", spec(activeDeadlineSeconds=10**6)),
    "a deadline beyond Kubernetes": ("spec.activeDeadlineSeconds", spec(activeDeadlineSeconds=2**31)),
    "a long grace": ("spec.terminationGracePeriodSeconds", spec(terminationGracePeriodSeconds=86_400)),
    "restarts": ("spec.restartPolicy", spec(restartPolicy="Always")),
    # the containers there are
    "a second main container": (
        "spec.containers",
        lambda pod: pod["spec"]["containers"].append(dict(run(pod), name="b")),
    ),
    "two of a name": ("spec.containers", lambda pod: pod["spec"]["initContainers"].append(copy.deepcopy(service(pod)))),
    "no checkout": ("spec.initContainers", lambda pod: pod["spec"]["initContainers"].remove(checkout(pod))),
    "an ephemeral container": (
        "spec.ephemeralContainers",
        spec(ephemeralContainers=[{"name": "debugger", "image": "busybox"}]),
    ),
    "too many services": (
        "spec.initContainers",
        lambda pod: pod["spec"]["initContainers"].extend(dict(service(pod), name=f"s{n}") for n in range(8)),
    ),
    "an init container of the job": (
        "spec.initContainers[0].restartPolicy",
        lambda pod: service(pod).pop("restartPolicy"),
    ),
    # a container
    "a name of a container that is none": ("spec.initContainers[0].name", lambda pod: service(pod).update(name="D_B")),
    "a foreign image": ("spec.containers[0].image", lambda pod: run(pod).update(image="foreign.example/evil")),
    "an image that is none": ("spec.containers[0].image", lambda pod: run(pod).update(image="registry.example/A b")),
    "a foreign image of a service": ("spec.initContainers[0].image", lambda pod: service(pod).update(image="evil")),
    "another runner": ("spec.initContainers[1].image", lambda pod: checkout(pod).update(image="python:3.12")),
    "another pull policy": ("spec.containers[0].imagePullPolicy", lambda pod: run(pod).update(imagePullPolicy="Never")),
    "another command of run": ("spec.containers[0].command", lambda pod: run(pod).update(command=["sh"])),
    "arguments of run": ("spec.containers[0].command", lambda pod: run(pod).update(args=["-c", "id"])),
    "another command of checkout": ("spec.initContainers[1].command", lambda pod: checkout(pod).update(command=["sh"])),
    "an expanded argument": ("spec.initContainers[0].args", lambda pod: service(pod).update(args=["$(A)"])),
    "another folder": ("spec.containers[0].workingDir", lambda pod: run(pod).update(workingDir="/")),
    "another message": (
        "spec.containers[0].terminationMessagePath",
        lambda pod: run(pod).update(terminationMessagePath="/etc/passwd"),
    ),
    "the log as message": (
        "spec.containers[0].terminationMessagePolicy",
        lambda pod: run(pod).update(terminationMessagePolicy="FallbackToLogsOnError"),
    ),
    "a hook": ("spec.containers[0].lifecycle", lambda pod: run(pod).update(lifecycle={"preStop": {}})),
    "variables from elsewhere": (
        "spec.containers[0].envFrom",
        lambda pod: run(pod).update(envFrom=[{"secretRef": {"name": "admin"}}]),
    ),
    "a terminal": ("spec.containers[0].stdin", lambda pod: run(pod).update(stdin=True)),
    "a port of the node": (
        "spec.containers[0].ports[0].hostPort",
        lambda pod: run(pod).update(ports=[{"containerPort": 80, "hostPort": 80}]),
    ),
    "a device": ("spec.containers[0].volumeDevices", lambda pod: run(pod).update(volumeDevices=[{"name": "x"}])),
    "a claimed device": ("spec.resourceClaims", spec(resourceClaims=[])),
    "a probe of an address": (
        "spec.initContainers[0].startupProbe.httpGet",
        lambda pod: service(pod).update(startupProbe={"httpGet": {"host": "169.254.169.254", "port": 80}}),
    ),
    "a probe without end": (
        "spec.initContainers[0].startupProbe.failureThreshold",
        lambda pod: service(pod).update(
            startupProbe={
                "exec": {"command": ["x"]},
                "periodSeconds": 1,
                "timeoutSeconds": 5,
                "failureThreshold": 10**6,
            }
        ),
    ),
    # privileges
    "root": ("spec.containers[0].securityContext.runAsUser", lambda pod: security(run(pod), runAsUser=0)),
    "root by the image": (
        "spec.containers[0].securityContext.runAsUser",
        lambda pod: security(run(pod), runAsNonRoot=False),
    ),
    "another user": ("spec.securityContext.runAsUser", lambda pod: security(pod["spec"], runAsUser=999)),
    "another group": ("spec.securityContext.fsGroup", lambda pod: security(pod["spec"], fsGroup=0)),
    "further groups": (
        "spec.securityContext.supplementalGroups",
        lambda pod: security(pod["spec"], supplementalGroups=[0]),
    ),
    "a privileged container": (
        "spec.containers[0].securityContext.privileged",
        lambda pod: security(run(pod), privileged=True),
    ),
    "escalation": (
        "spec.containers[0].securityContext.allowPrivilegeEscalation",
        lambda pod: security(run(pod), allowPrivilegeEscalation=True),
    ),
    "a capability": (
        "spec.containers[0].securityContext.capabilities.add",
        lambda pod: security(run(pod), capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ),
    "a harmless capability": (
        "spec.containers[0].securityContext.capabilities.add",
        lambda pod: security(run(pod), capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
    ),
    "kept capabilities": (
        "spec.containers[0].securityContext.capabilities.drop",
        lambda pod: security(run(pod), capabilities={"drop": []}),
    ),
    "all system calls": (
        "spec.containers[0].securityContext.seccompProfile",
        lambda pod: security(run(pod), seccompProfile={"type": "Unconfined"}),
    ),
    "no seccomp profile": (
        "spec.containers[0].securityContext.seccompProfile",
        lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"),
    ),
    "an unmasked /proc": (
        "spec.containers[0].securityContext.procMount",
        lambda pod: security(run(pod), procMount="Unmasked"),
    ),
    "no AppArmor": (
        "spec.containers[0].securityContext.appArmorProfile",
        lambda pod: security(run(pod), appArmorProfile={"type": "Unconfined"}),
    ),
    "another SELinux type": (
        "spec.containers[0].securityContext.seLinuxOptions",
        lambda pod: security(run(pod), seLinuxOptions={"type": "spc_t"}),
    ),
    "a Windows host's process": (
        "spec.containers[0].securityContext.windowsOptions",
        lambda pod: security(run(pod), windowsOptions={"hostProcess": True}),
    ),
    "kernel settings": ("spec.securityContext.sysctls", lambda pod: security(pod["spec"], sysctls=[{"name": "a"}])),
    "a writable runner": (
        "spec.initContainers[1].securityContext.readOnlyRootFilesystem",
        lambda pod: security(checkout(pod), readOnlyRootFilesystem=False),
    ),
    # volumes
    "a folder of the node": (
        "spec.volumes[9].hostPath",
        lambda pod: adds_volume(pod, hostPath={"path": "/var/run"}),
    ),
    "a socket of the node": (
        "spec.volumes[9].hostPath.type",
        lambda pod: adds_volume(pod, hostPath={"path": "/run/containerd.sock", "type": "Socket"}),
    ),
    "a folder without limit": (
        "spec.volumes[0].emptyDir.sizeLimit",
        lambda pod: volume(pod, "workspace").update(emptyDir={}),
    ),
    "a folder with too much": (
        "spec.volumes[0].emptyDir.sizeLimit",
        lambda pod: volume(pod, "workspace").update(emptyDir={"sizeLimit": "51Gi"}),
    ),
    "a folder in memory": (
        "spec.volumes[1].emptyDir.medium",
        lambda pod: volume(pod, "home")["emptyDir"].update(medium="Memory"),
    ),
    "a large folder for scripts": (
        "spec.volumes[2].emptyDir.sizeLimit",
        lambda pod: volume(pod, "state").update(emptyDir={"sizeLimit": "1Gi"}),
    ),
    "a foreign volume": ("spec.volumes[9]", lambda pod: adds_volume(pod, emptyDir={"sizeLimit": "1Mi"})),
    "a claim": ("spec.volumes[9]", lambda pod: adds_volume(pod, persistentVolumeClaim={"claimName": "x"})),
    "a foreign image as a volume": (
        "spec.volumes[3].image",
        lambda pod: volume(pod, "bin").update(image={"reference": "x"}),
    ),
    "a volume's name that is none": ("spec.volumes[9].name", lambda pod: adds_volume(pod, name="A b", emptyDir={})),
    "two volumes of a name": ("spec.volumes", lambda pod: pod["spec"]["volumes"].append(volume(pod, "home"))),
    "a field of the pod in the plan": (
        "spec.volumes[5].downwardAPI.items",
        lambda pod: volume(pod, "plan")["downwardAPI"]["items"].append(
            {"path": "x", "fieldRef": {"fieldPath": "metadata.labels"}}
        ),
    ),
    "a foreign Secret as credentials": (
        "spec.volumes[7].secret",
        lambda pod: volume(pod, "credentials")["secret"].update(secretName="admin"),
    ),
    "a foreign Secret to mask": (
        "spec.volumes[8].projected.sources[0].secret.items[0]",
        lambda pod: volume(pod, "secrets")["projected"]["sources"][0]["secret"].update(name="admin"),
    ),
    "a whole Secret to mask": (
        "spec.volumes[8].projected.sources[0].secret",
        lambda pod: volume(pod, "secrets")["projected"]["sources"][0]["secret"].pop("items"),
    ),
    "a ConfigMap among the secrets": (
        "spec.volumes[8].projected.sources[0].configMap",
        lambda pod: volume(pod, "secrets")["projected"]["sources"][0].update(configMap={"name": "x"}),
    ),
    "a file's name that is a path": (
        "spec.volumes[8].projected.sources[0].secret.items[0]",
        lambda pod: volume(pod, "secrets")["projected"]["sources"][0]["secret"]["items"][0].update(path="../x"),
    ),
    "secrets for everybody": (
        "spec.volumes[8].projected.defaultMode",
        lambda pod: volume(pod, "secrets")["projected"].update(defaultMode=0o644),
    ),
    # mounts
    "a writable shim": (
        "spec.containers[0].volumeMounts[4].readOnly",
        lambda pod: run(pod)["volumeMounts"][4].pop("readOnly"),
    ),
    "the shim in a service": (
        "spec.initContainers[0].volumeMounts[1]",
        lambda pod: mounts(service(pod), name="bin", readOnly=True),
    ),
    "a volume elsewhere": (
        "spec.containers[0].volumeMounts[0].mountPath",
        lambda pod: run(pod)["volumeMounts"][0].update(mountPath="/etc"),
    ),
    "two volumes at a place": (
        "spec.containers[0].volumeMounts",
        lambda pod: mounts(run(pod), name="home", mountPath="/workspace"),
    ),
    "propagated mounts": (
        "spec.containers[0].volumeMounts[0].mountPropagation",
        lambda pod: run(pod)["volumeMounts"][0].update(mountPropagation="Bidirectional"),
    ),
    "a part of a volume": (
        "spec.containers[0].volumeMounts[0].subPath",
        lambda pod: run(pod)["volumeMounts"][0].update(subPath="x"),
    ),
    "a part that a variable names": (
        "spec.containers[0].volumeMounts[0].subPathExpr",
        lambda pod: run(pod)["volumeMounts"][0].update(subPathExpr="$(A)"),
    ),
    "a mount of nothing": ("spec.containers[0].volumeMounts[5].name", lambda pod: mounts(run(pod), name="nope")),
    # variables
    "an expanded value": (
        "spec.containers[0].env[0].value",
        lambda pod: run(pod)["env"][0].update(value="x$(NPM_TOKEN)"),
    ),
    "a value with NUL": ("spec.containers[0].env[0].value", lambda pod: run(pod)["env"][0].update(value="\0")),
    "two variables of a name": (
        "spec.containers[0].env",
        lambda pod: run(pod)["env"].append({"name": "CI", "value": "x"}),
    ),
    "a variable's name that is none": (
        "spec.containers[0].env[0].name",
        lambda pod: run(pod)["env"][0].update(name="A=B"),
    ),
    "another state": (
        "spec.containers[0].env[3]",
        lambda pod: run(pod)["env"].append({"name": anatomy.ENV_STATE, "value": "/workspace"}),
    ),
    "an unknown variable of ours": (
        "spec.containers[0].env[3]",
        lambda pod: run(pod)["env"].append({"name": "DYNAPOD_TOKEN", "value": "x"}),
    ),
    "one of ours in a service": (
        "spec.initContainers[0].env[1]",
        lambda pod: service(pod)["env"].append({"name": "DYNAPOD_X", "value": "x"}),
    ),
    "a variable of the job in checkout": (
        "spec.initContainers[1].env[3]",
        lambda pod: checkout(pod)["env"].append({"name": "LD_PRELOAD", "value": "/workspace/x.so"}),
    ),
    "another home of checkout": (
        "spec.initContainers[1].env[1].value",
        lambda pod: variable(checkout(pod), "HOME").update(value="/workspace"),
    ),
    "a path of checkout's own, even the right one": (
        "spec.initContainers[1].env[3]",
        lambda pod: checkout(pod)["env"].append({"name": anatomy.ENV_STATE, "value": anatomy.STATE_PATH}),
    ),
    "another gateway": (
        "spec.initContainers[1].env[0].value",
        lambda pod: variable(checkout(pod), anatomy.ENV_GATEWAY).update(value="http://evil"),
    ),
    "a foreign Secret": (
        "spec.containers[0].env[2].valueFrom",
        lambda pod: variable(run(pod), "NPM_TOKEN")["valueFrom"]["secretKeyRef"].update(name="admin"),
    ),
    "another key of a Secret": (
        "spec.containers[0].env[2].valueFrom",
        lambda pod: variable(run(pod), "NPM_TOKEN")["valueFrom"]["secretKeyRef"].update(key="other"),
    ),
    "a variable of a job's secret in checkout with a value of its own": (
        "spec.initContainers[1].env[3]",
        lambda pod: checkout(pod)["env"].append({"name": "DYNAPOD_NEEDS_X", "value": "x"}),
    ),
    "a foreign Secret that checkout needs": (
        "spec.initContainers[1].env[2].valueFrom",
        lambda pod: variable(checkout(pod), NEEDED)["valueFrom"]["secretKeyRef"].update(name="admin"),
    ),
    "a Secret in a service": (
        "spec.initContainers[0].env[1].valueFrom",
        lambda pod: service(pod)["env"].append(
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "npm", "key": "token"}}}
        ),
    ),
    "a field of the pod": (
        "spec.containers[0].env[3].valueFrom",
        lambda pod: run(pod)["env"].append({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}),
    ),
    # resources
    "no limit": ("spec.containers[0].resources.memory", lambda pod: run(pod)["resources"]["limits"].pop("memory")),
    "no request": ("spec.containers[0].resources.cpu", lambda pod: run(pod)["resources"].pop("requests")),
    "a request over its limit": (
        "spec.containers[0].resources.cpu",
        lambda pod: run(pod)["resources"]["requests"].update(cpu="2"),
    ),
    "more than run's cap": (
        "spec.containers[0].resources.limits.memory",
        lambda pod: run(pod)["resources"]["limits"].update(memory="17Gi"),
    ),
    "more than a service's cap": (
        "spec.initContainers[0].resources.limits.memory",
        lambda pod: service(pod)["resources"]["limits"].update(memory="9Gi"),
    ),
    "more than the runner's": (
        "spec.initContainers[1].resources.limits.memory",
        lambda pod: checkout(pod)["resources"]["limits"].update(memory="2Gi"),
    ),
    "huge pages": (
        "spec.containers[0].resources.limits.hugepages-2Mi",
        lambda pod: run(pod)["resources"]["limits"].update({"hugepages-2Mi": "1Gi"}),
    ),
    "a claim of devices": (
        "spec.containers[0].resources.claims",
        lambda pod: run(pod)["resources"].update(claims=[{"name": "gpu"}]),
    ),
}


@pytest.mark.parametrize(("path", "change"), BROKEN.values(), ids=BROKEN)
def test_a_broken_pod_is_caught_where_it_is_broken(path: str, change: Change) -> None:
    policy = POLICIES["uid 1000"]
    pod = rendered(whole(source={"git": "https://h.example/a", "credentials": {"secret": "git"}}), policy)
    assert check_pod(pod, policy) == []
    change(pod)
    assert path in [problem.path for problem in check_pod(pod, policy)]


def test_the_gateways_name_is_the_policys() -> None:
    policy = parse_policy({"gateway_url": "http://gateway:8080"}).with_gateway_at("http://10.0.0.7:8080")
    pod = rendered(least(), policy)
    assert check_pod(pod, policy) == []
    (place,) = (i for i, found in enumerate(checkout(pod)["env"]) if found["name"] == anatomy.ENV_GATEWAY_NAME)
    checkout(pod)["env"][place]["value"] = "evil:8080"
    assert [problem.path for problem in check_pod(pod, policy)] == [f"spec.initContainers[0].env[{place}].value"]


def test_root_inside_needs_its_user_namespace() -> None:
    policy = POLICIES["user namespace"]
    pod = rendered(least(), policy)
    assert check_pod(pod, policy) == []
    del pod["spec"]["hostUsers"]
    assert "spec.hostUsers" in [problem.path for problem in check_pod(pod, policy)]


def test_secrets_without_checkout_would_show_in_the_log() -> None:
    policy = POLICIES["image volume"]
    pod = rendered(least(secrets={"T": {"secret": "npm", "key": "token"}}), policy)
    assert check_pod(pod, policy) == []
    pod["spec"]["initContainers"] = []
    assert [problem.path for problem in check_pod(pod, policy)] == ["spec.initContainers"]


@pytest.mark.parametrize("field", ["reference", "subPath"])
def test_an_image_volume_is_the_runners_alone(field: str) -> None:
    policy = POLICIES["image volume"]
    pod = rendered(least(), policy)
    assert check_pod(pod, policy) == []
    where = volume(pod, "bin")["image"] if field == "reference" else run(pod)["volumeMounts"][-1]
    where[field] = "evil"
    assert [problem.path.rpartition(".")[2] for problem in check_pod(pod, policy)] == [field]


# -- the operator's patch


def patched(patch: Json, **more: Any) -> tuple[Json, Policy]:
    policy = parse_policy(PEASANTS | {"pod_patch": patch} | more)
    return rendered(whole(source=None), policy), policy


def named(field: str, name: str, **content: Any) -> Json:
    return {"spec": {field: [{"name": name, **content}]}}


WIDENED: dict[str, Json] = {
    "a priority": {"spec": {"priorityClassName": "low"}},
    "a toleration": {"spec": {"tolerations": [{"operator": "Exists"}]}},
    "another runtime": {"spec": {"runtimeClassName": None}},
    "a label": {"metadata": {"labels": {"team": "builds"}}},
    "no selector": {"spec": {"nodeSelector": {"pool": None}}},
    "a proxy for checkout": named("initContainers", "checkout", env=[{"name": "HTTPS_PROXY", "value": "http://p:1"}]),
    "a GPU": named("containers", "run", resources={"limits": {"nvidia.com/gpu": 1}}),
    "more memory than the cap": named("containers", "run", resources={"limits": {"memory": "64Gi"}}),
    "a volume": {
        "spec": {
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
            "containers": [{"name": "run", "volumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}]}],
        }
    },
    "a group": {"spec": {"securityContext": {"fsGroup": 2000, "supplementalGroups": [44]}}},
}


@pytest.mark.parametrize("patch", WIDENED.values(), ids=WIDENED)
def test_what_the_operators_patch_sets_is_the_operators_word(patch: Json) -> None:
    pod, policy = patched(patch)
    assert check_pod(pod, policy) == []


@pytest.mark.parametrize("patch", WIDENED.values(), ids=WIDENED)
def test_without_the_patch_the_same_pod_is_refused(patch: Json) -> None:
    pod, _ = patched(patch)
    assert check_pod(pod, parse_policy(PEASANTS))


def test_a_patch_excuses_nothing_but_what_it_sets() -> None:
    pod, policy = patched(named("containers", "run", env=[{"name": "TZ", "value": "UTC"}]))
    run(pod)["env"].append({"name": "DYNAPOD_TOKEN", "value": "x"})
    run(pod)["lifecycle"] = {}
    pod["spec"]["priorityClassName"] = "high"
    service(pod)["image"] = "evil"
    paths = {problem.path for problem in check_pod(pod, policy)}
    assert paths == {
        "spec.containers[0].env[4]",
        "spec.containers[0].lifecycle",
        "spec.priorityClassName",
        "spec.initContainers[0].image",
    }


def test_a_pod_without_the_patch_is_not_this_policys() -> None:
    policy = parse_policy(PEASANTS | {"pod_patch": {"spec": {"priorityClassName": "low"}}})
    (problem,) = check_pod(rendered(least(), parse_policy(PEASANTS)), policy)
    assert "pod_patch" in problem.message


def test_the_check_costs_a_job_little() -> None:
    """Every pod passes it; a job may cost 3 ms of CPU in all."""
    pod, policy = rendered(whole(source=None), POLICIES["uid 1000"]), POLICIES["uid 1000"]
    began = time.process_time()
    for _ in range(200):
        check_pod(pod, policy)
    assert (time.process_time() - began) / 200 < 0.002

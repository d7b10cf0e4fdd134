"""Records the ends of pods from a real cluster: the data of `test_recorded.py`.

    KUBECONFIG=… python -m tests.runner_spec.record [NAME…]

Every scenario below provokes one end, for real, and keeps what the watch reported: the last status, the object of the
DELETED event, or what a pod looks like while it waits. Without names, all are recorded that the cluster allows.

It needs the test images (`tests/images`, `docker/runner.Dockerfile`) on a node that is this machine, and for the
scenarios about nodes a node that nobody else uses (taint it with dynapod.dev/record:NoSchedule) and whose power may be
cut:

    RECORD_NODE=node2 RECORD_NODE_DOWN='command that cuts its power' RECORD_NODE_UP='command that brings it back'
    RECORD_NODE_CRASH='command that kills kubelet, runtime and containers of that node, the runtime first'

Statuses that no command can provoke on such a node (a graceful node shutdown, say) are not recorded: `test_classify.py`
has them, written down from the kubelet's source.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.cluster.registry import registry
from tests.runner_spec.recording import (
    JOB_IMAGE,
    Json,
    Kept,
    Lab,
    changed,
    deleted,
    ended,
    ends_of,
    has_condition,
    lab,
    restarted,
    runs,
    service,
    shell,
    waits,
    write,
)

Scenario = Callable[[Lab], Awaitable[Sequence[Kept]]]
SCENARIOS: dict[str, tuple[str, Scenario]] = {}
AT_ONCE = 5  # pods: the node is small, and shared
SLEEP = "sleep 300 & wait"
GREEDY = "tail -c 1073741824 /dev/zero >/dev/null"
NOTE = [{"name": "note", "paths": ["note.txt"]}]
KEPT = [{"name": "note", "paths": ["note.txt"], "when": "always"}]
WRITE = "echo note > note.txt"
NODE = os.environ.get("RECORD_NODE", "")


def scenario(how: str) -> Callable[[Scenario], Scenario]:
    def register(function: Scenario) -> Scenario:
        SCENARIOS[function.__name__.replace("_", "-")] = (how, function)
        return function

    return register


# -- ends of the job's own


@scenario("Steps that succeed, and an artifact that is uploaded.")
async def success(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("success", WRITE, artifacts=NOTE))


@scenario("A step that ends with exit code 3.")
async def exit_code(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("exit-code", WRITE, "exit 3", artifacts=KEPT))


@scenario("A step that is killed by SIGSEGV.")
async def signal(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("signal", "kill -SEGV $$"))


@scenario("A step that needs more memory than the limit of run.")
async def oom_run(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("oom-run", f"{WRITE}; {GREEDY}", artifacts=KEPT))


@scenario("A step whose child needs more memory than the limit, and that does not mind.")
async def oom_survived(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("oom-survived", f"( {GREEDY} ) || true; sleep 1"))


@scenario("A service that needs more memory than its limit while the steps run; the steps then fail.")
async def oom_service(here: Lab) -> Sequence[Kept]:
    services = [service("db", f"sleep 4; {GREEDY}")]
    return await here.run(here.job("oom-service", "sleep 8; exit 1", services=services))


@scenario("checkout with a memory limit that Python does not fit into.")
async def oom_checkout(here: Lab) -> Sequence[Kept]:
    manifest = changed(here.job("oom-checkout"), "checkout", resources={"limits": {"memory": "8Mi"}})
    return await here.run(manifest)


@scenario("upload with a program in it that needs more memory than its limit, after steps that succeeded.")
async def oom_upload(here: Lab) -> Sequence[Kept]:
    manifest = here.job("oom-upload", artifacts=NOTE)
    greedy = [
        "/dynapod/bin/busybox",
        "sh",
        "-c",
        f"trap '/dynapod/bin/busybox tail -c 1073741824 /dev/zero; exit' TERM; {SLEEP}",
    ]
    return await here.run(changed(manifest, "upload", command=greedy, resources={"limits": {"memory": "32Mi"}}))


@scenario("run with a memory limit that the runtime itself does not fit into.")
async def oom_at_start(here: Lab) -> Sequence[Kept]:
    return await here.run(changed(here.job("oom-at-start"), "run", resources={"limits": {"memory": "1Mi"}}))


@scenario("Steps that take longer than the timeout, ended by the shim.")
async def timeout(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("timeout", f"{WRITE}; {SLEEP}", timeout="3s", artifacts=KEPT))


@scenario("Steps that take longer than the pod's activeDeadlineSeconds, ended by the kubelet.")
async def deadline_run(here: Lab) -> Sequence[Kept]:
    manifest = changed(here.job("deadline-run", SLEEP), activeDeadlineSeconds=8, terminationGracePeriodSeconds=5)
    return await here.run(manifest)


@scenario("checkout waits for a service beyond the pod's activeDeadlineSeconds.")
async def deadline_checkout(here: Lab) -> Sequence[Kept]:
    services = [service("db", SLEEP, ready={"tcp": 5432, "timeout": "5m"})]
    manifest = here.job("deadline-checkout", services=services)
    return await here.run(changed(manifest, activeDeadlineSeconds=6, terminationGracePeriodSeconds=3))


@scenario("An artifact that the steps did not make.")
async def missing_artifact(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("missing-artifact", artifacts=NOTE))


@scenario("An artifact, and no gateway that takes it.")
async def gateway_away(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("gateway-away", WRITE, artifacts=NOTE, policy={"gateway_url": "http://127.0.0.1:9"}))


@scenario("A source whose host does not exist.")
async def git_away(here: Lab) -> Sequence[Kept]:
    source = {"git": "https://127.0.0.1:9/none.git"}
    return await here.run(here.job("git-away", source=source))


@scenario("A runner image without the runner: Python ends checkout with exit code 1 before any report.")
async def runner_missing(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("runner-missing", policy={"runner_image": JOB_IMAGE}))


@scenario("A runner image without the runner's program: the runtime cannot start checkout.")
async def runner_no_program(here: Lab) -> Sequence[Kept]:
    return await here.run(here.job("runner-no-program", policy={"runner_command": ["/nothing/here"]}))


@scenario("run cannot be started: its program does not exist.")
async def run_no_program(here: Lab) -> Sequence[Kept]:
    return await here.run(changed(here.job("run-no-program"), "run", command=["/nothing/here"]))


# -- deleted, evicted, refused by the node


@scenario("The pod is deleted while its steps run.")
async def deleted_running(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("deleted-running", f"{WRITE}; {SLEEP}", artifacts=KEPT))
    await here.until(name, runs("run"))
    await here.delete(name)
    return [await here.until(name, ended), await here.until(name, deleted)]


@scenario("The steps fail, and the pod is deleted at once because only a service is left of it, as the worker does.")
async def deleted_after_failure(here: Lab) -> Sequence[Kept]:
    services = [service("db", SLEEP)]
    name = await here.create(here.job("deleted-after-failure", "sleep 2; exit 3", services=services))
    await here.until(name, ends_of("run"))
    await here.delete(name, grace=3)
    return [await here.until(name, ended), await here.until(name, deleted)]


@scenario("checkout fails, and the pod is deleted at once because only a service is left of it, as the worker does.")
async def deleted_after_checkout(here: Lab) -> Sequence[Kept]:
    services = [service("db", SLEEP, ready={"tcp": 5432, "timeout": "3s"})]
    name = await here.create(here.job("deleted-after-checkout", services=services))
    await here.until(name, ends_of("checkout"))
    await here.delete(name, grace=3)
    return [await here.until(name, ended), await here.until(name, deleted)]


@scenario("upload finds no artifact, and the pod is deleted at once because only a service is left of it.")
async def deleted_after_upload(here: Lab) -> Sequence[Kept]:
    services = [service("db", SLEEP)]
    name = await here.create(here.job("deleted-after-upload", artifacts=NOTE, services=services))
    await here.until(name, ends_of("upload"))
    await here.delete(name, grace=3)
    return [await here.until(name, ended), await here.until(name, deleted)]


@scenario("The pod is deleted with grace period 0 while its steps run.")
async def deleted_by_force(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("deleted-by-force", SLEEP))
    await here.until(name, runs("run"))
    await here.delete(name, grace=0)
    return [await here.until(name, deleted)]


@scenario("The pod is deleted while no node takes it.")
async def deleted_pending(here: Lab) -> Sequence[Kept]:
    manifest = here.job("deleted-pending", policy={"node_selector": {"nobody": "has-this"}})
    name = await here.create(manifest)
    await here.until(name, has_condition("PodScheduled", "False"))
    await here.delete(name, grace=0)
    return [await here.until(name, deleted)]


@scenario("The workspace has a sizeLimit, and the steps write more.")
async def evicted_size_limit(here: Lab) -> Sequence[Kept]:
    manifest = here.job("evicted-size-limit", f"dd if=/dev/zero of=big bs=1M count=16; {SLEEP}")
    for volume in manifest["spec"]["volumes"]:
        if volume["name"] == "workspace":
            volume["emptyDir"] = {"sizeLimit": "4Mi"}
    return await here.run(manifest)


@scenario("The steps write more into the container's own file system than its ephemeral-storage limit.")
async def evicted_storage_limit(here: Lab) -> Sequence[Kept]:
    resources = {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "4Mi"}
    script = f"dd if=/dev/zero of=/tmp/big bs=1M count=32; {SLEEP}"
    return await here.run(here.job("evicted-storage-limit", script, resources=resources))


@scenario("The pod is evicted through the API (pods/eviction), as `kubectl drain` does.")
async def evicted_api(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("evicted-api", SLEEP))
    await here.until(name, runs("run"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": here.namespace}}
    await here.api.call("POST", f"/api/v1/namespaces/{here.namespace}/pods/{name}/eviction", body=eviction)
    return [await here.until(name, ended), await here.until(name, deleted)]


@scenario("The pod is bound, past the scheduler, to a node that has not enough CPU.")
async def node_refused_cpu(here: Lab) -> Sequence[Kept]:
    manifest = here.job("node-refused-cpu", resources={"cpu": "8", "memory": "64Mi"})
    nodes = await here.api.call("GET", "/api/v1/nodes")
    return await here.run(changed(manifest, nodeName=nodes["items"][0]["metadata"]["name"]))


@scenario("The pod is bound, past the scheduler, to a node that its selector excludes.")
async def node_refused_affinity(here: Lab) -> Sequence[Kept]:
    nodes = await here.api.call("GET", "/api/v1/nodes")
    manifest = here.job("node-refused-affinity", policy={"node_selector": {"nobody": "has-this"}})
    return await here.run(changed(manifest, nodeName=nodes["items"][0]["metadata"]["name"]))


# -- waiting: images, configuration, the sandbox, the scheduler


@scenario("An image that no registry has: with words, then backing off, without them.")
async def image_misspelt(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("image-misspelt", image="localhost/no-such-image:1"))
    return [
        await here.until(name, waits("run", "ErrImagePull")),
        await here.until(name, waits("run", "ImagePullBackOff")),
    ]


@scenario("An image of a registry whose host does not exist.")
async def image_registry_away(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("image-registry-away", image="registry.invalid/some/image:1"))
    return [
        await here.until(name, waits("run", "ErrImagePull")),
        await here.until(name, waits("run", "ImagePullBackOff")),
    ]


@scenario("A service's image that no registry has.")
async def image_of_a_service(here: Lab) -> Sequence[Kept]:
    manifest = here.job("image-of-a-service", services=[service("db", SLEEP) | {"image": "localhost/no-such-image:2"}])
    name = await here.create(manifest)
    return [
        await here.until(name, waits("db", "ErrImagePull")),
        await here.until(name, waits("db", "ImagePullBackOff")),
    ]


@scenario("The runner's image is missing.")
async def image_of_the_runner(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("image-of-the-runner", policy={"runner_image": "localhost/no-such-runner:1"}))
    return [
        await here.until(name, waits("checkout", "ErrImagePull")),
        await here.until(name, waits("checkout", "ImagePullBackOff")),
    ]


@scenario("imagePullPolicy Never, and the image is not on the node.")
async def image_never_pulled(here: Lab) -> Sequence[Kept]:
    manifest = here.job("image-never-pulled", image="localhost/no-such-image:3", policy={"image_pull_policy": "Never"})
    return [await here.until(await here.create(manifest), waits("run", "ErrImageNeverPull"))]


@scenario("An image name that no runtime can parse, past dynapod's own check.")
async def image_invalid_name(here: Lab) -> Sequence[Kept]:
    manifest = changed(here.job("image-invalid-name"), "run", image="Not/A:Valid:Name")
    return [await here.until(await here.create(manifest), waits("run", "InvalidImageName"))]


@scenario("An image that its registry does not know: with words, then backing off.")
async def image_unknown(here: Lab) -> Sequence[Kept]:
    with registry() as images:
        name = await here.create(here.job("image-unknown", image=images.image("misspelt")))
        return [
            await here.until(name, waits("run", "ErrImagePull")),
            await here.until(name, waits("run", "ImagePullBackOff")),
        ]


@scenario("An image that appears in its registry while its pull is backing off.")
async def image_recovers(here: Lab) -> Sequence[Kept]:
    with registry() as images:
        name = await here.create(here.job("image-recovers", "sleep 3", image=images.image(here.namespace)))
        waiting = await here.until(name, waits("run", "ImagePullBackOff"))
        images.shown.add(here.namespace)
        return [waiting, await here.until(name, runs("run")), await here.until(name, ended)]


@scenario("A secret of the job does not exist.")
async def secret_missing(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("secret-missing", secrets={"TOKEN": {"secret": "npm", "key": "token"}}))
    return [await here.until(name, waits("checkout", "CreateContainerConfigError"))]


@scenario("A secret of the job is created while its pod waits for it.")
async def secret_comes(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("secret-comes", secrets={"TOKEN": {"secret": "late", "key": "token"}}))
    waiting = await here.until(name, waits("checkout", "CreateContainerConfigError"))
    await here.kubectl("-n", here.namespace, "create", "secret", "generic", "late", "--from-literal=token=hunter2")
    return [waiting, await here.until(name, ended)]


@scenario("A secret of the job is a key that its Secret does not have.")
async def secret_key_missing(here: Lab) -> Sequence[Kept]:
    await here.kubectl("-n", here.namespace, "create", "secret", "generic", "keyless", "--from-literal=other=x")
    manifest = here.job("secret-key-missing", secrets={"TOKEN": {"secret": "keyless", "key": "token"}})
    return [await here.until(await here.create(manifest), waits("checkout", "CreateContainerConfigError"))]


@scenario("A volume of a Secret that does not exist (from a pod patch): the status has no word about it.")
async def secret_volume_missing(here: Lab) -> Sequence[Kept]:
    manifest = here.job("secret-volume-missing")
    manifest["spec"]["volumes"].append({"name": "extra", "secret": {"secretName": "no-such-secret"}})
    name = await here.create(manifest)
    return [await here.until(name, has_condition("PodReadyToStartContainers", "False"))]


@scenario("Variables of run come from a ConfigMap that does not exist (from a pod patch).")
async def config_map_missing(here: Lab) -> Sequence[Kept]:
    manifest = changed(here.job("config-map-missing"), "run", envFrom=[{"configMapRef": {"name": "no-such-map"}}])
    return [await here.until(await here.create(manifest), waits("run", "CreateContainerConfigError"))]


@scenario("A volume of a ConfigMap that does not exist (from a pod patch).")
async def config_map_volume_missing(here: Lab) -> Sequence[Kept]:
    manifest = here.job("config-map-volume-missing")
    manifest["spec"]["volumes"].append({"name": "extra", "configMap": {"name": "no-such-map"}})
    name = await here.create(manifest)
    return [await here.until(name, has_condition("PodReadyToStartContainers", "False"))]


@scenario("The runtime class names a handler that the node's runtime does not have: no sandbox is made.")
async def sandbox_failed(here: Lab) -> Sequence[Kept]:
    name = f"{here.namespace}-none"
    await here.apply(
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "none"}
    )
    try:
        pod = await here.create(here.job("sandbox-failed", policy={"runtime_class": name}))
        return [await here.until(pod, has_condition("PodReadyToStartContainers", "False"))]
    finally:
        await here.kubectl("delete", "runtimeclass", name)


@scenario("No node has the labels that the pod asks for.")
async def unschedulable(here: Lab) -> Sequence[Kept]:
    name = await here.create(here.job("unschedulable", policy={"node_selector": {"nobody": "has-this"}}))
    return [await here.until(name, has_condition("PodScheduled", "False"))]


@scenario("No node has that much memory.")
async def unschedulable_memory(here: Lab) -> Sequence[Kept]:
    huge = {"max_resources": {"cpu": "1", "memory": "16Ti", "ephemeral-storage": "4Gi"}}
    name = await here.create(here.job("unschedulable-memory", resources={"cpu": "100m", "memory": "16Ti"}, policy=huge))
    return [await here.until(name, has_condition("PodScheduled", "False"))]


# -- services


@scenario(
    "A service without a readiness check crashes at once, again and again: the kubelet never goes on to checkout."
)
async def service_crash_at_start(here: Lab) -> Sequence[Kept]:
    services = [service("db", "echo 'FATAL: no password' >&2; exit 7")]
    name = await here.create(here.job("service-crash-at-start", services=services))
    return [await here.until(name, restarted("db", times)) for times in (1, 3)]


@scenario("A service without a readiness check crashes while the steps run; the steps do not mind.")
async def service_crash_unnoticed(here: Lab) -> Sequence[Kept]:
    services = [service("db", "sleep 2; echo 'FATAL: out of order' >&2; exit 7")]
    return await here.run(here.job("service-crash-unnoticed", "sleep 6", services=services))


@scenario("A service crashes for good while the steps run, and is backing off when they fail.")
async def service_crash_backing_off(here: Lab) -> Sequence[Kept]:
    services = [service("db", "sleep 1; echo 'FATAL: out of order' >&2; exit 7")]
    name = await here.create(here.job("service-crash-backing-off", "sleep 14; exit 1", services=services))
    crashed = await here.until(name, lambda pod: ends_of("db")(pod) and restarted("db")(pod))
    return [crashed, await here.until(name, ended)]


@scenario("A service without a readiness check crashes while the steps run; the steps fail.")
async def service_crash_noticed(here: Lab) -> Sequence[Kept]:
    services = [service("db", "sleep 4; echo 'FATAL: out of order' >&2; exit 7")]
    return await here.run(here.job("service-crash-noticed", "sleep 8; exit 1", services=services))


@scenario("A service crashes again and again before its port answers: while checkout waits, and when it gave up.")
async def service_crash_tcp(here: Lab) -> Sequence[Kept]:
    services = [service("db", "sleep 1; echo 'FATAL: no password'; exit 7", ready={"tcp": 5432, "timeout": "20s"})]
    name = await here.create(here.job("service-crash-tcp", services=services))
    return [await here.until(name, restarted("db")), await here.until(name, ended)]


@scenario("A service whose port never answers.")
async def service_never_ready_tcp(here: Lab) -> Sequence[Kept]:
    services = [service("db", f"echo starting; {SLEEP}", ready={"tcp": 5432, "timeout": "3s"})]
    return await here.run(here.job("service-never-ready-tcp", services=services))


@scenario("A service whose URL answers with an error.")
async def service_never_ready_http(here: Lab) -> Sequence[Kept]:
    ready = {"http": "http://web:8080/nothing", "timeout": "3s"}
    web = service("web", "echo serving; httpd -f -p 8080 -h /bin", ready=ready)
    return await here.run(here.job("service-never-ready-http", services=[web]))


@scenario("A service whose readiness command never succeeds: the kubelet restarts it.")
async def service_never_ready_command(here: Lab) -> Sequence[Kept]:
    db = service("db", f"echo starting; {SLEEP}", ready={"command": ["false"], "timeout": "3s"})
    name = await here.create(here.job("service-never-ready-command", services=[db]))
    return [await here.until(name, runs("db")), await here.until(name, restarted("db"))]


@scenario("upload crashes as soon as it starts, again and again.")
async def upload_crash(here: Lab) -> Sequence[Kept]:
    manifest = here.job("upload-crash", "sleep 2", artifacts=NOTE)
    name = await here.create(changed(manifest, "upload", command=["/nothing/here"]))
    return [await here.until(name, restarted("upload", times)) for times in (1, 3)]


@scenario("A service with a readiness command crashes before it is ready, again and again.")
async def service_crash_command(here: Lab) -> Sequence[Kept]:
    db = service("db", "echo 'FATAL: no password'; exit 7", ready={"command": ["true"], "timeout": "60s"})
    db["ready"]["command"] = ["test", "-e", "/tmp/ready"]
    name = await here.create(here.job("service-crash-command", services=[db]))
    crashed = await here.until(name, ends_of("db"))
    return [crashed, *[await here.until(name, restarted("db", times)) for times in (1, 3)]]


@scenario("A service whose program does not exist.")
async def service_no_program(here: Lab) -> Sequence[Kept]:
    db = service("db", "") | {"command": ["/nothing/here"]}
    name = await here.create(here.job("service-no-program", services=[db]))
    return [await here.until(name, restarted("db", times)) for times in (1, 3)]


# -- refused by the API server


@scenario("The namespace's ResourceQuota is used up.")
async def quota(here: Lab) -> Sequence[Kept]:
    async with here.another("quota") as space:
        await here.kubectl("-n", space, "create", "quota", "none", "--hard=pods=0")
        return [await here.refusal(here.job("quota"), space, "exceeded quota")]


@scenario("The namespace demands the restricted level, and the pod patch breaks it.")
async def pod_security(here: Lab) -> Sequence[Kept]:
    async with here.another("restricted") as space:
        await here.kubectl("label", "namespace", space, "pod-security.kubernetes.io/enforce=restricted")
        return [await here.refusal(changed(here.job("pod-security"), hostNetwork=True), space, "PodSecurity")]


@scenario("The namespace's LimitRange forbids what the pod asks for.")
async def limit_range(here: Lab) -> Sequence[Kept]:
    async with here.another("limits") as space:
        limits = {"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]}
        about = {"name": "small", "namespace": space}
        await here.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": about, "spec": limits})
        return [await here.refusal(here.job("limit-range"), space, "maximum memory")]


@scenario("A ValidatingAdmissionPolicy refuses the pod.")
async def admission_policy(here: Lab) -> Sequence[Kept]:
    async with here.another("policy") as space:
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        match = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}}}
        validation = {"expression": "has(object.metadata.labels.team)", "message": "every pod names its team"}
        api = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": space}}
        policy = {"matchConstraints": {"resourceRules": [rule], **match}, "validations": [validation]}
        binding = {"policyName": space, "validationActions": ["Deny"]}
        await here.apply(
            {**api, "kind": "ValidatingAdmissionPolicy", "spec": policy},
            {**api, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
        )
        try:
            return [await here.refusal(here.job("admission-policy"), space, "names its team")]
        finally:
            await here.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", space)


@scenario("An admission webhook that does not answer.")
async def webhook_away(here: Lab) -> Sequence[Kept]:
    async with here.another("webhook") as space:
        hook = {
            "name": "pods.example.com",
            "clientConfig": {"url": "https://127.0.0.1:9/admit"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 2,
        }
        about = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": space}}
        await here.apply({**about, "kind": "ValidatingWebhookConfiguration", "webhooks": [hook]})
        try:
            return [await here.refusal(here.job("webhook-away"), space, "webhook")]
        finally:
            await here.kubectl("delete", "validatingwebhookconfiguration", space)


@scenario("The pod's service account does not exist.")
async def no_service_account(here: Lab) -> Sequence[Kept]:
    manifest = here.job("no-service-account", policy={"service_account": "nobody"})
    return [await here.refusal(manifest, here.namespace, "serviceaccount")]


@scenario("The priority class does not exist (from a pod patch).")
async def no_priority_class(here: Lab) -> Sequence[Kept]:
    manifest = changed(here.job("no-priority-class"), priorityClassName="nobody")
    return [await here.refusal(manifest, here.namespace, "PriorityClass")]


@scenario("The namespace does not exist.")
async def no_namespace(here: Lab) -> Sequence[Kept]:
    return [await here.refusal(here.job("no-namespace"), "no-such-namespace", "not found")]


@scenario("The namespace is being deleted.")
async def namespace_terminating(here: Lab) -> Sequence[Kept]:
    async with here.another("ending") as space:
        # A finalizer keeps the namespace in its last state until it is taken off.
        await here.kubectl("-n", space, "create", "configmap", "last")
        patch = '{"metadata": {"finalizers": ["dynapod.dev/record"]}}'
        await here.kubectl("-n", space, "patch", "configmap", "last", "-p", patch)
        await here.kubectl("delete", "namespace", space, "--wait=false")
        try:
            return [await here.refusal(here.job("namespace-terminating"), space, "terminat")]
        finally:
            patch = '{"metadata": {"finalizers": null}}'
            await here.kubectl("-n", space, "patch", "configmap", "last", "-p", patch)


# -- the node's end, and its pressure; on a node of one's own


def on_node(here: Lab, number: str, *scripts: str, tolerate: int | None = None, **more: Any) -> Json:
    """A job for the node that is ours alone; `tolerate` is how many seconds it may be unreachable."""
    policy = {"node_selector": {"kubernetes.io/hostname": NODE}}
    manifest = here.job(number, *scripts, policy=policy, **more)
    tolerated: list[Json] = [{"key": "dynapod.dev/record", "operator": "Exists", "effect": "NoSchedule"}]
    if tolerate is not None:
        tolerated += [
            {
                "key": f"node.kubernetes.io/{trouble}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": tolerate,
            }
            for trouble in ("unreachable", "not-ready")
        ]
    return changed(manifest, tolerations=tolerated)


@scenario("A pod of higher priority needs the node.")
async def preempted(here: Lab) -> Sequence[Kept]:
    high = f"{here.namespace}-high"
    about = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": high}}
    await here.apply({**about, "value": 1000})
    try:
        share = {"cpu": "1200m", "memory": "64Mi"}  # of the node's two cores: only one of the two fits
        name = await here.create(on_node(here, "preempted", SLEEP, resources=share))
        await here.until(name, runs("run"))
        rival = await here.create(changed(on_node(here, "rival", "true", resources=share), priorityClassName=high))
        kept = [await here.until(name, ended), await here.until(name, deleted)]
        await here.until(rival, ended)
        return kept
    finally:
        await here.kubectl("delete", "priorityclass", high)


@scenario("The node gets a taint with effect NoExecute.")
async def tainted(here: Lab) -> Sequence[Kept]:
    name = await here.create(on_node(here, "tainted", SLEEP))
    await here.until(name, runs("run"))
    await here.kubectl("taint", "node", NODE, "dynapod.dev/record=x:NoExecute")
    try:
        return [await here.until(name, ended), await here.until(name, deleted)]
    finally:
        await here.kubectl("taint", "node", NODE, "dynapod.dev/record-")


@scenario("The node loses its power; nobody comes to its help; then its object is deleted.")
async def node_lost(here: Lab) -> Sequence[Kept]:
    name = await here.create(on_node(here, "node-lost", SLEEP, tolerate=2))
    await here.until(name, runs("run"))
    await shell(os.environ["RECORD_NODE_DOWN"])
    try:
        lost = await here.until(name, lambda pod: "deletionTimestamp" in pod["metadata"], patience=300)
        await here.kubectl("delete", "node", NODE)
        return [lost, await here.until(name, deleted, patience=300)]
    finally:
        await shell(os.environ["RECORD_NODE_UP"])


@scenario("The node loses its power, and its object is deleted before anybody has evicted the pod.")
async def node_deleted(here: Lab) -> Sequence[Kept]:
    name = await here.create(on_node(here, "node-deleted", SLEEP, tolerate=3600))
    await here.until(name, runs("run"))
    await shell(os.environ["RECORD_NODE_DOWN"])
    try:
        await here.kubectl("delete", "node", NODE)
        return [await here.until(name, deleted, patience=300)]
    finally:
        await shell(os.environ["RECORD_NODE_UP"])


@scenario("The node loses its power and comes back: its containers are gone.")
async def node_rebooted(here: Lab) -> Sequence[Kept]:
    name = await here.create(on_node(here, "node-rebooted", SLEEP, tolerate=3600, artifacts=KEPT))
    await here.until(name, runs("run"))
    await shell(os.environ["RECORD_NODE_DOWN"])
    await shell(os.environ["RECORD_NODE_UP"])
    return [await here.until(name, ended, patience=300)]


@scenario("The node's runtime and all containers are killed at once: nobody has noted how the containers ended.")
async def node_crashed(here: Lab) -> Sequence[Kept]:
    name = await here.create(on_node(here, "node-crashed", SLEEP, tolerate=3600, artifacts=KEPT))
    await here.until(name, runs("run"))
    await shell(os.environ["RECORD_NODE_CRASH"])
    await shell(os.environ["RECORD_NODE_UP"])
    return [await here.until(name, ended, patience=300)]


NODE_SCENARIOS = ("preempted", "tainted", "node-lost", "node-deleted", "node-rebooted", "node-crashed")


async def record(here: Lab, name: str, version: str) -> str:
    """Record one end; what went wrong, or nothing."""
    how, provoke = SCENARIOS[name]
    try:
        write(name, how, version, await provoke(here))
    except Exception as error:  # noqa: BLE001 - the others are to be recorded all the same
        return f"{name}: {type(error).__name__}: {error}"
    return ""


async def main(names: Sequence[str]) -> int:
    """Record the ends of these names, those about nodes one after the other, the rest a few at once."""
    chosen = names or [name for name in SCENARIOS if NODE or name not in NODE_SCENARIOS]
    places = asyncio.Semaphore(AT_ONCE)
    version = json.loads(await shell("kubectl get --raw /version"))["gitVersion"]

    async def in_turn(name: str) -> str:
        async with places:
            return await record(here, name, version)

    async with lab() as here:
        failures = await asyncio.gather(*(in_turn(name) for name in chosen if name not in NODE_SCENARIOS))
        failures += [await record(here, name, version) for name in chosen if name in NODE_SCENARIOS]
    for failure in filter(None, failures):
        sys.stderr.write(failure + "\n")
    return 1 if any(failures) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))

"""The table of ends: what is submitted, how its end is provoked on a real cluster, and what must be recorded of it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from adapters.kubernetes_api import KubernetesApi
from runner_spec import names
from tests.cluster.fake_node import (
    FakeNode,
    is_bound,
    is_deleted,
    play_running,
    play_shutdown,
    play_stopped,
    runs,
    until_pod,
)
from tests.cluster.registry import Registry
from worker.client import JobClient
from worker.job_status import JobStatus

Json = dict[str, Any]

BUSYBOX = "localhost/bb:latest"
SMALL = {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "64Mi"}
NOTE = [{"name": "note", "paths": ["note.txt"], "when": "always"}]
SLEEP = "sleep 300 & wait"
FIRST_ONLY = f'if [ "$DYNAPOD_ATTEMPT" = 1 ]; then {SLEEP}; fi; echo the second attempt'
FULL = "exceeded quota: full, requested: pods=1, used: pods=0, limited: pods=0"


@dataclass
class Stage:
    """What provocations need: the API in the jobs' namespace, the queue, a registry, and the group of fake nodes."""

    api: KubernetesApi
    client: JobClient
    registry: Registry
    group: str
    refusing: str  # a second namespace, with a quota of no pods
    priority_class: str
    placing: asyncio.Lock = field(default_factory=asyncio.Lock)
    room: asyncio.Event = field(default_factory=asyncio.Event)  # the quota of `refusing` has been raised

    def pod(self, job: str, attempt: int = 1) -> str:
        return names.pod_name(job, attempt)

    async def until(self, job: str, wanted: Callable[[Json], bool]) -> Json:
        return await until_pod(self.api, self.pod(job), wanted)

    async def waits(self, job: str, words: str) -> None:
        """Until the job's status says that it waits for this."""
        async for status in self.client.changes(job):
            if words in status.why:
                return
        raise AssertionError(f"{job} ended without waiting for {words!r}")


Provoke = Callable[[Stage, str], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One end. `worker` names one of `test_table_of_ends.policies`.

    The outcome is that of the first attempt; `attempts` says how many there must have been, of which the last one
    ended with `last`. `waiting` is a line (a regular expression) that `status` must have shown meanwhile. `left`: the
    job is left when it waits for its next attempt.
    """

    name: str
    description: Json
    verdict: str
    fault: str
    reason: str
    words: str
    worker: str = "ends"
    attempts: int = 1
    last: str = ""
    code: int | None = None
    waiting: str = ""
    left: bool = False
    provoke: Provoke | None = None
    evidence: dict[str, str] = field(default_factory=dict)  # path in the evidence → regular expression

    def over(self, status: JobStatus) -> bool:
        return status.ended or (self.left and status.status == "scheduled")

    @property
    def job_id(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name)


def job(*scripts: str, **more: Any) -> Json:
    steps = [{"run": script} for script in scripts or ("true",)]
    return {"name": "end", "image": BUSYBOX, "steps": steps, "resources": SMALL, **more}


def token(secret: str) -> Json:
    return job("true", secrets={"TOKEN": {"secret": secret, "key": "token"}})


# -- provocations


async def cancel(stage: Stage, job: str) -> None:
    await stage.until(job, runs)
    await stage.client.cancel(job, by="the test")


async def delete(stage: Stage, job: str) -> None:
    pod = await stage.until(job, runs)
    await stage.api.delete_pod(stage.pod(job), pod["metadata"]["uid"])


async def delete_by_force(stage: Stage, job: str) -> None:
    pod = await stage.until(job, runs)
    await stage.api.delete_pod(stage.pod(job), pod["metadata"]["uid"], grace_seconds=0)


async def evict(stage: Stage, job: str) -> None:
    await stage.until(job, runs)
    about = {"name": stage.pod(job), "namespace": stage.api.namespace}
    path = f"/api/v1/namespaces/{stage.api.namespace}/pods/{about['name']}/eviction"
    await stage.api.call("POST", path, body={"apiVersion": "policy/v1", "kind": "Eviction", "metadata": about})


async def create_secret(stage: Stage, job: str) -> None:
    await stage.waits(job, 'secret "late" not found')
    secret = {"metadata": {"name": "late"}, "stringData": {"token": "hunter2hunter2"}}
    await stage.api.call("POST", f"/api/v1/namespaces/{stage.api.namespace}/secrets", body=secret)


async def show_image(stage: Stage, job: str) -> None:
    await stage.waits(job, "not found")
    stage.registry.shown.add("late")


async def make_room(stage: Stage, job: str) -> None:
    async for status in stage.client.changes(job):
        if status.status == "scheduled" and status.attempts and status.attempts[-1].waits > 1:
            break
    path = f"/api/v1/namespaces/{stage.refusing}/resourcequotas/full"
    quota = await stage.api.call("GET", path)
    quota["spec"]["hard"]["pods"] = "10"
    await stage.api.call("PUT", path, body=quota)
    async with asyncio.timeout(60):
        while (await stage.api.call("GET", path))["status"]["hard"]["pods"] != "10":  # noqa: ASYNC110 - only Kubernetes knows
            await asyncio.sleep(0.2)
    stage.room.set()


async def heal_webhook(stage: Stage, job: str) -> None:
    await stage.waits(job, "failed calling webhook")
    await stage.room.wait()  # the quota is asked after the webhook
    path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{stage.refusing}"
    await stage.api.call("DELETE", path)


# -- provocations on nodes that exist in the API only: one after the other, so that each pod is on its own node


async def preempt(stage: Stage, job: str) -> None:
    await play_running(stage.api, stage.pod(job))
    pod = await stage.until(job, runs)
    rival = _rival(stage, pod["spec"]["nodeName"])
    await stage.api.call("POST", f"/api/v1/namespaces/{stage.api.namespace}/pods", body=rival)
    try:
        await play_stopped(stage.api, stage.pod(job))
    finally:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        path = f"/api/v1/namespaces/{stage.api.namespace}/pods/{rival['metadata']['name']}"
        await stage.api.call("DELETE", path, body=body)


async def shut_down(stage: Stage, job: str) -> None:
    await play_running(stage.api, stage.pod(job))
    await play_shutdown(stage.api, stage.pod(job))


async def taint(stage: Stage, job: str) -> None:
    await play_running(stage.api, stage.pod(job))
    pod = await stage.until(job, runs)
    await FakeNode(stage.api, stage.group, pod["spec"]["nodeName"]).evict_all()
    await play_stopped(stage.api, stage.pod(job))


async def lose_node(stage: Stage, job: str) -> None:
    """Nobody renews the node's lease: the pod is to be deleted; nobody confirms that either, until the node is gone."""
    await play_running(stage.api, stage.pod(job))
    pod = await stage.until(job, is_deleted)
    await FakeNode(stage.api, stage.group, pod["spec"]["nodeName"]).delete()


async def delete_node(stage: Stage, job: str) -> None:
    await play_running(stage.api, stage.pod(job))
    pod = await stage.until(job, runs)
    await FakeNode(stage.api, stage.group, pod["spec"]["nodeName"]).delete()


async def place(stage: Stage, row: Row, queue: str) -> None:
    """Submit the row's job onto a fake node of its own, provoke its end, and clean up."""
    assert row.provoke is not None
    async with AsyncExitStack() as stack:
        async with stage.placing:
            node = FakeNode(stage.api, stage.group, f"{stage.group}-{row.job_id}")
            await node.create()
            stack.push_async_callback(node.delete)
            await stage.client.submit(row.description, job_id=row.job_id, queue=queue)
            await stage.until(row.job_id, is_bound)
            await node.cordon()
        await row.provoke(stage, row.job_id)
        async for status in stage.client.changes(row.job_id):
            if row.over(status):
                return


def _rival(stage: Stage, node: str) -> Json:
    security = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "metadata": {"name": f"rival-{node}"[:63]},
        "spec": {
            "priorityClassName": stage.priority_class,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "rival",
                    "image": BUSYBOX,
                    "resources": {"requests": {"cpu": "600m"}},
                    "securityContext": security,
                }
            ],
        },
    }


FAKE: dict[str, Any] = {"worker": "fake", "left": True}
ON_FAKE_NODE = job(SLEEP, resources={"cpu": "600m", "memory": "64Mi", "ephemeral-storage": "64Mi"})
RETRIED: dict[str, Any] = {"attempts": 2, "last": "succeeded"}
GREEN = ("succeeded", "none", "ok", "all steps succeeded")
ROWS = [
    Row("success", job("echo note > note.txt", artifacts=NOTE), *GREEN, code=0),
    Row("exit code", job("true", "exit 3"), "failed", "job", "exit", "step step-2 ended with exit code 3", code=3,
        evidence={"containers.run.exit_code": "^3$", "node": "."}),
    Row("signal", job("kill -SEGV $$"), "failed", "job", "signal", "killed by SIGSEGV", code=139),
    Row("out of memory in run", job("tail -c 1073741824 /dev/zero"), "failed", "job", "oom",
        "run used more than its memory limit of 64Mi", code=137, evidence={"containers.run.reason": "^OOMKilled$"}),
    Row("out of memory in checkout", job(), "failed", "platform", "oom", "checkout used more than its memory limit",
        worker="starved", code=137, evidence={"containers.checkout.reason": "^OOMKilled$"}),
    Row("timeout", job(f"echo note > note.txt; {SLEEP}", timeout="3s", artifacts=NOTE), "failed", "job", "timeout",
        "longer than the timeout of 3 s", code=124),
    Row("missing artifact", job(artifacts=NOTE), "failed", "job", "missing-artifact", "no file matches note.txt",
        code=1),
    Row("canceled", job(SLEEP), "canceled", "user", "canceled", "stopped by the test", code=143, provoke=cancel),
    Row("deleted", job(FIRST_ONLY), "failed", "platform", "pod-deleted", "somebody deleted the pod",
        **RETRIED, provoke=delete, evidence={"deleted_at": "."}),
    Row("deleted by force", job(FIRST_ONLY), "failed", "platform", "pod-deleted", "somebody deleted the pod",
        **RETRIED, provoke=delete_by_force),
    Row("disk over its limit", job(f"dd if=/dev/zero of=big bs=1M count=200; {SLEEP}"), "failed", "job",
        "storage-limit", "(EmptyDir volume|[Cc]ontainer run|[Pp]od ephemeral).*exceed",
        evidence={"reason": "^Evicted$", "message": "exceed"}),
    Row("API eviction", job(FIRST_ONLY), "failed", "platform", "evicted", "evicted through the API",
        **RETRIED, provoke=evict, evidence={"disruption.reason": "^EvictionByEvictionAPI$"}),
    Row("image misspelt", job(), "failed", "job", "image", "localhost:.*/misspelt:1 cannot be pulled: .*not found",
        waiting="waiting: run: the image .*/misspelt:1 cannot be pulled: .*not found"),
    Row("registry away", job(image="registry.invalid/some/image:1"), "failed", "platform", "image",
        "no such host|lookup", attempts=2, last="failed",
        waiting="the image registry.invalid/some/image:1 cannot be pulled"),
    Row("pull back-off that recovers", job(), *GREEN, worker="patient", code=0, provoke=show_image,
        waiting="waiting: run: the image .*/late:1 cannot be pulled: .*not found"),
    Row("Secret missing", token("nothing"), "failed", "job", "config", 'secret "nothing" not found; create it',
        waiting='waiting: checkout: secret "nothing" not found'),
    Row("Secret that comes late", token("late"), *GREEN, worker="patient", code=0, provoke=create_secret,
        waiting='secret "late" not found'),
    Row("unschedulable", job(resources={**SMALL, "cpu": "8"}), "failed", "platform", "unschedulable",
        "no node takes the pod for 12 s: .*Insufficient cpu", worker="starved",
        waiting="waiting: no node takes the pod: .*Insufficient cpu", evidence={"unscheduled": "Insufficient cpu"}),
    Row("sandbox failure", job(), "failed", "platform", "sandbox", "has not made the pod's sandbox in 20 s",
        worker="sandbox", waiting="waiting: the node .* has not made the pod's sandbox: a volume .*the network or the"),
    Row("ConfigMap missing", job(), "failed", "platform", "config", 'configmap "no-such-map" not found',
        worker="patched", waiting='configmap "no-such-map" not found'),
    Row("quota used up", job(), "failed", "platform", "quota", FULL, worker="refusing", attempts=-1, last="succeeded",
        provoke=make_room, waiting=f"waiting for room: Kubernetes' quota is used up: {FULL}; next try at 20"),
    Row("admission policy", job(), "rejected", "job", "refused", "denied request: no job is called that",
        worker="refusing"),
    Row("webhook away", job(), *GREEN, worker="refusing", code=0, provoke=heal_webhook,
        waiting="waiting: Kubernetes cannot create the pod now: .*failed calling webhook"),
    Row("pod security", job(), "rejected", "job", "refused", 'violates PodSecurity "restricted', worker="privileged"),
    Row("preempted", ON_FAKE_NODE, "failed", "platform", "preempted", "a pod of higher priority took its place", **FAKE,
        provoke=preempt, waiting=r"try again after attempt 1 \(preempted: .*; next try at 20",
        evidence={"disruption.reason": "^PreemptionByScheduler$"}),
    Row("node shutdown", ON_FAKE_NODE, "failed", "platform", "node-shutdown", "imminent node shutdown", **FAKE,
        provoke=shut_down, evidence={"reason": "^Terminated$"}),
    Row("node tainted", ON_FAKE_NODE, "failed", "platform", "node-lost", "deleting due to NoExecute taint", **FAKE,
        provoke=taint, evidence={"disruption.reason": "^DeletionByTaintManager$"}),
    Row("node lost", ON_FAKE_NODE, "failed", "platform", "node-lost", "NoExecute taint|node no longer exists", **FAKE,
        provoke=lose_node, evidence={"disruption.reason": "^DeletionBy(TaintManager|PodGC)$", "node": "node-lost"}),
    Row("node deleted", ON_FAKE_NODE, "failed", "platform", "node-lost", "node no longer exists", **FAKE,
        provoke=delete_node, evidence={"disruption.reason": "^DeletionByPodGC$"}),
]  # fmt: skip


def described(row: Row, registry: Registry) -> Json:
    """The row's description, with the image whose name is known only when the registry runs."""
    image = {"pull back-off that recovers": "late", "image misspelt": "misspelt"}.get(row.name)
    return {**row.description, **({"image": registry.image(image)} if image else {})}

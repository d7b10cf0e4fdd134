"""Recording the statuses of real pods: a namespace, pods as dynapod renders them, a watch that keeps every event."""

import asyncio
import copy
import json
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakeredis
from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import ApiError, KubernetesApi
from adapters.object_store import ObjectStore
from gateway.identity import CachingTokenReviewer, KubernetesTokenReviewer
from gateway.masks import RedisMasks
from gateway.server import GatewayServer, create_app
from runner_spec import anatomy
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.policy import parse_policy
from runner_spec.render import Attempt, render
from worker.attempt import slim
from worker.cancellation import end_tasks

Json = dict[str, Any]
RECORDED = Path(__file__).parent / "recorded"
RUNNER_IMAGE = "localhost/dynapod-runner:test"
JOB_IMAGE = "localhost/dynapod-job:test"
BUSYBOX = "localhost/bb:latest"
PATIENCE_S = 180.0
NOISE = {"volumeMounts", "user", "allocatedResources", "lastProbeTime", "observedGeneration", "hostIPs", "podIPs"}
SMALL = {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "64Mi"}

POLICY: Json = {
    "runner_image": RUNNER_IMAGE,
    "secrets": {"*": ["*"]},
    "grace": 2,
    "after_budget": 1,
    "upload_budget": 5,
    "default_service_resources": SMALL,
    "runner_resources": {
        "requests": SMALL,
        "limits": {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "64Mi"},
    },
}


@dataclass(frozen=True)
class Seen:
    """A pod as one event of the watch gave it: `ADDED`, `MODIFIED`, `DELETED`; `at` in Unix seconds."""

    event: str
    at: float
    pod: Json

    def as_dict(self) -> Json:
        return {"event": self.event, "at": round(self.at, 3), "pod": _without_noise(slim(self.pod))}


def _without_noise(value: Any) -> Any:
    """Without what no decision reads, and every container repeats."""
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_noise(item) for key, item in value.items() if key not in NOISE}
    return value


@dataclass(frozen=True)
class Refusal:
    """What the API server answered instead of creating a pod."""

    error: ApiError

    def as_dict(self) -> Json:
        return {"refused": {"code": self.error.status, "reason": self.error.reason, "message": self.error.message}}


Kept = Seen | Refusal
Predicate = Callable[[Json], bool]


@dataclass
class Lab:
    """One namespace of a real cluster. Every scenario has pods of its own in it."""

    api: KubernetesApi
    namespace: str
    gateway_url: str
    events: dict[str, list[Seen]] = field(default_factory=dict)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def job(self, number: str, *scripts: str, policy: Json | None = None, **more: Any) -> Json:
        """The manifest of a job with these steps, rendered as for a real cluster; small enough for a shared node."""
        steps = [{"run": script} for script in scripts or ("true",)]
        description = {"image": BUSYBOX, "steps": steps, "resources": SMALL, "timeout": "5m", **more}
        admission = admit(
            parse_description(description), parse_policy({**POLICY, "gateway_url": self.gateway_url, **(policy or {})})
        )
        manifest = render(admission, Attempt(number, 1, "recorder"))
        del manifest["metadata"]["namespace"]  # the request's own counts
        return manifest

    async def create(self, manifest: Json) -> str:
        """Create the pod, and return its name."""
        await self.api.create_pod(manifest)
        return str(manifest["metadata"]["name"])

    async def refusal(self, manifest: Json, namespace: str, words: str) -> Refusal:
        """The answer with these words to the creation of a pod: what refuses it may take a moment to get known."""
        last: ApiError | None = None
        for _ in range(100):
            try:
                await self.api.call(
                    "POST", f"/api/v1/namespaces/{namespace}/pods", query={"dryRun": "All"}, body=manifest
                )
            except ApiError as error:
                last = error
                if words in error.message:
                    return Refusal(error)
            await asyncio.sleep(0.2)
        raise AssertionError(f"the pod was never refused with {words!r}, but with {last}")

    @asynccontextmanager
    async def another(self, suffix: str) -> AsyncIterator[str]:
        """A second namespace, for what would stand in the other scenarios' way."""
        name = f"{self.namespace}-{suffix}"
        await self.kubectl("create", "namespace", name)
        try:
            yield name
        finally:
            await self.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")

    async def until(self, name: str, wanted: Predicate, *, patience: float = PATIENCE_S) -> Seen:
        """The first event of the pod that fits, be it past or to come."""
        looked = 0
        try:
            async with asyncio.timeout(patience), self.news:
                while True:
                    known = self.events.get(name, [])
                    for seen in known[looked:]:
                        if wanted(seen.pod | {"event": seen.event}):
                            return seen
                    looked = len(known)
                    await self.news.wait()
        except TimeoutError:
            last = self.events.get(name, [])[-1:]
            raise AssertionError(f"{name} did not get there: {json.dumps(last and last[0].pod['status'])}") from None

    async def run(self, manifest: Json) -> list[Kept]:
        """Create the pod and keep its last status, once it has ended."""
        return [await self.until(await self.create(manifest), ended)]

    async def delete(self, name: str, *, grace: int | None = None) -> None:
        uid = self.events[name][-1].pod["metadata"]["uid"]
        await self.api.delete_pod(name, uid, grace_seconds=grace)

    async def apply(self, *objects: Json) -> None:
        await self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    async def kubectl(self, *words: str, stdin: str = "") -> str:
        return await shell(shlex.join(["kubectl", *words]), stdin)

    async def watch(self) -> None:
        """Until cancelled; begun again where the server ends it."""
        selector = f"{anatomy.LABEL_MANAGED_BY}={anatomy.MANAGED_BY}"
        _, version = await self.api.list_pods(selector)
        while True:
            async for event in self.api.watch_pods(selector, version, seconds=600):
                version = event.object["metadata"]["resourceVersion"]
                if event.kind == "BOOKMARK":
                    continue
                async with self.news:
                    name = event.object["metadata"]["name"]
                    self.events.setdefault(name, []).append(Seen(event.kind, time.time(), event.object))
                    self.news.notify_all()


async def shell(command: str, stdin: str = "") -> str:
    """Run a command; its output, or an exception with what it complained of."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_shell(command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate(stdin.encode())
    if process.returncode != 0:
        raise RuntimeError(f"{command}: {output.decode(errors='replace')}")
    return output.decode()


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    """A namespace that exists as long as the recording, and a gateway that its pods reach."""
    name = f"dynapod-record-{int(time.time()) % 100_000}"
    address = await shell("kubectl get nodes -o jsonpath='{.items[0].status.addresses[0].address}'")
    async with AsyncExitStack() as stack:
        api = await KubernetesApi.connect(name, retry_seconds=0)
        stack.push_async_callback(api.close)
        port = await stack.enter_async_context(_gateway(api))
        here = Lab(api, name, f"http://{address}:{port}")
        await shell(f"kubectl create namespace {name}")
        stack.push_async_callback(shell, f"kubectl delete namespace {name} --wait=false")
        await shell(f"until kubectl -n {name} get serviceaccount default; do sleep 0.1; done")
        watch = asyncio.create_task(here.watch())
        stack.push_async_callback(end_tasks, [watch])
        yield here


@asynccontextmanager
async def _gateway(api: KubernetesApi) -> AsyncIterator[int]:
    """A real gateway with a folder of its own; its port on all addresses of this machine."""
    reviewer = CachingTokenReviewer(KubernetesTokenReviewer(api, namespaces=[api.namespace]))
    with tempfile.TemporaryDirectory() as folder:
        store, masks = ObjectStore.from_url(folder), RedisMasks(fakeredis.FakeAsyncRedis())
        app = create_app(store=store, reviewer=reviewer, masks=masks, registry=CollectorRegistry())
        server = GatewayServer(app, host="0.0.0.0", drain_seconds=0.1)
        await server.start()
        try:
            yield server.port
        finally:
            await server.stop()


# -- pods


def changed(manifest: Json, container: str = "", **fields: Any) -> Json:
    """The manifest with fields of one container changed, or of the pod's spec when none is named."""
    manifest = copy.deepcopy(manifest)
    spec = manifest["spec"]
    found = [c for c in (*spec["initContainers"], *spec["containers"]) if c["name"] == container]
    (found[0] if container else spec).update(fields)
    return manifest


def service(name: str, script: str, **more: Any) -> Json:
    return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], **more}


# -- what to wait for


def ended(pod: Json) -> bool:
    return pod["status"].get("phase") in {"Succeeded", "Failed"}


def deleted(pod: Json) -> bool:
    return bool(pod["event"] == "DELETED")


def status_of(pod: Json, container: str) -> Json:
    status = pod["status"]
    found = [c for key in ("initContainerStatuses", "containerStatuses") for c in status.get(key, ())]
    return next((c for c in found if c["name"] == container), {})


def runs(container: str) -> Predicate:
    return lambda pod: "running" in status_of(pod, container).get("state", {})


def ends_of(container: str) -> Predicate:
    return lambda pod: "terminated" in status_of(pod, container).get("state", {})


def waits(container: str, *reasons: str) -> Predicate:
    return lambda pod: status_of(pod, container).get("state", {}).get("waiting", {}).get("reason") in reasons


def restarted(container: str, times: int = 1) -> Predicate:
    return lambda pod: status_of(pod, container).get("restartCount", 0) >= times


def has_condition(kind: str, status: str) -> Predicate:
    return lambda pod: any(c["type"] == kind and c["status"] == status for c in pod["status"].get("conditions", ()))


def write(name: str, how: str, kubernetes: str, kept: Sequence[Kept]) -> None:
    """Store a recording: how it was provoked, with which version, and what was seen."""
    data = {"how": how, "kubernetes": kubernetes, "seen": [one.as_dict() for one in kept]}
    (RECORDED / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n")

"""Nodes that exist in the API only, and the kubelet's part for pods that the real scheduler has bound to them.

For ends that a test must not provoke on a real node: everything but the kubelet is real (scheduler, node lifecycle and
taint controllers, pod garbage collector), and the kubelet's part is what `tests/runner_spec/recorded` shows of it.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from adapters.kubernetes_api import ApiError, KubernetesApi

Json = dict[str, Any]
KEY = "dynapod.dev/fake-node"
PATIENCE_S = 150.0
LOOK_S = 0.3


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeNode:
    """A node that seems ready, until the control plane notices that nobody renews its lease."""

    def __init__(self, api: KubernetesApi, group: str, name: str) -> None:
        self.api, self.group, self.name = api, group, name
        self.path = f"/api/v1/nodes/{name}"

    async def create(self) -> None:
        labels = {
            KEY: self.group,
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            # A zone of its own: where too many nodes of one are lost at once, nothing is evicted any more.
            "topology.kubernetes.io/zone": self.name,
        }
        room = {"cpu": "1", "memory": "4Gi", "pods": "10", "ephemeral-storage": "100Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()}
        node = {
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"taints": [{"key": KEY, "value": "fake", "effect": "NoSchedule"}]},
            "status": {"capacity": room, "allocatable": room, "conditions": [ready]},
        }
        await self.api.call("POST", "/api/v1/nodes", body=node)

    async def change(self, change: Callable[[Json], None]) -> None:
        """Read, change, write; again where somebody else was quicker."""
        while True:
            node = await self.api.call("GET", self.path)
            change(node)
            try:
                await self.api.call("PUT", self.path, body=node)
            except ApiError as error:
                if error.status != 409:
                    raise
            else:
                return

    async def cordon(self) -> None:
        """No further pod comes here."""
        await self.change(lambda node: node["spec"].update(unschedulable=True))

    async def evict_all(self) -> None:
        """A taint that no pod here tolerates."""
        taint = {"key": "dynapod.dev/unfit", "value": "x", "effect": "NoExecute"}
        await self.change(lambda node: node["spec"]["taints"].append(taint))

    async def delete(self) -> None:
        try:
            await self.api.call("DELETE", self.path)
        except ApiError as error:
            if not error.missing:
                raise


async def until_pod(api: KubernetesApi, name: str, wanted: Callable[[Json], bool]) -> Json:
    """The pod once it is as wanted.

    Raises:
        TimeoutError: it is not after `PATIENCE_S` seconds.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            pod = await api.get_pod(name)
            if pod is not None and wanted(pod):
                return pod
            await asyncio.sleep(LOOK_S)


def is_bound(pod: Json) -> bool:
    return bool(pod["spec"].get("nodeName"))


def is_deleted(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def runs(pod: Json) -> bool:
    statuses = pod["status"].get("containerStatuses", [])
    return any("running" in status["state"] for status in statuses)


async def play_running(api: KubernetesApi, name: str) -> None:
    """As the kubelet does it: checkout is done, the steps run."""
    await until_pod(api, name, is_bound)
    started = {"startedAt": now()}
    done = {"terminated": {"exitCode": 0, "reason": "Completed", **started, "finishedAt": now()}}
    await _write_status(
        api,
        name,
        phase="Running",
        startTime=now(),
        initContainerStatuses=[_container("checkout", done)],
        containerStatuses=[_container("run", {"running": started})],
    )


async def play_stopped(api: KubernetesApi, name: str) -> None:
    """As the kubelet ends a pod that is to be deleted: the shim was told to stop; then the pod is gone."""
    pod = await until_pod(api, name, is_deleted)
    report = '{"reason":"canceled","message":"canceled by SIGTERM","steps":[]}'
    await _write_status(api, name, phase="Failed", containerStatuses=[_container("run", _terminated(143, report))])
    await api.delete_pod(name, pod["metadata"]["uid"], grace_seconds=0)


async def play_shutdown(api: KubernetesApi, name: str) -> None:
    """As the kubelet ends its pods when its node shuts down (nodeshutdown_manager.go)."""
    message = "Pod was terminated in response to imminent node shutdown."
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "TerminationByKubelet",
        "message": message,
        "lastTransitionTime": now(),
    }
    await _write_status(
        api,
        name,
        phase="Failed",
        reason="Terminated",
        message=message,
        conditions=(disruption,),
        containerStatuses=[_container("run", _terminated(143, ""))],
    )


def _container(name: str, state: Json) -> Json:
    running = "running" in state
    return {"name": name, "image": "x", "imageID": "x", "ready": running, "restartCount": 0, "state": state}


def _terminated(code: int, message: str) -> Json:
    return {"terminated": {"exitCode": code, "reason": "Error", "message": message, "finishedAt": now()}}


async def _write_status(api: KubernetesApi, name: str, conditions: tuple[Json, ...] = (), **status: Any) -> None:
    """Beside the conditions that others wrote; again where somebody else was quicker."""
    path = f"/api/v1/namespaces/{api.namespace}/pods/{name}"
    while True:
        pod = await api.call("GET", path)
        pod["status"] |= {**status, "conditions": [*pod["status"].get("conditions", []), *conditions]}
        try:
            await api.call("PUT", f"{path}/status", body=pod)
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            return

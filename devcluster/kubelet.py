"""The node: schedules every pod to itself, runs a worker for each, answers for their logs."""

import asyncio
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from devcluster.clock import timestamp
from devcluster.container_log import ContainerLog
from devcluster.deletion import DeleteOptions
from devcluster.environment import Lookup
from devcluster.event_recorder import SCHEDULER, EventRecorder
from devcluster.node import ContainerRecord
from devcluster.pod_status import Terminated, Waiting
from devcluster.pod_worker import PodWorker
from devcluster.registry import Registry
from devcluster.resources import PODS, SERVICE_ACCOUNTS, Object, Resource
from devcluster.runtime import Runtime
from devcluster.store import Key, Store
from devcluster.tokens import TokenIssuer
from devcluster.volumes import PodVolumes, remove_tree

_LOG: Final = logging.getLogger(__name__)
DEFAULT_NODE_NAME: Final = "devcluster"
# How long stop() waits for the workers after everything has been killed; seconds.
_STOP_SECONDS: Final = 20.0


class LogUnavailableError(Exception):
    """There is no such log (yet); the message is the kubelet's, the answer a 400."""


class Kubelet:
    """Runs pods. An observer of the registry; everything here happens in one event loop."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        runtime: Runtime,
        tokens: TokenIssuer,
        folder: Path,
        *,
        name: str = DEFAULT_NODE_NAME,
        labels: Mapping[str, str] | None = None,
        retry_seconds: float = 1.0,
        back_off_seconds: float = 10.0,
    ) -> None:
        self.name = name
        self.runtime = runtime
        self.retry_seconds = retry_seconds
        self.back_off_seconds = back_off_seconds
        self.capacity = _capacity()
        self._labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": _arch()}
        self._labels |= labels or {}
        self._store = store
        self._registry = registry
        self._tokens = tokens
        self._folder = folder
        self._events = EventRecorder(store, name)
        self._workers: dict[str, PodWorker] = {}
        self._keys: dict[str, Key] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # What the registry tells.

    def created(self, pod: Object) -> None:
        """Schedule and start a pod."""
        if self._stopping:
            return
        uid = pod["metadata"]["uid"]
        self._keys[uid] = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        bound = pod["spec"].get("nodeName")
        if bound and bound != self.name:
            return  # some other node's, and there is none: Pending, as in a real cluster
        if any(self._labels.get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items()):
            self._unschedulable(pod)
            return
        folder = self._folder / uid
        lookup = self.lookup(pod["metadata"]["namespace"])
        volumes = PodVolumes(folder / "volumes", lookup, self._mint, node_name=self.name, capacity=self.capacity)
        self._task(self._run(pod, folder, volumes))

    async def _run(self, pod: Object, folder: Path, volumes: PodVolumes) -> None:
        uid = pod["metadata"]["uid"]
        current = self.pod(uid)
        if current is None or "deletionTimestamp" in current["metadata"]:
            return  # deleted before it was scheduled
        self._schedule(current)
        worker = self._workers[uid] = PodWorker(self, current, folder, volumes)
        try:
            await worker.run()
        finally:
            if self.pod(uid) is None:
                await self._forget(uid)

    def _schedule(self, pod: Object) -> None:
        """The scheduler's part, without a write of its own: the worker's first status write carries the node."""
        metadata = pod["metadata"]
        message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {self.name}"
        self._record(pod, "Scheduled", message, source=SCHEDULER)

    def _unschedulable(self, pod: Object) -> None:
        why = (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are "
            "available: 1 Preemption is not helpful for scheduling."
        )
        condition = {
            "type": "PodScheduled",
            "observedGeneration": pod["metadata"]["generation"],
            "status": "False",
            "lastProbeTime": None,
            "lastTransitionTime": timestamp(),
            "reason": "Unschedulable",
            "message": why,
        }
        self.write_status(pod["metadata"]["uid"], {**pod["status"], "conditions": [condition]})
        self._record(pod, "FailedScheduling", why, warning=True, source=SCHEDULER)

    def changed(self, pod: Object) -> None:
        """Follow a deletion that has begun or was hurried, an eviction, new labels."""
        worker = self._workers.get(pod["metadata"]["uid"])
        if worker is None:
            return
        metadata, status = pod["metadata"], pod.get("status", {})
        if "deletionTimestamp" in metadata:
            worker.stop(float(metadata["deletionGracePeriodSeconds"]))
            return
        if status != worker.written_status:
            worker.reconcile()
        worker.follow(pod)

    def removed(self, pod: Object) -> None:
        """Forget a pod: at once when it has ended, else as soon as its processes are stopped."""
        uid = pod["metadata"]["uid"]
        self._tokens.revoke(uid)
        worker = self._workers.get(uid)
        if worker is None:
            self._keys.pop(uid, None)
        elif worker.ended:
            self._task(self._forget(uid))
        else:
            worker.stop(0)  # deleted by force: the API has forgotten it, its processes still have to go

    def evict(self, uid: str, reason: str, message: str) -> bool:
        """End a pod as the kubelet itself does when its node runs short; whether there was something to end."""
        worker = self._workers.get(uid)
        return worker is not None and worker.evict(reason, message)

    # What a pod's worker asks.

    def pod(self, uid: str) -> Object | None:
        """The pod as the API has it now."""
        key = self._keys.get(uid)
        version = self._store[PODS].get(key) if key else None
        return version.obj if version is not None and version.obj["metadata"]["uid"] == uid else None

    def lookup(self, namespace: str) -> Lookup:
        """Objects of one namespace by resource and name."""

        def find(resource: Resource, name: str) -> Object | None:
            version = self._store[resource].get((namespace, name))
            return None if version is None else version.obj

        return find

    def write_status(self, uid: str, status: dict[str, Any]) -> None:
        """Store a pod's status."""
        pod = self.pod(uid)
        if pod is None:
            return
        if uid in self._workers and "nodeName" not in pod["spec"]:
            pod = {**pod, "spec": {**pod["spec"], "nodeName": self.name}}
        self._registry.replace(PODS, self._keys[uid], {**pod, "status": status}, by_kubelet=True)

    def finish_deletion(self, uid: str) -> None:
        """A pod that was being deleted has ended: take it out of the API."""
        if self.pod(uid) is not None:
            self._registry.delete(PODS, self._keys[uid], DeleteOptions(grace_seconds=0, uid=uid))

    def record(self, pod: Object, reason: str, message: str, *, container: str = "", warning: bool = False) -> None:
        """Write an Event."""
        self._record(pod, reason, message, container=container, warning=warning)

    def _record(self, pod: Object, reason: str, message: str, **details: Any) -> None:  # noqa: ANN401 - passed on
        if self.runtime.uses_files(pod):  # a load test's pods have nothing to tell, and thousands of them would
            self._events.record(pod, reason, message, **details)

    def _mint(self, pod: Object, audience: str, seconds: int) -> str:
        account = (pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"])
        version = self._store[SERVICE_ACCOUNTS].get(account)
        uid = "" if version is None else version.obj["metadata"]["uid"]
        return self._tokens.mint(pod, uid, audience, seconds, node=self.name)

    # Logs.

    def log(self, pod: Object, container: str, *, previous: bool) -> ContainerLog:
        """The log of a container of a scheduled pod.

        Raises:
            LogUnavailableError: in the kubelet's words.
        """
        name = pod["metadata"]["name"]
        worker = self._workers.get(pod["metadata"]["uid"])
        record = next((r for r in worker.records if r.view.name == container), None) if worker else None
        if record is None:
            raise LogUnavailableError(f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating')
        log = _select_log(record, name, previous=previous)
        if log is None:
            raise LogUnavailableError(f'container "{container}" in pod "{name}" is not available')
        return log

    # Lifetime.

    async def stop(self) -> None:
        """Kill all containers, wait for them, remove their folders."""
        self._stopping = True
        for worker in self._workers.values():
            worker.kill()
        await self.runtime.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
            if stuck:
                _LOG.error("%d pod workers did not end within %s s", len(stuck), _STOP_SECONDS)
        await self.runtime.close()  # what a worker was just starting when it was canceled
        await asyncio.to_thread(remove_tree, self._folder)

    def _task(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a task of the kubelet failed", exc_info=error)

    async def _forget(self, uid: str) -> None:
        worker = self._workers.pop(uid, None)
        self._keys.pop(uid, None)
        if worker is not None and worker.folder.exists():
            await asyncio.to_thread(remove_tree, worker.folder)


def _select_log(record: ContainerRecord, pod_name: str, *, previous: bool) -> ContainerLog | None:
    """As validateContainerLogStatus (pkg/kubelet/kubelet_pods.go)."""
    view, name = record.view, record.view.name
    if previous:
        back = 1 if isinstance(view.state, Waiting) else 2  # waiting for its next start: the last one is the previous
        if view.last is None or len(record.logs) < back:
            raise LogUnavailableError(f'previous terminated container "{name}" in pod "{pod_name}" not found')
        return record.logs[-back]
    if isinstance(view.state, Waiting) and view.last is None:
        why = {
            "ErrImagePull": "image can't be pulled",
            "ImagePullBackOff": "trying and failing to pull image",
        }.get(view.state.reason, view.state.reason)
        raise LogUnavailableError(f'container "{name}" in pod "{pod_name}" is waiting to start: {why}')
    if not record.logs and isinstance(view.state, Terminated):
        raise LogUnavailableError(f'container "{name}" in pod "{pod_name}" is terminated')
    return record.logs[-1] if record.logs else None


def _capacity() -> dict[str, int]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": os.cpu_count() or 1,
        "memory": pages,
        "ephemeral-storage": shutil.disk_usage("/").total,
    }


def _arch() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)

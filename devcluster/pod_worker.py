"""One pod on this node, from its start to its end.

The flow, in order: volumes; init containers, one after the other (a sidecar only has to be started); the main
containers; when they have ended, the sidecars are told to stop, in reverse order; last, the pod's final status. It is
cut short by a deletion, the pod's deadline or an eviction: then the containers are
stopped within the grace period, main ones first. As pkg/kubelet/kuberuntime (termination order, grace) does.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from devcluster.clock import timestamp
from devcluster.environment import resolve_environment
from devcluster.node import ContainerRecord, Node
from devcluster.pod_fields import Role, containers_by_role
from devcluster.pod_status import (
    FAILED,
    PodFacts,
    Running,
    Terminated,
    Waiting,
    located,
    pod_status,
)
from devcluster.probe import wait_started
from devcluster.resources import Object
from devcluster.runtime import Container, ContainerExit, ContainerRequest, StartError, StartRefusedError
from devcluster.volumes import MountError, PodVolumes

_LOG: Final = logging.getLogger(__name__)
# kuberuntime's minimumGracePeriodInSeconds: every container gets so long between SIGTERM and SIGKILL, even a sidecar
# whose pod's grace period was used up by others.
MIN_GRACE_SECONDS: Final = 2.0
# Changes that come together are written together. Real containers take longer to start than the first wait; sleeping
# ones change several times at once, and under load the event loop needs more than 5 ms to go through them.
_COALESCE_SECONDS: Final = 0.005
_COALESCE_LOAD_SECONDS: Final = 0.05
# A status that somebody else wrote stays up to this long; the kubelet's status manager looks every 10 s.
_RECONCILE_SECONDS: Final = 5.0
_START_ERROR_CODE: Final = 128
_IMAGE_BACK_OFF_SECONDS: Final = 1.0
_MAX_BACK_OFF_SECONDS: Final = 300.0
_STEADY_SECONDS: Final = 600.0  # a sidecar that ran so long starts its back-off anew


class PodWorker:
    """Runs one pod. `run` is its whole life; the other methods may be called at any time."""

    def __init__(self, node: Node, pod: Object, folder: Path, volumes: PodVolumes) -> None:
        self._node = node
        self._pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.folder = folder
        self._volumes = volumes
        self._uses_files = node.runtime.uses_files(pod)
        waiting = "PodInitializing" if pod["spec"].get("initContainers") else "ContainerCreating"
        self.records = [ContainerRecord(role, spec, waiting) for role, spec in containers_by_role(pod["spec"])]
        self._started_at = time.time()
        self._sandbox = False
        self._ended = False
        self._end: tuple[str | None, str, str] = (None, "", "")  # phase, reason, message that override the computed
        self._kill_at = float("inf")  # loop time
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._supervisors: list[asyncio.Task[None]] = []
        self._sync_timer: asyncio.TimerHandle | None = None
        self._rotation: asyncio.TimerHandle | None = None
        self._reconciliation: asyncio.TimerHandle | None = None
        self._disruption: dict[str, Any] | None = None  # the condition that says why the node ends the pod
        self.written_status: dict[str, Any] = {}

    async def run(self) -> None:
        """Run the pod to its end and report it."""
        try:
            await self._until_stopped()
            await self._terminate()
        except Exception as error:  # noqa: BLE001 - a pod must end visibly, whatever goes wrong here
            _LOG.exception("the worker of pod %s failed", self._name)
            self._end = (FAILED, "KubeletError", f"{type(error).__name__}: {error}")
            self.kill()
        finally:
            await self._cancel_supervisors()
            if self._rotation is not None:
                self._rotation.cancel()
        self._ended = True
        self._sync()
        pod = self._node.pod(self.uid)
        if pod is not None and "deletionTimestamp" in pod["metadata"]:
            self._node.finish_deletion(self.uid)

    def stop(self, grace: float) -> None:
        """End the pod within so many seconds; a later call can only hurry it."""
        loop = asyncio.get_running_loop()
        self._kill_at = min(self._kill_at, loop.time() + grace)
        self._stop.set()
        self._hurry.set()

    def evict(self, reason: str, message: str) -> bool:
        """End the pod as the node's own decision (eviction); False when it is ending already."""
        if self._ended or self._stop.is_set():
            return False
        self._end = (FAILED, reason, message)
        self._disruption = _disrupted(message)  # with the time at which it was decided, before any container ends
        self.stop(self._grace)
        return True

    def reconcile(self) -> None:
        """Somebody else wrote the pod's status: write our own again, after a while, as the kubelet does."""
        if not self._ended and self._reconciliation is None:
            self._reconciliation = asyncio.get_running_loop().call_later(_RECONCILE_SECONDS, self._sync)

    def kill(self) -> None:
        """SIGKILL everything, now."""
        for record in self.records:
            if record.container is not None:
                record.container.signal(signal.SIGKILL)

    def follow(self, pod: Object) -> None:
        """The pod's labels or annotations changed: files that show them follow."""
        self._pod = pod
        if self._uses_files and self._sandbox and not self._ended:
            try:
                self._volumes.refresh(pod)
            except (MountError, OSError) as error:
                self._node.record(pod, "FailedMount", str(error), warning=True)

    @property
    def ended(self) -> bool:
        """Whether the pod has reached its final status."""
        return self._ended

    @property
    def _name(self) -> str:
        return f"{self._pod['metadata']['namespace']}/{self._pod['metadata']['name']}"

    @property
    def _grace(self) -> float:
        return float(self._pod["spec"]["terminationGracePeriodSeconds"])

    async def _until_stopped(self) -> None:
        """The pod's own flow, until it is over or cut short."""
        flow = asyncio.create_task(self._flow())
        stop = asyncio.create_task(self._stop.wait())
        deadline = self._pod["spec"].get("activeDeadlineSeconds")
        try:
            done, _ = await asyncio.wait({flow, stop}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self._end = (
                    FAILED,
                    "DeadlineExceeded",
                    "Pod was active on the node longer than the specified deadline",
                )
                self._node.record(self._pod, "DeadlineExceeded", self._end[2])
            elif flow in done:
                flow.result()
        finally:
            for task in (flow, stop):
                task.cancel()
            await asyncio.wait({flow, stop})
        if not self._stop.is_set():
            self._kill_at = min(self._kill_at, asyncio.get_running_loop().time() + self._grace)

    async def _flow(self) -> None:
        self._sync_soon()
        if self._uses_files:
            await self._set_up_volumes()
        self._sandbox = True
        for record in self.records:
            if record.view.role is Role.INIT:
                await self._start(record)
                if not await self._succeeded(record):
                    return
            elif record.view.role is Role.SIDECAR:
                started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._supervisors.append(asyncio.create_task(self._supervise(record, started)))
                await started
        mains = [record for record in self.records if record.view.role is Role.MAIN]
        for record in mains:
            await self._start(record)
        for record in mains:
            await self._exit_of(record)

    async def _set_up_volumes(self) -> None:
        while True:
            try:
                self._volumes.set_up(self._pod)
                break
            except MountError as error:
                self._node.record(self._pod, "FailedMount", str(error), warning=True)
                await asyncio.sleep(self._node.retry_seconds)
        self._schedule_rotation()

    def _schedule_rotation(self) -> None:
        seconds = self._volumes.rotation_seconds(self._pod)
        if seconds is not None:
            self._rotation = asyncio.get_running_loop().call_later(seconds, self._rotate)

    def _rotate(self) -> None:
        self.follow(self._pod)
        self._schedule_rotation()

    async def _exit_of(self, record: ContainerRecord) -> None:
        """Wait for a container's end, and see it in the record: a future that is done already waits for nobody."""
        if record.container is not None:
            await asyncio.shield(record.container.exited)
            self._exited(record, record.container, record.container.exited)

    async def _succeeded(self, record: ContainerRecord) -> bool:
        await self._exit_of(record)
        return record.container is not None and record.container.exited.result().code == 0

    async def _start(self, record: ContainerRecord) -> None:
        """Start a container, however long it has to wait for what it needs; a command that fails to start ends it."""
        record.container = None
        while True:
            try:
                container = await self._node.runtime.start(self._request(record))
            except StartRefusedError as error:
                await self._refused(record, error)
            except StartError as error:
                message = (
                    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc "
                    f"create failed: unable to start container process: error during container init: {error}"
                )
                self._event(record, "Failed", f"Error: {message}", warning=True)
                ended = Terminated(
                    _START_ERROR_CODE,
                    "StartError",
                    0.0,
                    time.time(),
                    message,
                    f"process://{self.uid}-{record.view.name}",
                )
                record.view = replace(record.view, state=ended, started=False, container_id=ended.container_id)
                self._sync_soon()
                return
            else:
                break
        record.container = container
        record.logs.append(container.log)
        # A sidecar with a startup probe is started once that succeeds.
        started = "startupProbe" not in record.spec or not self._uses_files
        state = Running(container.started_at)
        record.view = replace(record.view, state=state, started=started, container_id=container.identity)
        container.exited.add_done_callback(partial(self._exited, record, container))
        self._event(record, "Pulled", f'Container image "{record.spec["image"]}" already present on machine')
        self._event(record, "Created", f"Created container: {record.view.name}")
        self._event(record, "Started", f"Started container {record.view.name}")
        self._sync_soon()

    async def _refused(self, record: ContainerRecord, error: StartRefusedError) -> None:
        record.view = replace(record.view, state=Waiting(error.reason, error.message))
        self._event(record, "Failed", f"Error: {error.message}", warning=True)
        self._sync_soon()
        if not error.permanent:
            await asyncio.sleep(self._node.retry_seconds)
            return
        if error.reason == "ErrImagePull":
            await asyncio.sleep(_IMAGE_BACK_OFF_SECONDS)
            message = f'Back-off pulling image "{record.spec["image"]}": ErrImagePull: {error.message}'
            record.view = replace(record.view, state=Waiting("ImagePullBackOff", message))
            self._event(record, "BackOff", f'Back-off pulling image "{record.spec["image"]}"')
            self._sync_soon()
        await asyncio.get_running_loop().create_future()  # nothing here will ever change it: until the pod is stopped

    def _request(self, record: ContainerRecord) -> ContainerRequest:
        pod, spec = self._pod, record.spec
        folder = self.folder / "containers" / record.view.name
        if not self._uses_files:
            return ContainerRequest(pod, record.view.role, spec, {}, (), folder, record.view.restarts)
        lookup = self._node.lookup(pod["metadata"]["namespace"])
        environment = resolve_environment(pod, spec, lookup, node_name=self._node.name, capacity=self._node.capacity)
        mounts = self._volumes.mounts(pod, spec)
        return ContainerRequest(pod, record.view.role, spec, environment, mounts, folder, record.view.restarts)

    def _exited(self, record: ContainerRecord, container: Container, ended: "asyncio.Future[ContainerExit]") -> None:
        if record.container is not container or not isinstance(record.view.state, Running):
            return
        exit_ = ended.result()
        reason = "OOMKilled" if exit_.oom else "Error" if exit_.code else "Completed"
        state = Terminated(exit_.code, reason, exit_.started_at, exit_.finished_at, exit_.message, container.identity)
        record.view = replace(record.view, state=state, started=False)
        self._sync_soon()

    async def _supervise(self, record: ContainerRecord, started: "asyncio.Future[None]") -> None:
        """Keep a sidecar running; its back-off doubles from crash to crash, the first restart being immediate."""
        delay = 0.0
        while True:
            await self._start(record)
            if record.container is not None:
                if await self._became_started(record) and not started.done():
                    started.set_result(None)
                await self._exit_of(record)
                exit_ = record.container.exited.result()
                if exit_.finished_at - exit_.started_at > _STEADY_SECONDS:
                    delay = 0.0
            state = record.view.state
            assert isinstance(state, Terminated)
            if delay:
                seconds = f"{delay:g}s" if delay < 60 else f"{delay // 60:g}m{delay % 60:g}s"  # noqa: PLR2004 - as Go prints durations
                message = (
                    f"back-off {seconds} restarting failed container={record.view.name} "
                    f"pod={self._pod['metadata']['name']}_{self._pod['metadata']['namespace']}({self.uid})"
                )
                record.view = replace(record.view, state=Waiting("CrashLoopBackOff", message), last=state)
                self._event(record, "BackOff", f"Back-off restarting failed container {record.view.name}", warning=True)
                self._sync_soon()
                await asyncio.sleep(delay)
            delay = min(max(delay * 2, self._node.back_off_seconds), _MAX_BACK_OFF_SECONDS)
            record.view = replace(record.view, last=state, restarts=record.view.restarts + 1)

    async def _became_started(self, record: ContainerRecord) -> bool:
        """Wait for the startup probe; a container that fails it is stopped, to be started again."""
        container = record.container
        assert container is not None
        if record.view.started or not record.live:
            return record.view.started
        probe = asyncio.create_task(wait_started(record.spec, partial(self._execute, record)))
        try:
            either: set[asyncio.Future[Any]] = {probe, container.exited}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if container.exited.done():
                return False
            if probe.result():
                record.view = replace(record.view, started=True)
                self._sync_soon()
                return True
        finally:
            probe.cancel()
        message = f"Container {record.view.name} failed startup probe, will be restarted"
        self._event(record, "Killing", message)
        container.signal(signal.SIGTERM)
        await asyncio.wait({container.exited}, timeout=max(self._grace, MIN_GRACE_SECONDS))
        container.signal(signal.SIGKILL)
        return False

    async def _execute(self, record: ContainerRecord, command: list[str], timeout: float) -> int | None:  # noqa: ASYNC109 - the probe's own
        spec = {**record.spec, "command": command, "args": [], "terminationMessagePolicy": "File"}
        try:
            request = self._request(record)
            container = await self._node.runtime.start(
                replace(request, container=spec, folder=request.folder / "probe", attempt=0)
            )
        except (StartError, StartRefusedError):
            return _START_ERROR_CODE
        done, _ = await asyncio.wait({container.exited}, timeout=timeout)
        if done:
            return container.exited.result().code
        container.signal(signal.SIGKILL)
        return None

    async def _terminate(self) -> None:
        """Stop what runs: main and init containers together, then the sidecars one by one, the last started first."""
        await self._cancel_supervisors()
        live = [record for record in self.records if record.live]
        await self._stop_all(record for record in live if record.view.role is not Role.SIDECAR)
        for record in reversed(live):
            if record.view.role is Role.SIDECAR:
                await self._stop_all([record])

    async def _cancel_supervisors(self) -> None:
        for task in self._supervisors:
            task.cancel()
        if self._supervisors:
            await asyncio.wait(self._supervisors)
            for task in self._supervisors:
                if not task.cancelled() and (error := task.exception()) is not None:
                    _LOG.error("the supervisor of a sidecar of pod %s failed", self._name, exc_info=error)
        self._supervisors.clear()

    async def _stop_all(self, records: Iterable[ContainerRecord]) -> None:
        loop = asyncio.get_running_loop()
        containers = [record.container for record in records if record.container is not None and record.live]
        for record in self.records:
            if record.container in containers:
                self._event(record, "Killing", f"Stopping container {record.view.name}")
        for container in containers:
            container.signal(signal.SIGTERM)
        earliest = loop.time() + MIN_GRACE_SECONDS
        pending: set[asyncio.Future[ContainerExit]] = {container.exited for container in containers}
        while pending:
            left = max(self._kill_at, earliest) - loop.time()
            if left <= 0:
                for container in containers:
                    container.signal(signal.SIGKILL)
                await asyncio.wait(pending)
                return
            self._hurry.clear()
            hurry = asyncio.create_task(self._hurry.wait())
            try:
                either: set[asyncio.Future[Any]] = {*pending, hurry}
                await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hurry.cancel()
            pending = {future for future in pending if not future.done()}

    def _event(self, record: ContainerRecord, reason: str, message: str, *, warning: bool = False) -> None:
        self._node.record(self._pod, reason, message, container=record.field_path, warning=warning)

    def _sync_soon(self) -> None:
        if self._sync_timer is None and not self._ended:
            seconds = _COALESCE_SECONDS if self._uses_files else _COALESCE_LOAD_SECONDS
            self._sync_timer = asyncio.get_running_loop().call_later(seconds, self._sync)

    def _sync(self) -> None:
        """Write the status, if it says something new."""
        for timer in (self._sync_timer, self._reconciliation):
            if timer is not None:
                timer.cancel()
        self._sync_timer = self._reconciliation = None
        pod = self._node.pod(self.uid)
        if pod is None:
            return
        old = pod.get("status", {})
        phase, reason, message = self._end
        views = tuple(record.view for record in self.records)
        facts = PodFacts(
            containers=located(views) if self._ended else views,
            qos_class=old.get("qosClass", "BestEffort"),
            started_at=self._started_at,
            generation=pod["metadata"].get("generation", 1),
            sandbox=self._sandbox,
            ended=self._ended,
            phase=phase,
            reason=reason,
            message=message,
        )
        status = pod_status(facts, old, time.time())
        if self._disruption and self._ended:
            status["conditions"].append(self._disruption)
        self.written_status = status
        if status != old:
            self._node.write_status(self.uid, status)


def _disrupted(message: str) -> dict[str, Any]:
    """The condition by which a real kubelet marks an eviction."""
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(),
        "reason": "TerminationByKubelet",
        "message": message,
    }

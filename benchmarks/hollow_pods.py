"""Pods without containers: what the API server would say of each, and every change of it in order. No I/O, no clock.

A pod's JSON is put together from parts that were written once, so that a change of status costs microseconds. Fields
that the API server and the kubelet fill in are filled in here, too: who reads the pods has as much to read.
"""

import json
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from devcluster.clock import timestamp
from devcluster.pod_defaults import apply_defaults, qos_class

# Changes kept for watchers; who is further behind is told that its version has expired (410).
HISTORY: Final = 100_000
NODE: Final = "hollow"
_ADDRESS: Final = "192.0.2.1"  # of nobody: RFC 5737
# As long as a real one; nobody asks this cluster for an image.
_IMAGE_ID: Final = "sha256:" + 64 * "0"
_SIGTERM_EXIT: Final = 143

Json = dict[str, Any]


class Phase(StrEnum):
    """Where a pod stands; written as Kubernetes writes it."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class HollowPod:
    """A pod at one version. `head` and `spec` are JSON objects without their closing braces; `status` is a whole one.

    `labels` is the part that selectors look at. `times` are unix seconds: created, running since.
    """

    name: str
    uid: str
    job: str
    labels: Json
    head: bytes
    spec: bytes
    containers: tuple[tuple[str, Json], ...]  # "init", "sidecar" or "main", and what its status says in every state
    qos: str
    created: float
    version: int = 0
    phase: Phase = Phase.PENDING
    running_since: float = 0.0
    is_bound: bool = False
    is_ready: bool = False
    deletion: bytes = b""
    status: bytes = b"{}"

    def json(self) -> bytes:
        """As the API server sends it."""
        node = b',"nodeName":"hollow"}' if self.is_bound else b"}"
        parts = (b'{"kind":"Pod","apiVersion":"v1","metadata":', self.metadata(), b',"spec":', self.spec, node)
        return b"".join((*parts, b',"status":', self.status, b"}"))

    def metadata(self) -> bytes:
        """That part of it."""
        return b'%s,"resourceVersion":"%d"%s}' % (self.head, self.version, self.deletion)


@dataclass(frozen=True, slots=True)
class Change:
    """An event of a watch."""

    kind: str
    pod: HollowPod

    def line(self) -> bytes:
        """As a watch sends it."""
        return b'{"type":"%s","object":%s}\n' % (self.kind.encode(), self.pod.json())


class HollowPods:
    """All pods, and their changes; each change has the next version. `changed` is called after each."""

    def __init__(self, changed: Callable[[], None], history: int = HISTORY) -> None:
        self._changed = changed
        self._history = history
        self._changes: list[Change] = []
        self._first = 2  # the version of the oldest change kept
        self._names: list[str] = []
        self.pods: dict[str, HollowPod] = {}
        self.version = 1  # 0 would mean: whichever

    def create(self, pod: HollowPod) -> HollowPod:
        """Take a new pod in; its name must be free."""
        insort(self._names, pod.name)
        return self._publish("ADDED", pod)

    def bind(self, name: str, now: float) -> None:
        """The scheduler gives it a node."""
        if (pod := self.pods.get(name)) is not None:
            self._publish("MODIFIED", _with_status(replace(pod, is_bound=True), now))

    def run(self, name: str, now: float) -> None:
        """All its containers run."""
        pod = self.pods.get(name)
        if pod is not None and pod.phase is Phase.PENDING:
            running = replace(pod, is_bound=True, phase=Phase.RUNNING, running_since=now, is_ready=True)
            self._publish("MODIFIED", _with_status(running, now))

    def end(self, name: str, now: float) -> bool:
        """Its containers end well; False when they do not run."""
        pod = self.pods.get(name)
        if pod is None or pod.phase is not Phase.RUNNING:
            return False
        self._publish("MODIFIED", _with_status(replace(pod, phase=Phase.SUCCEEDED, is_ready=False), now))
        return True

    def flip(self, name: str, now: float) -> bool:
        """A change of status that ends nothing: its readiness; False when it does not run."""
        pod = self.pods.get(name)
        if pod is None or pod.phase is not Phase.RUNNING:
            return False
        self._publish("MODIFIED", _with_status(replace(pod, is_ready=not pod.is_ready), now))
        return True

    def delete(self, name: str, grace_seconds: int, now: float) -> HollowPod:
        """It goes; with grace, a running one is seen to end first, by SIGTERM."""
        pod = self.pods[name]
        deletion = b',"deletionTimestamp":"%s","deletionGracePeriodSeconds":%d'
        pod = replace(pod, deletion=deletion % (timestamp(now + grace_seconds).encode(), grace_seconds))
        if grace_seconds and pod.phase is Phase.RUNNING:
            pod = self._publish("MODIFIED", pod)
            pod = self._publish("MODIFIED", _with_status(replace(pod, phase=Phase.FAILED, is_ready=False), now))
        gone = self._publish("DELETED", pod)
        del self.pods[name]
        del self._names[bisect_right(self._names, name) - 1]
        return gone

    def has(self, version: int) -> bool:
        """Whether all changes after this version are kept."""
        return self._first - 1 <= version <= self.version

    def since(self, version: int, limit: int) -> Sequence[Change]:
        """At most so many changes after a version that `has`."""
        begin = version + 1 - self._first
        return self._changes[begin : begin + limit]

    def after(self, name: str) -> Iterator[HollowPod]:
        """The pods whose names come after this one, in their order."""
        return (self.pods[found] for found in self._names[bisect_right(self._names, name) :])

    def _publish(self, kind: str, pod: HollowPod) -> HollowPod:
        self.version += 1
        pod = self.pods[pod.name] = replace(pod, version=self.version)
        self._changes.append(Change(kind, pod))
        if len(self._changes) > 2 * self._history:
            del self._changes[: self._history]
            self._first += self._history
        self._changed()
        return pod


def accept(manifest: Json, uid: str, job_annotation: str, now: float) -> HollowPod:
    """A pod as the API server stores it, from the manifest that was sent; the manifest is changed."""
    apply_defaults(manifest)
    sent, spec = manifest["metadata"], manifest["spec"]
    labels, annotations = sent.get("labels") or {}, sent.get("annotations") or {}
    metadata = {
        **sent,
        "uid": uid,
        "generation": 1,
        "creationTimestamp": timestamp(now),
        "managedFields": _managed_fields(sent, spec, now),
    }
    pod = HollowPod(
        name=sent["name"],
        uid=uid,
        job=annotations.get(job_annotation, ""),
        labels={"metadata": {"labels": labels}},
        head=_open(metadata),
        spec=_open(spec),
        containers=tuple(_containers(spec)),
        qos=qos_class(spec),
        created=now,
    )
    return _with_status(pod, now)


def _containers(spec: Json) -> Iterator[tuple[str, Json]]:
    for place in ("initContainers", "containers"):
        for container in spec.get(place, ()):
            kind = "main" if place == "containers" else "init"
            if container.get("restartPolicy") == "Always":
                kind = "sidecar"
            known = {"name": container["name"], "lastState": {}, "restartCount": 0, "image": container["image"]}
            yield kind, {**known, "resources": container["resources"]}


def _managed_fields(metadata: Json, spec: Json, now: float) -> list[Json]:
    """Who has set what, as every pod of a real API server says it: a fifth of its size."""

    def tree(value: object) -> Json:
        return {f"f:{key}": tree(part) for key, part in value.items()} if isinstance(value, dict) else {}

    def listed(container: Json) -> Json:
        return {".": {}, **tree(container)}

    parts = {key: value for key, value in spec.items() if not isinstance(value, list)}
    fields = tree({"metadata": {key: metadata.get(key) or {} for key in ("annotations", "labels")}, "spec": parts})
    for place in ("initContainers", "containers"):
        names = {json.dumps({"name": c["name"]}): listed(c) for c in spec.get(place, ())}
        fields["f:spec"][f"f:{place}"] = {f"k:{name}": found for name, found in names.items()}
    entry = {"manager": "dynapod", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}
    return [{**entry, "time": timestamp(now), "fieldsV1": fields}]


def _with_status(pod: HollowPod, now: float) -> HollowPod:
    return replace(pod, status=json.dumps(_status(pod, now), separators=(",", ":")).encode())


def _status(pod: HollowPod, now: float) -> Json:
    """As a kubelet 1.34 writes it."""
    status: Json = {"phase": pod.phase.value, "qosClass": pod.qos}
    if not pod.is_bound:
        return status
    at = timestamp(now)
    if pod.phase is Phase.PENDING:
        status["conditions"] = [_condition("PodScheduled", at, holds=True)]
        return status
    ready = pod.is_ready
    since = timestamp(pod.running_since)
    status["conditions"] = [
        _condition("PodReadyToStartContainers", since, holds=pod.phase is Phase.RUNNING),
        _condition("Initialized", since, holds=True),
        _condition("Ready", at, holds=ready),
        _condition("ContainersReady", at, holds=ready),
        _condition("PodScheduled", since, holds=True),
    ]
    status |= {"hostIP": _ADDRESS, "hostIPs": [{"ip": _ADDRESS}], "podIP": _ADDRESS, "podIPs": [{"ip": _ADDRESS}]}
    status["startTime"] = since
    lists: dict[bool, list[Json]] = {True: [], False: []}
    for kind, known in pod.containers:
        lists[kind == "main"].append(_container_status(pod, kind, known, at))
    status["initContainerStatuses"], status["containerStatuses"] = lists[False], lists[True]
    return status


def _condition(kind: str, at: str, *, holds: bool) -> Json:
    status = "True" if holds else "False"
    return {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": at, "observedGeneration": 1}


def _container_status(pod: HollowPod, kind: str, known: Json, at: str) -> Json:
    since = timestamp(pod.running_since)
    container_id = f"hollow://{pod.uid.replace('-', '')}{known['name']}"
    running = pod.phase is Phase.RUNNING and kind != "init"
    state: Json = {"running": {"startedAt": since}}
    if not running:
        code = _SIGTERM_EXIT if pod.phase is Phase.FAILED and kind != "init" else 0
        reason, finished = ("Error", at) if code else ("Completed", since if kind == "init" else at)
        end = {"exitCode": code, "reason": reason, "startedAt": since, "finishedAt": finished}
        state = {"terminated": {**end, "containerID": container_id}}
    facts = {"ready": running or kind == "init", "started": running, "imageID": _IMAGE_ID, "containerID": container_id}
    return {**known, "state": state, **facts}


def _open(value: Json) -> bytes:
    """The JSON of an object, to which more can be appended before it is closed."""
    return json.dumps(value, separators=(",", ":")).encode()[:-1]

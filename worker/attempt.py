"""One attempt as this worker knows it: from the claim to the deletion of its pod."""

import asyncio  # noqa: TC003 - a field's type
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from runner_spec import anatomy
from runner_spec.description import JobDescription
from runner_spec.outcome import Observation, Outcome
from runner_spec.pull_words import keep_words
from worker.log_streams import LogStreams
from worker.queue import Claim

Pod = dict[str, Any]

# What `runner_spec.pod_status` reads of a container's specification.
_CONTAINER_FIELDS: Final = ("name", "image", "restartPolicy", "resources", "startupProbe")


class Phase(StrEnum):
    """Where the attempt stands in this worker's hands."""

    LAUNCHING = "launching"  # no pod is known yet
    FOLLOWING = "following"  # the pod exists
    FINISHING = "finishing"  # its end is known and being recorded
    DELETING = "deleting"  # recorded; the pod's deletion was asked for


@dataclass(slots=True)
class Attempt:
    """The claim, what was made of it, and the pod as last seen."""

    claim: Claim
    pod_name: str
    phase: Phase = Phase.LAUNCHING
    allowed_attempts: int = 1  # how often, in all, the job's author lets it run when it fails by itself
    promises_artifacts: bool | None = None  # None: its description cannot be read here
    creating: bool = False  # its creation was sent, and is not answered yet
    unanswered: int = 0  # creations of this attempt and of those right before it that were never answered
    creation_waits: bool = False  # Kubernetes has refused to create the pod for now, and the next try is not due yet
    work: str = ""  # what its pod is created for (`runner_spec.ownership.work_of`)
    pod_uid: str = ""
    pod_version: str = ""  # of the pod as last seen
    observation: Observation | None = None
    outcome: Outcome | None = None
    stop: str = ""  # who asked for its end
    deletion_sent: bool = False
    pod_gone: bool = False
    pod_deleted: bool = False  # somebody has asked for its end
    streams: LogStreams | None = None
    task: "asyncio.Task[None] | None" = None
    _pod: Pod | None = None
    _packed: bytes = b""

    @property
    def pod(self) -> Pod | None:
        """The pod as last seen, or what `slim` has left of it."""
        if self._packed:
            self._pod, self._packed = msgspec.json.decode(zlib.decompress(self._packed)), b""
        return self._pod

    @pod.setter
    def pod(self, pod: Pod | None) -> None:
        self._pod, self._packed = pod, b""
        self.pod_deleted = pod is not None and "deletionTimestamp" in pod["metadata"]

    def rest(self) -> None:
        """Nothing is expected of the pod for a while: keep it packed (15 KB become 1) until it is asked for."""
        if self._pod is not None:
            # Level 1: 20 µs, for a pod that runs.
            self._packed, self._pod = zlib.compress(msgspec.json.encode(self._pod), 1), None

    def note(self, pod: Pod) -> None:
        """The pod as it is now."""
        now = slim(pod)
        if _any_waits(now):  # else the pod before need not be unpacked for what it says
            now = dict(keep_words(now, self.pod))
        metadata = pod["metadata"]
        self.pod, self.pod_uid, self.pod_version = now, metadata["uid"], metadata.get("resourceVersion", "")

    def is_past(self, pod: Pod) -> bool:
        """Whether something newer is known: the reply to a creation may arrive after newer events of the watch."""
        metadata = pod["metadata"]
        if not self.pod_version or metadata["uid"] != self.pod_uid:
            return False
        return int(metadata["resourceVersion"]) < int(self.pod_version)

    def describe(self, description: JobDescription | None) -> None:
        """Keep what is needed of the job's description once the pod is there; None for one that cannot be read."""
        if description is not None:
            self.allowed_attempts = description.retry.attempts
            self.promises_artifacts = bool(description.artifacts)

    @property
    def log_extra(self) -> dict[str, object]:
        """The facts that every log line about this attempt carries."""
        return {"job": self.claim.job_id, "attempt": self.claim.attempt, "pod": self.pod_name}


def slim(pod: Pod) -> Pod:
    """The parts of a pod that decisions need: without its plan, scripts and most of its spec (30 KB become 3)."""
    metadata, spec = pod["metadata"], pod["spec"]
    dropped = {anatomy.ANNOTATION_PLAN, anatomy.ANNOTATION_STEPS}
    kept_metadata = {k: v for k, v in metadata.items() if k not in {"managedFields", "annotations"}}
    kept_metadata["annotations"] = {k: v for k, v in metadata.get("annotations", {}).items() if k not in dropped}
    kept_spec = {k: spec[k] for k in ("nodeName", "activeDeadlineSeconds") if k in spec}
    for kind in ("initContainers", "containers"):
        kept_spec[kind] = [{k: c[k] for k in _CONTAINER_FIELDS if k in c} for c in spec.get(kind, ())]
    return {"metadata": kept_metadata, "spec": kept_spec, "status": pod.get("status", {})}


def _any_waits(pod: Pod) -> bool:
    """Whether a container waits, for its image perhaps."""
    statuses = (pod["status"].get(kind) or () for kind in ("initContainerStatuses", "containerStatuses"))
    return any("waiting" in (container.get("state") or {}) for kind in statuses for container in kind)

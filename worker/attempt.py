"""One attempt as this worker knows it: from the claim to the deletion of its pod."""

import asyncio  # noqa: TC003 - a field's type
import json
import time
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from runner_spec import anatomy
from runner_spec.description import JobDescription
from runner_spec.outcome import Observation, Outcome
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
    description: JobDescription | None = None
    phase: Phase = Phase.LAUNCHING
    creating: bool = False  # its creation was sent, and is not answered yet
    unanswered: int = 0  # creations of this attempt and of those right before it that were never answered
    creation_waits: bool = False  # Kubernetes has refused to create the pod for now, and the next try is not due yet
    work: str = ""  # what its pod is created for (`runner_spec.ownership.work_of`)
    pod_uid: str = ""
    observation: Observation | None = None
    outcome: Outcome | None = None
    stop: str = ""  # who asked for its end
    deletion_sent: bool = False
    pod_gone: bool = False
    pod_deleted: bool = False  # somebody has asked for its end
    streams: LogStreams | None = None
    task: "asyncio.Task[None] | None" = None
    created_at: float = field(default_factory=time.time)
    _pod: Pod | None = None
    _packed: bytes = b""

    @property
    def pod(self) -> Pod | None:
        """The pod as last seen, or what `slim` has left of it."""
        if self._packed:
            self._pod, self._packed = json.loads(zlib.decompress(self._packed)), b""
        return self._pod

    @pod.setter
    def pod(self, pod: Pod | None) -> None:
        self._pod, self._packed = pod, b""
        self.pod_deleted = pod is not None and "deletionTimestamp" in pod["metadata"]

    def rest(self) -> None:
        """Nothing is expected of the pod for a while: keep it packed (15 KB become 1) until it is asked for."""
        if self._pod is not None:
            # Level 1: a tenth of a millisecond, for a pod that runs.
            self._packed, self._pod = zlib.compress(json.dumps(self._pod).encode(), 1), None

    @property
    def allowed_attempts(self) -> int:
        """How often, in all, the job's author lets it run when it fails by itself."""
        return self.description.retry.attempts if self.description is not None else 1

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

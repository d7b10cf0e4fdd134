"""Whose pod is it, and what follows: who may create an attempt's pod, believe in it, take it over, delete it. Pure.

One claim mints an attempt and may create its pod, once. Everybody else who comes by the attempt finds the pod, or mints
the next one. Redis may lose its newest writes (a failover to a replica that lacks them): then numbers are minted again,
and pods of the lost time are still there. They are found again by their names and taken over; what nobody will ever
find is deleted, and only with proof from Redis.

`tests/model` explores what follows from these rules; the worker and the model take every decision here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from runner_spec import anatomy

Metadata = Mapping[str, Any]

# rq's words for a job that nobody will claim any more.
ENDED: Final = frozenset({"finished", "failed", "stopped", "canceled"})
STARTED: Final = "started"


class Start(StrEnum):
    """The next step towards the pod of an attempt in this worker's hands."""

    CREATE = "create"
    FIND = "find"


class Lookup(StrEnum):
    """What follows from looking for an attempt's pod."""

    FOLLOW = "follow"
    MINT = "mint"


class Meeting(StrEnum):
    """What to do when the pod to create exists already."""

    FOLLOW = "follow"  # it is the attempt's pod
    WAIT = "wait"  # it was another worker's, and is about to go: create it then
    REFUSE = "refuse"  # it only has the name


class Sight(StrEnum):
    """What to do with a pod that has the name of a held attempt's."""

    FOLLOW = "follow"
    IGNORE = "ignore"  # the reply to the own creation decides (`meet`)
    ORPHAN = "orphan"  # it is no pod of this attempt


class Fate(StrEnum):
    """What to do with a pod that no held attempt accounts for."""

    KEEP = "keep"  # somebody holds its attempt, or the next claim will find it
    DELETE = "delete"
    ASK = "ask"  # delete it if the pod of the attempt before is there


class End(StrEnum):
    """What to do with an attempt's pod once its commit was answered."""

    DELETE = "delete"
    LEAVE = "leave"  # to those who ask Redis (`orphan_fate`)


@dataclass(frozen=True, slots=True)
class Record:
    """What Redis knows of a job: rq's `status`, its `newest` attempt (0: none), and those whose end is `recorded`."""

    exists: bool
    status: str
    newest: int
    recorded: frozenset[int]


def first_step(*, adopted: bool) -> Start:
    """Only the claim that minted an attempt may create its pod: another's request may still take effect."""
    return Start.FIND if adopted else Start.CREATE


def after_silence(*, may_exist: bool) -> Start:
    """A creation was not confirmed; `may_exist`: it may have taken effect, or still will.

    Then it is never sent again: a second request could create the pod anew after the first one's pod has ended, or was
    deleted by a stranger, and was gone.
    """
    return Start.FIND if may_exist else Start.CREATE


def after_lookup(*, found: bool) -> Lookup:
    """No pod now does not mean that there will be none: this number is never tried again, the next one is."""
    return Lookup.FOLLOW if found else Lookup.MINT


def is_pod_of(metadata: Metadata, job_id: str, attempt: int, *, work: str = "") -> bool:
    """Whether a pod is one of ours, for exactly this job and attempt: names and labels hold digests, so ask the id.

    `work` is what it must have been created for (`work_of`), where that is known: see `meet`.
    """
    labels = metadata.get("labels") or {}
    return (
        labels.get(anatomy.LABEL_MANAGED_BY) == anatomy.MANAGED_BY
        and labels.get(anatomy.LABEL_ATTEMPT) == str(attempt)
        and (metadata.get("annotations") or {}).get(anatomy.ANNOTATION_JOB) == annotated(job_id)
        and work in ("", work_of(metadata))
    )


def annotated(job_id: str) -> str:
    """A job's id as its pod is annotated with it; lone surrogates, which JSON cannot carry, as escapes."""
    return job_id.encode("utf-8", "backslashreplace").decode()


def creator(metadata: Metadata) -> str:
    """The label of the worker that created the pod, empty without one."""
    return str((metadata.get("labels") or {}).get(anatomy.LABEL_WORKER, ""))


def meet(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> Meeting:
    """The API server has a pod of the name that we would create; `wanted` is our manifest.

    Our own, when the reply to its creation was lost. Another worker's, when Redis has forgotten that claim and minted
    its number again. Either must be for the same work: an id that was deleted and enqueued again starts counting anew,
    and the pod of its earlier life would make the later one green.
    """
    theirs, ours = existing["metadata"], wanted["metadata"]
    if _identity(ours) - _identity(theirs):  # a webhook may have added labels of its own
        return Meeting.REFUSE
    if work_of(theirs) != work_of(ours):
        return Meeting.REFUSE
    if creator(theirs) == creator(ours):
        return Meeting.FOLLOW  # whatever a webhook has made of its containers
    if not _runs_ours(existing, wanted):
        return Meeting.REFUSE
    return Meeting.WAIT if theirs.get("deletionTimestamp") else Meeting.FOLLOW


def on_sight(metadata: Metadata, job_id: str, attempt: int, *, creating: tuple[str, str] | None) -> Sight:
    """A pod has the name of a held attempt's; `creating`: this worker and its pod's `work_of`, until it is created."""
    if not is_pod_of(metadata, job_id, attempt):
        return Sight.ORPHAN
    if creating is not None and (creator(metadata), work_of(metadata)) != creating:
        return Sight.IGNORE
    return Sight.FOLLOW


def work_of(metadata: Metadata) -> str:
    """A digest of what a pod was created to do: its plan and its steps."""
    annotations = metadata.get("annotations") or {}
    texts = [annotations.get(name, "") for name in (anatomy.ANNOTATION_PLAN, anatomy.ANNOTATION_STEPS)]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def after_commit(*, recorded: bool) -> End:
    """A pod is deleted after the record, never before: it is the evidence. A refused commit proves nothing about it."""
    return End.DELETE if recorded else End.LEAVE


def orphan_fate(attempt: int, record: Record) -> Fate:
    """What becomes of the pod of `attempt`.

    A number beyond the newest one comes from a time that Redis has lost. The next claim or mint gives `newest + 1`
    again and finds that pod; a higher one nobody would find before its time. While the job is `started`, the pod of
    the newest attempt may be there as well: then the later one is one too many.
    """
    if not record.exists or attempt in record.recorded or attempt < record.newest or attempt > record.newest + 1:
        return Fate.DELETE
    if attempt == record.newest:
        return Fate.KEEP
    if record.status in ENDED:
        return Fate.DELETE
    return Fate.ASK if record.status == STARTED else Fate.KEEP


def _identity(metadata: Metadata) -> set[tuple[str, str]]:
    """What all pods of one attempt have in common, whoever creates them."""
    labels = {(key, value) for key, value in (metadata.get("labels") or {}).items() if key != anatomy.LABEL_WORKER}
    return labels | {("job", (metadata.get("annotations") or {}).get(anatomy.ANNOTATION_JOB, ""))}


def _runs_ours(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether our containers are alike; a webhook may have added others, and variables."""
    known, asked = _containers(existing), _containers(wanted)
    return all(name in known and _runs_the_same(known[name], container) for name, container in asked.items())


def _containers(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    spec = pod.get("spec") or {}
    return {c["name"]: c for kind in ("initContainers", "containers") for c in spec.get(kind) or ()}


def _runs_the_same(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    known, asked = ({e["name"]: e.get("value") for e in c.get("env") or ()} for c in (theirs, ours))
    same = all(theirs.get(field) == ours.get(field) for field in ("image", "command", "args"))
    return same and asked.items() <= known.items()

"""What the checker knows: three sources, none of which is the word of a worker.

The outside ledger is written by the pods themselves. The API server's audit log has every create and delete of a pod.
Redis, with the object store behind it, holds what dynapod has recorded. All times are Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """One start of one container of a pod, as the pod wrote it down; `ended` and what follows: None if it was killed.

    `log` is what the container wrote, without the timestamps that Kubernetes puts in front of its lines; None where it
    is not known, as of a pod that was killed. With `log_at_least` it is what the container would have written, had it
    not been killed, and that many bytes of it were. `seen` is the last sign of life of one whose end nobody wrote down.
    """

    job: str
    attempt: int
    pod: str
    uid: str
    container: str
    started: float
    ended: float | None = None
    exit_code: int | None = None
    log: bytes | None = None
    log_at_least: int | None = None
    seen: float | None = None


@dataclass(frozen=True, slots=True)
class PodWrite:
    """One create or delete of a pod that the API server answered."""

    verb: str
    pod: str
    code: int
    user_agent: str
    at: float


@dataclass(frozen=True, slots=True)
class StoredLog:
    """One container's log as dynapod kept it: content without timestamps; `gaps` are offsets into `content`."""

    content: bytes
    gaps: tuple[tuple[int, str], ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class StoredArtifacts:
    """What the object store has of one attempt, read raw. `manifest` is None when there is none.

    `files` is (artifact, path) → content, for each file that the manifest names; None where its object is missing.
    """

    manifest: Mapping[str, Any] | None
    files: Mapping[tuple[str, str], bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What Redis says of one job.

    `status` is rq's word, None when the job's hash is gone. `ledger` is attempt → entry (`runner_spec.wire`), `ends`
    the events of the job that ended it for good (finished, failed, stopped), `registries` those of rq that list it.
    `logs` is (attempt, container) → what is stored. `artifacts` are those of the last attempt, None for a job without.
    """

    job: str
    status: str | None
    attempt: int
    ledger: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    ends: tuple[Mapping[str, str], ...] = ()
    registries: tuple[str, ...] = ()
    logs: Mapping[tuple[int, str], StoredLog] = field(default_factory=dict)
    artifacts: StoredArtifacts | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file that a job makes and declares: what must be in the store once it is green."""

    name: str
    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Submitted:
    """One job that a producer was told is enqueued, at `at` if that is known; `exit_code`: what its `run` ends with."""

    job: str
    exit_code: int = 0
    canceled: bool = False  # somebody asked to stop it
    poison: bool = False  # it is meant to fail by the platform's fault
    artifacts: tuple[Artifact, ...] = ()
    at: float | None = None  # Unix seconds; not needed where the enqueueing was confirmed by a replica (WAIT)


@dataclass(frozen=True, slots=True)
class Loss:
    """A failover to a replica that lacked the last writes: what was recorded from `since` to `until` may be gone."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it, after everything has settled. `left_keys` are keys of Redis that should be gone or have no TTL."""

    submitted: tuple[Submitted, ...]
    runs: tuple[Run, ...]
    pod_writes: tuple[PodWrite, ...]
    jobs: Mapping[str, JobRecord]
    pods_left: tuple[str, ...] = ()
    left_keys: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()

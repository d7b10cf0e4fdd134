"""All there is at one moment of the model: workers, requests under way, pods, and one Redis that may forget.

Named tuples, because they are compared and hashed some millions of times.
"""

from typing import Any, Final, NamedTuple

from runner_spec import anatomy
from tests.model.queue_states import Key

# Where a held attempt stands. The first four are the product's `Phase.LAUNCHING`.
CREATE: Final = "create"  # the request is about to be sent
CREATING: Final = "creating"  # it was sent, and not answered
FIND: Final = "find"
MINT: Final = "mint"  # no pod was found: its log is declared lost, and the next attempt minted
FOLLOW: Final = "follow"
SUCCEEDED: Final = "succeeded"  # the end is known, and to be recorded
FAILED: Final = "failed"
CANCELED: Final = "canceled"
DELETE: Final = "delete"  # recorded; the pod's deletion is about to be asked for

LAUNCHING: Final = frozenset({CREATE, CREATING, FIND, MINT})
FINISHING: Final = frozenset({SUCCEEDED, FAILED, CANCELED})

RUNS: Final = "runs"
DONE: Final = "done"
ENDING: Final = "ending"  # deleted while it ran: in its grace period


class Held(NamedTuple):
    """One attempt in a worker's hands.

    `uid` is its pod's; `stop`: somebody has asked for its end; `minting`: its pod has come up after it was looked for,
    while the next attempt is being minted.
    """

    key: Key
    phase: str
    uid: str = ""
    stop: bool = False
    minting: bool = False

    @property
    def name(self) -> tuple[str, int]:
        return self.key[1], self.key[2]


class Worker(NamedTuple):
    """One incarnation, and the creators whose pods it sees."""

    name: str
    watched: tuple[str, ...]
    held: tuple[Held, ...] = ()


class Pod(NamedTuple):
    """`late`: when it was created, its attempt had ended, or was given up by who holds it."""

    job: str
    attempt: int
    uid: str
    creator: str
    phase: str = RUNS
    late: bool = False

    @property
    def name(self) -> tuple[str, int]:
        return self.job, self.attempt

    def manifest(self) -> dict[str, Any]:
        """What the decisions read of it."""
        metadata = manifest(self.job, self.attempt, self.creator)
        if self.phase == ENDING:
            metadata["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return metadata


class Request(NamedTuple):
    """Under way to the API server: a creation by a worker, or the deletion of a uid."""

    kind: str
    job: str
    attempt: int
    sender: str = ""
    uid: str = ""


class State(NamedTuple):
    """All there is."""

    redis: int
    workers: tuple[Worker, ...]
    requests: tuple[Request, ...] = ()
    pods: tuple[Pod, ...] = ()
    created: tuple[tuple[str, int, int], ...] = ()  # job, attempt, how often its pod was created
    proven: frozenset[tuple[str, int, bool]] = frozenset()  # job, attempt, excused: of which a pod has succeeded
    claims: int = 0
    born: int = 0
    faults: int = 0  # that may still happen; and so on
    failovers: int = 0
    stops: int = 0
    set_backs: int = 0
    failed_over: bool = False

    def find(self, name: tuple[str, int]) -> Pod | None:
        """The pod of this name."""
        return next((pod for pod in self.pods if pod.name == name), None)

    def with_pod(self, pod: Pod, after: Pod | None) -> "State":
        """Another pod instead of this one."""
        others = [other for other in self.pods if other != pod]
        return self._replace(pods=tuple(sorted([*others, after] if after else others)))

    def with_worker(self, worker: Worker, after: Worker | None) -> "State":
        """Another worker instead of this one."""
        found = (after if other.name == worker.name else other for other in self.workers)
        return self._replace(workers=tuple(other for other in found if other is not None))

    def with_held(self, worker: Worker, held: Held, after: Held | None) -> "State":
        """Another attempt in a worker's hands instead of this one."""
        others = [other for other in worker.held if other != held]
        return self.with_worker(worker, worker._replace(held=tuple(sorted([*others, after] if after else others))))

    def following(self, worker: Worker, held: Held, pod: Pod) -> "State":
        """Whoever follows a pod watches its creator's."""
        watching = worker._replace(watched=together(worker.watched, [pod.creator]))
        minting = held.minting or held.phase == MINT
        return self.with_held(watching, held, held._replace(phase=FOLLOW, uid=pod.uid, minting=minting))

    def sent(self, request: Request) -> "State":
        """One more request under way."""
        return self._replace(requests=tuple(sorted((*self.requests, request))))

    def without(self, request: Request) -> "State":
        """It is no longer under way."""
        left = list(self.requests)
        left.remove(request)
        return self._replace(requests=tuple(left))

    def fault(self) -> "State":
        """One fault less that may still happen."""
        return self._replace(faults=self.faults - 1)

    def waiting_for(self, request: Request) -> tuple[Worker, Held] | None:
        """Who hears the reply to a creation."""
        worker = next((w for w in self.workers if w.name == request.sender), None)
        if worker is None:
            return None
        wanted = (request.job, request.attempt)
        held = next((h for h in worker.held if h.name == wanted and h.phase == CREATING), None)
        return None if held is None else (worker, held)


def together(watched: tuple[str, ...], more: "list[str] | frozenset[str]") -> tuple[str, ...]:
    """The union, in order."""
    return tuple(sorted({*watched, *more}))


def manifest(job: str, attempt: int, worker: str) -> dict[str, Any]:
    """What the decisions read of what a worker wants to create."""
    labels = {
        anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY,
        anatomy.LABEL_JOB: job,
        anatomy.LABEL_ATTEMPT: str(attempt),
        anatomy.LABEL_WORKER: worker,
    }
    return {"metadata": {"labels": labels, "annotations": {anatomy.ANNOTATION_JOB: job}}}

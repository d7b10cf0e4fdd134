"""The state of the model and its steps: workers, requests under way, pods, and one Redis that may forget."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from runner_spec import anatomy, ownership
from runner_spec.ownership import ENDED, End, Fate, Lookup, Meeting, Sight, Start
from tests.model.queue_states import Key, QueueStates, Reply

# Where a held attempt stands. The first four are the product's `Phase.LAUNCHING`.
CREATE: Final = "create"  # the request is about to be sent
CREATING: Final = "creating"  # it was sent, and not answered
FIND: Final = "find"
MINT: Final = "mint"
FOLLOW: Final = "follow"
SUCCEEDED: Final = "succeeded"  # the end is known, and to be recorded
FAILED: Final = "failed"
DELETE: Final = "delete"  # recorded; the pod's deletion is about to be asked for

RUNS: Final = "runs"
DONE: Final = "done"
ENDING: Final = "ending"  # deleted while it ran: in its grace period


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """One attempt in a worker's hands; `uid` is its pod's."""

    key: Key
    phase: str
    uid: str = ""

    @property
    def name(self) -> tuple[str, int]:
        return self.key[1], self.key[2]


@dataclass(frozen=True, slots=True, order=True)
class Worker:
    """One incarnation, and the creators whose pods it sees."""

    name: str
    watched: frozenset[str]
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Pod:
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


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """Under way to the API server: a creation by a worker, or the deletion of a uid."""

    kind: str
    job: str
    attempt: int
    sender: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All there is at one moment. `replica` is what another Redis has, one that no longer gets any writes."""

    redis: int
    workers: tuple[Worker, ...]
    requests: tuple[Request, ...] = ()
    pods: tuple[Pod, ...] = ()
    created: tuple[
        tuple[str, int, int, int], ...
    ] = ()  # job, attempt, how often its pod was created, and when not late
    resent: frozenset[tuple[str, int]] = frozenset()  # attempts whose creation was sent again, for want of a reply
    proven: frozenset[tuple[str, int, bool]] = frozenset()  # job, attempt, late: of which a pod has succeeded
    claims: int = 0
    born: int = 0
    faults: int = 0  # that may still happen
    failovers: int = 0
    replica: int | None = None
    failed_over: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Who decides: the product, unless a test sabotages something."""

    first_step: Callable[..., Start] = ownership.first_step
    after_lookup: Callable[..., Lookup] = ownership.after_lookup
    meet: Callable[..., Meeting] = ownership.meet
    on_sight: Callable[..., Sight] = ownership.on_sight
    orphan_fate: Callable[..., Fate] = ownership.orphan_fate
    after_commit: Callable[..., End] = ownership.after_commit
    deletes_first: bool = False
    watches_dead: bool = True
    commit: Callable[[str], str] = str  # what becomes of commit.lua


@dataclass(frozen=True, slots=True)
class Configuration:
    """How much may happen. `faults`: crashes, lapsed leases of the living, lost replies, pods deleted by others.

    `impatient`: also creations that are sent again while the first request is under way.
    """

    jobs: int = 1
    workers: int = 2
    faults: int = 2
    failovers: int = 1
    impatient: bool = False

    @property
    def names(self) -> int:
        """Incarnations that may be needed: who has crashed or lost its lease is replaced."""
        return self.workers + self.faults + self.workers * self.failovers


Step = tuple[str, State, bool]  # what happened, what is then, whether it was a fault


def manifest(job: str, attempt: int, worker: str) -> dict[str, Any]:
    labels = {
        anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY,
        anatomy.LABEL_JOB: job,
        anatomy.LABEL_ATTEMPT: str(attempt),
        anatomy.LABEL_WORKER: worker,
    }
    return {"metadata": {"labels": labels, "annotations": {anatomy.ANNOTATION_JOB: job}}}


class World:
    """All steps that are possible in a state."""

    def __init__(self, configuration: Configuration, rules: Rules | None = None) -> None:
        self.configuration = configuration
        self.rules = rules or Rules()
        jobs = tuple("ab"[: configuration.jobs])
        self.queue = QueueStates(jobs, configuration.names, commit=self.rules.commit)

    def first(self) -> State:
        state = State(self.queue.first, (), faults=self.configuration.faults, failovers=self.configuration.failovers)
        for _ in range(self.configuration.workers):
            state = self._birth(state)
        return state

    def steps(self, state: State) -> Iterator[Step]:
        for what, after, is_fault in self._steps(state):
            yield what, _alike(after), is_fault

    def _steps(self, state: State) -> Iterator[Step]:
        yield from self._births_and_deaths(state)
        for worker in state.workers:
            yield from self._worker_steps(state, worker)
        for request in dict.fromkeys(state.requests):
            yield from self._arrives(state, request)
        for pod in state.pods:
            yield from _pod_steps(state, pod)
        if state.failovers and state.replica is None:
            yield "the replica falls behind", replace(state, replica=state.redis), True
        if state.replica is not None:
            after = replace(state, redis=state.replica, replica=None, failovers=state.failovers - 1, failed_over=True)
            yield "failover", after, True

    def _births_and_deaths(self, state: State) -> Iterator[Step]:
        if len(state.workers) < self.configuration.workers:
            yield "birth", self._birth(state), False
        living = {worker.name for worker in state.workers}
        for number in range(1, state.born + 1):
            lapsed = self.queue.lapse(state.redis, f"w{number}").redis
            if lapsed != state.redis and f"w{number}" not in living:
                yield f"the lease of w{number}, who is dead, lapses", replace(state, redis=lapsed), False

    def _birth(self, state: State) -> State:
        name = f"w{state.born + 1}"
        redis = self.queue.born(state.redis, name).redis
        return replace(
            state, redis=redis, born=state.born + 1, workers=(*state.workers, Worker(name, frozenset({name})))
        )

    # a worker

    def _worker_steps(self, state: State, worker: Worker) -> Iterator[Step]:
        name = worker.name
        keys = tuple(sorted(held.key for held in worker.held))
        if state.faults:
            gone = replace(state, workers=tuple(other for other in state.workers if other != worker))
            yield f"{name} crashes", _fault(gone), True
            lapsed = self.queue.lapse(state.redis, name).redis
            if lapsed != state.redis:
                yield f"{name}'s lease lapses", _fault(replace(state, redis=lapsed)), True
        if self.queue.waiting(state.redis):
            reply = self.queue.claim(state.redis, name, keys, state.claims + 1)
            claimed = replace(state, claims=state.claims + 1)
            yield f"{name} claims", self._take(claimed, worker, reply), False
            if state.faults and reply.claims:
                yield f"{name} claims, no reply", _fault(replace(claimed, redis=reply.redis)), True
        yield from self._beat(state, worker, keys)
        for held in worker.held:
            yield from self._attempt_steps(state, worker, held)
        for pod in state.pods:
            if pod.creator in worker.watched:
                yield from self._sees(state, worker, pod)
            elif state.failed_over and all(held.name != pod.name for held in worker.held):
                # The scan for pods of workers that Redis has never heard of; without a failover, the watch is enough.
                yield from self._finds_orphan(state, worker, pod)

    def _beat(self, state: State, worker: Worker, keys: tuple[Key, ...]) -> Iterator[Step]:
        reply = self.queue.beat(state.redis, worker.name, keys)
        after = worker
        if self.rules.watches_dead:
            after = replace(after, watched=after.watched | reply.dead)
        # An end that is being recorded asks Redis itself.
        kept = [h for h in worker.held if h.key[0] not in reply.let_go or h.phase in (SUCCEEDED, FAILED, DELETE)]
        after = replace(after, held=tuple(kept))
        result = self._take(_with_worker(state, worker, after), after, reply)
        if result != state:
            yield f"{worker.name} beats", result, False

    def _take(self, state: State, worker: Worker, reply: Reply) -> State:
        """Hold what a call has brought."""
        if reply.lost:
            others = tuple(other for other in state.workers if other.name != worker.name)
            return replace(state, redis=reply.redis, workers=others)
        held = {h.key: h for h in worker.held}
        for key in reply.claims:
            # Of the same name: the roster holds one attempt for a pod's name, the newest.
            held = {k: h for k, h in held.items() if h.name != key[1:3]}
            first = self.rules.first_step(adopted=key[3])
            held[key] = Held(key, CREATE if first is Start.CREATE else FIND)
        after = replace(worker, held=tuple(sorted(held.values())))
        return replace(_with_worker(state, worker, after), redis=reply.redis)

    def _attempt_steps(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        name, (job, attempt) = worker.name, held.name
        what = f"{job}{attempt}"
        creation = Request("create", job, attempt, name)
        if held.phase == CREATE or (held.phase == CREATING and creation not in state.requests):
            resent = state.resent | ({held.name} if held.phase == CREATING else set())
            sent = _sent(replace(state, resent=resent), worker, held, CREATING, creation)
            yield f"{name} sends creation of {what}", sent, False
        elif held.phase == CREATING and state.faults and self.configuration.impatient:
            again = _sent(replace(state, resent=state.resent | {held.name}), worker, held, CREATING, creation)
            yield f"{name} is impatient and sends creation of {what} again", _fault(again), True
        elif held.phase == FIND:
            yield f"{name} looks for {what}", self._look_up(state, worker, held), False
        elif held.phase == MINT:
            reply = self.queue.mint(state.redis, name, held.key)
            dropped = _with_held(state, worker, held, None)
            after = next(w for w in dropped.workers if w.name == name)
            yield f"{name} mints after {what}", self._take(dropped, after, reply), False
        elif held.phase == FOLLOW:
            yield from self._follows(state, worker, held)
        elif held.phase in (SUCCEEDED, FAILED):
            yield from self._commits(state, worker, held)
        elif held.phase == DELETE:
            deletion = Request("delete", job, attempt, uid=held.uid)
            yield f"{name} deletes {held.uid}", _sent(state, worker, held, None, deletion), False

    def _look_up(self, state: State, worker: Worker, held: Held) -> State:
        pod = _find(state, held.name)
        if self.rules.after_lookup(found=pod is not None) is Lookup.MINT or pod is None:
            return _with_held(state, worker, held, replace(held, phase=MINT))
        return _following(state, worker, held, pod)

    def _follows(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        """By the watch, or by a look where the watch knows nothing."""
        pod = _find(state, held.name)
        if pod is None or pod.uid != held.uid:
            yield (
                f"{worker.name} misses {held.uid}",
                _with_held(state, worker, held, replace(held, phase=FAILED)),
                False,
            )
        elif pod.phase == DONE:
            seen = replace(held, phase=SUCCEEDED)
            yield f"{worker.name} sees the end of {held.uid}", _with_held(state, worker, held, seen), False

    def _commits(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        if self.rules.deletes_first and held.uid and _has(state, held.uid):
            deletion = Request("delete", *held.name, uid=held.uid)
            if deletion not in state.requests:
                yield f"{worker.name} deletes {held.uid} first", _sent(state, worker, held, held.phase, deletion), False
        reply = self.queue.settle(state.redis, worker.name, held.key, succeeded=held.phase == SUCCEEDED)
        what = f"{worker.name} commits {held.phase} of {held.name}"
        if state.faults and reply.redis != state.redis:
            yield f"{what}, no reply", _fault(replace(state, redis=reply.redis)), True
        deletes = self.rules.after_commit(recorded=reply.recorded) is End.DELETE and held.uid
        after = replace(held, phase=DELETE) if deletes else None
        yield what, replace(_with_held(state, worker, held, after), redis=reply.redis), False

    def _sees(self, state: State, worker: Worker, pod: Pod) -> Iterator[Step]:
        held = next((h for h in worker.held if h.name == pod.name), None)
        creates = held is not None and held.phase in (CREATE, CREATING)
        sight = Sight.ORPHAN
        if held is not None:
            metadata = pod.manifest()["metadata"]
            creating = (worker.name, ownership.work_of(metadata)) if creates else None
            sight = self.rules.on_sight(metadata, pod.job, pod.attempt, creating=creating)
        if held is None or sight is Sight.ORPHAN:
            yield from self._finds_orphan(state, worker, pod)
        elif sight is Sight.FOLLOW and held.phase in (CREATE, CREATING, FIND):
            yield f"{worker.name} sees {pod.uid}", _following(state, worker, held, pod), False

    def _finds_orphan(self, state: State, worker: Worker, pod: Pod) -> Iterator[Step]:
        deletion = Request("delete", pod.job, pod.attempt, uid=pod.uid)
        if pod.phase == ENDING or deletion in state.requests:
            return
        fate = self.rules.orphan_fate(pod.attempt, self.queue.record(state.redis, pod.job))
        before = _find(state, (pod.job, pod.attempt - 1))
        if fate is Fate.DELETE or (fate is Fate.ASK and before is not None):
            after = replace(state, requests=tuple(sorted((*state.requests, deletion))))
            yield f"{worker.name} deletes the orphan {pod.uid}", after, False

    # Kubernetes

    def _arrives(self, state: State, request: Request) -> Iterator[Step]:
        left = list(state.requests)
        left.remove(request)
        state = replace(state, requests=tuple(left))
        if request.kind == "delete":
            pod = next((pod for pod in state.pods if pod.uid == request.uid), None)
            if pod is not None and pod.phase != ENDING:
                state = _with_pod(state, pod, replace(pod, phase=ENDING) if pod.phase == RUNS else None)
            yield f"{request.uid} is deleted", state, False
            return
        existing = _find(state, (request.job, request.attempt))
        pod = existing
        if pod is None:
            state, pod = self._create(state, request)
        what = f"{pod.uid} is {'created' if existing is None else 'there already'} for {request.sender}"
        worker, held = _waiting_for(state, request)
        if worker is None or held is None:
            yield f"{what}, who does not hear of it", state, False
            return
        yield what, self._answered(state, worker, held, pod), False
        if state.faults:
            yield f"{what}, no reply", _fault(state), True

    def _create(self, state: State, request: Request) -> tuple[State, Pod]:
        record = self.queue.record(state.redis, request.job)
        name = (request.job, request.attempt)
        missed = any(h.name == name and h.phase not in {CREATE, CREATING, FIND} for w in state.workers for h in w.held)
        over = record.status in ENDED or request.attempt < record.newest or request.attempt in record.recorded
        count, sound = next((c[2:] for c in state.created if c[:2] == name), (0, 0))
        count, sound = count + 1, sound + (not (missed or over))
        uid = f"{request.job}{request.attempt}{'' if count == 1 else f'#{count}'}"
        pod = Pod(request.job, request.attempt, uid, request.sender, late=missed or over)
        others = [one for one in state.created if one[:2] != name]
        created = tuple(sorted((*others, (*name, count, sound))))
        return replace(state, pods=tuple(sorted((*state.pods, pod))), created=created), pod

    def _answered(self, state: State, worker: Worker, held: Held, pod: Pod) -> State:
        meeting = self.rules.meet(pod.manifest(), manifest(*held.name, worker.name))
        if meeting is Meeting.FOLLOW:
            return _following(state, worker, held, pod)
        return _with_held(state, worker, held, replace(held, phase=CREATE if meeting is Meeting.WAIT else FAILED))


def _alike(state: State) -> State:
    """Without what makes no difference: that somebody watches the pods of one who has none, and never will."""
    busy = {w.name for w in state.workers} | {p.creator for p in state.pods} | {r.sender for r in state.requests}
    if all(worker.watched <= busy for worker in state.workers):
        return state
    return replace(state, workers=tuple(replace(w, watched=w.watched & busy) for w in state.workers))


def _pod_steps(state: State, pod: Pod) -> Iterator[Step]:
    if pod.phase == RUNS:
        done = _with_pod(state, pod, replace(pod, phase=DONE))
        yield f"{pod.uid} succeeds", replace(done, proven=state.proven | {(*pod.name, pod.late)}), False
    if pod.phase == ENDING:
        yield f"{pod.uid} is gone", _with_pod(state, pod, None), False
    if pod.phase == RUNS and state.faults:
        # Not dynapod's doing, should its creator not have heard of it, and create it again.
        created = tuple((*c[:3], c[3] - (c[:2] == pod.name and not pod.late)) for c in state.created)
        evicted = replace(_with_pod(state, pod, replace(pod, phase=ENDING)), created=created)
        yield f"{pod.uid} is deleted by a stranger", _fault(evicted), True


def _fault(state: State) -> State:
    return replace(state, faults=state.faults - 1)


def _find(state: State, name: tuple[str, int]) -> Pod | None:
    return next((pod for pod in state.pods if pod.name == name), None)


def _has(state: State, uid: str) -> bool:
    return any(pod.uid == uid for pod in state.pods)


def _with_pod(state: State, pod: Pod, after: Pod | None) -> State:
    others = [other for other in state.pods if other != pod]
    return replace(state, pods=tuple(sorted([*others, after] if after else others)))


def _with_worker(state: State, worker: Worker, after: Worker) -> State:
    return replace(state, workers=tuple(after if other.name == worker.name else other for other in state.workers))


def _with_held(state: State, worker: Worker, held: Held, after: Held | None) -> State:
    others = [other for other in worker.held if other != held]
    return _with_worker(state, worker, replace(worker, held=tuple(sorted([*others, after] if after else others))))


def _following(state: State, worker: Worker, held: Held, pod: Pod) -> State:
    """Whoever follows a pod watches its creator's."""
    watching = replace(worker, watched=worker.watched | {pod.creator})
    return _with_held(state, watching, held, replace(held, phase=FOLLOW, uid=pod.uid))


def _sent(state: State, worker: Worker, held: Held, phase: str | None, request: Request) -> State:
    after = None if phase is None else replace(held, phase=phase)
    changed = _with_held(state, worker, held, after)
    return replace(changed, requests=tuple(sorted((*state.requests, request))))


def _waiting_for(state: State, request: Request) -> tuple[Worker | None, Held | None]:
    """Who hears the reply to a creation."""
    worker = next((w for w in state.workers if w.name == request.sender), None)
    if worker is None:
        return None, None
    wanted = (request.job, request.attempt)
    return worker, next((h for h in worker.held if h.name == wanted and h.phase == CREATING), None)

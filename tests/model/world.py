"""The steps of the model: what workers, requests, pods, other people and Redis may do next."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from runner_spec import ownership
from runner_spec.outcome import Verdict
from runner_spec.ownership import ENDED, STARTED, End, Fate, Lookup, Meeting, Sight, Start
from tests.model.alike import Alike
from tests.model.queue_states import Key, QueueStates, Reply
from tests.model.state import (
    CANCELED,
    CREATE,
    CREATING,
    DELETE,
    DONE,
    ENDING,
    FAILED,
    FIND,
    FINISHING,
    FOLLOW,
    LAUNCHING,
    MINT,
    RUNS,
    SUCCEEDED,
    Held,
    Pod,
    Request,
    State,
    Worker,
    manifest,
    together,
)

Step = tuple[str, State, bool]  # what happened, what is then, whether it was a fault
VERDICTS: Final = {SUCCEEDED: Verdict.SUCCEEDED, FAILED: Verdict.FAILED, CANCELED: Verdict.CANCELED}


@dataclass(frozen=True, slots=True)
class Rules:
    """Who decides: the product, unless a test sabotages something."""

    first_step: Callable[..., Start] = ownership.first_step
    after_silence: Callable[..., Start] = ownership.after_silence
    after_lookup: Callable[..., Lookup] = ownership.after_lookup
    meet: Callable[..., Meeting] = ownership.meet
    on_sight: Callable[..., Sight] = ownership.on_sight
    orphan_fate: Callable[..., Fate] = ownership.orphan_fate
    after_commit: Callable[..., End] = ownership.after_commit
    deletes_first: bool = False
    watches_dead: bool = True
    commit: Callable[[str], str] = str  # what becomes of commit.lua
    scripts: Callable[[str], str] = str  # what becomes of the other scripts


@dataclass(frozen=True, slots=True)
class Configuration:
    """How much may happen.

    `faults`: crashes, lapsed leases of the living, lost replies, broken connections, requests that are refused or lost,
    pods deleted by others. `stops`: requests to end a job; `set_backs`: of Redis' clock, by a day.
    """

    jobs: int = 1
    workers: int = 2
    faults: int = 2
    failovers: int = 1
    stops: int = 0
    set_backs: int = 0

    @property
    def names(self) -> int:
        """Incarnations that may be needed: who has crashed or lost its lease is replaced."""
        return self.workers * (1 + self.failovers + self.set_backs) + self.faults


class World:
    """All steps that are possible in a state."""

    def __init__(self, configuration: Configuration, rules: Rules | None = None) -> None:
        self.configuration = configuration
        self.rules = rules or Rules()
        jobs = tuple("ab"[: configuration.jobs])
        self.queue = QueueStates(jobs, configuration.names, commit=self.rules.commit, scripts=self.rules.scripts)
        self._alike = Alike(self.queue)

    def first(self) -> State:
        bounds = self.configuration
        state = State(
            self.queue.first,
            (),
            faults=bounds.faults,
            failovers=bounds.failovers,
            stops=bounds.stops,
            set_backs=bounds.set_backs,
        )
        for _ in range(bounds.workers):
            state = self._birth(state)
        return self._alike.of(state)

    def steps(self, state: State) -> Iterator[Step]:
        for what, after, is_fault in self._steps(state):
            yield what, self._alike.of(after), is_fault

    def failover(self, state: State, redis: int) -> State:
        """Redis is what it was at an earlier moment."""
        return self._alike.of(state._replace(redis=redis, failovers=state.failovers - 1, failed_over=True))

    def _steps(self, state: State) -> Iterator[Step]:
        yield from self._births_and_deaths(state)
        for worker in state.workers:
            yield from self._worker_steps(state, worker)
        for request in dict.fromkeys(state.requests):
            yield from self._arrives(state, request)
        for pod in state.pods:
            yield from _pod_steps(state, pod)
        for job in self.queue.jobs if state.stops else ():
            if self.queue.record(state.redis, job).status == STARTED:
                stopped = self.queue.stop(state.redis, job)
                yield f"somebody stops {job}", state._replace(redis=stopped, stops=state.stops - 1), True
        if state.set_backs:
            late = self.queue.set_back(state.redis)
            yield "the clock is set back", state._replace(redis=late, set_backs=state.set_backs - 1), True

    def _births_and_deaths(self, state: State) -> Iterator[Step]:
        if len(state.workers) < self.configuration.workers:
            yield "birth", self._birth(state), False
        living = {worker.name for worker in state.workers}
        for number in range(1, state.born + 1):
            lapsed = self.queue.lapse(state.redis, f"w{number}").redis
            if lapsed != state.redis and f"w{number}" not in living:
                yield f"the lease of w{number}, who is dead, lapses", state._replace(redis=lapsed), False

    def _birth(self, state: State) -> State:
        name = f"w{state.born + 1}"
        redis = self.queue.born(state.redis, name).redis
        return state._replace(redis=redis, born=state.born + 1, workers=(*state.workers, Worker(name, (name,))))

    # a worker

    def _worker_steps(self, state: State, worker: Worker) -> Iterator[Step]:
        name = worker.name
        keys = tuple(sorted(held.key for held in worker.held))
        if state.faults:
            yield f"{name} crashes", state.with_worker(worker, None).fault(), True
            lapsed = self.queue.lapse(state.redis, name).redis
            if lapsed != state.redis:
                yield f"{name}'s lease lapses", state._replace(redis=lapsed).fault(), True
        if self.queue.waiting(state.redis):
            reply = self.queue.claim(state.redis, name, keys, state.claims + 1)
            claimed = state._replace(claims=state.claims + 1)
            yield f"{name} claims", self._take(claimed, worker, reply), False
            if state.faults and reply.claims:
                yield f"{name} claims, no reply", claimed._replace(redis=reply.redis).fault(), True
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
            after = after._replace(watched=together(after.watched, reply.dead))
        # An end that is being recorded asks Redis itself.
        kept = [h for h in worker.held if h.key[0] not in reply.let_go or h.phase in FINISHING or h.phase == DELETE]
        asked = [h._replace(stop=h.stop or (h.key[0] in reply.stops and h.phase != DELETE)) for h in kept]
        after = after._replace(held=tuple(asked))
        result = self._take(state.with_worker(worker, after), after, reply)
        if result != state:
            yield f"{worker.name} beats", result, False

    def _take(self, state: State, worker: Worker, reply: Reply, *, stop: bool = False) -> State:
        """Hold what a call has brought; `stop`: its end has been asked for before."""
        if reply.lost:
            return state.with_worker(worker, None)._replace(redis=reply.redis)
        held = {h.key: h for h in worker.held}
        for key in reply.claims:
            # Of the same name: the roster holds one attempt for a pod's name, the newest.
            held = {k: h for k, h in held.items() if h.name != key[1:3]}
            first = self.rules.first_step(adopted=key[3])
            phase = CREATE if first is Start.CREATE else FIND
            held[key] = Held(key, phase, stop=stop or key[0] in reply.stops)
        after = worker._replace(held=tuple(sorted(held.values())))
        return state.with_worker(worker, after)._replace(redis=reply.redis)

    def _attempt_steps(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        name, what = worker.name, "{}{}".format(*held.name)
        if held.phase == CREATE and not held.stop:
            sent = state.with_held(worker, held, held._replace(phase=CREATING))
            yield f"{name} sends the creation of {what}", sent.sent(Request("create", *held.name, name)), False
        elif held.phase == CREATING:
            yield from self._waits_for_creation(state, worker, held)
        elif held.phase == FIND:
            yield f"{name} looks for {what}", self._look_up(state, worker, held), False
        elif held.phase == FOLLOW:
            yield from self._follows(state, worker, held)
        elif held.phase in FINISHING:
            yield from self._commits(state, worker, held)
        elif held.phase == DELETE:
            deletion = Request("delete", *held.name, uid=held.uid)
            yield f"{name} deletes {held.uid}", state.with_held(worker, held, None).sent(deletion), False
        if held.stop and held.phase in (CREATE, CREATING, MINT):
            # While it is being created, only if Kubernetes had refused for a time; the model does not ask.
            stopped = held._replace(phase=CANCELED)
            yield f"{name} gives {what} up, as it was asked to", state.with_held(worker, held, stopped), False
        elif held.phase == MINT or held.minting:
            yield from self._mints(state, worker, held)

    def _waits_for_creation(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        creation = Request("create", *held.name, worker.name)
        what = "creation of {}{}".format(*held.name)
        silence = self.rules.after_silence(may_exist=True)
        silent = state.with_held(worker, held, held._replace(phase=CREATE if silence is Start.CREATE else FIND))
        if creation not in state.requests:
            yield f"{worker.name} waits in vain for the {what}", silent, False
        elif state.faults:
            yield f"{worker.name}'s connection breaks during the {what}", silent.fault(), True
            refusal = self.rules.after_silence(may_exist=False)
            after = held._replace(phase=CREATE if refusal is Start.CREATE else FIND)
            refused = state.without(creation).with_held(worker, held, after)
            yield f"Kubernetes is too busy for the {what} for {worker.name}", refused.fault(), True
            yield f"the {what} for {worker.name} is lost on its way", state.without(creation).fault(), True

    def _look_up(self, state: State, worker: Worker, held: Held) -> State:
        pod = state.find(held.name)
        if self.rules.after_lookup(found=pod is not None) is Lookup.MINT or pod is None:
            return state.with_held(worker, held, held._replace(phase=MINT))
        return state.following(worker, held, pod)

    def _mints(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        reply = self.queue.mint(state.redis, worker.name, held.key)
        dropped = state.with_held(worker, held, None)
        without = next(w for w in dropped.workers if w.name == worker.name)
        what = f"{worker.name} mints after {held.key[1]}{held.key[2]}"
        yield what, self._take(dropped, without, reply, stop=held.stop), False
        if state.faults and reply.redis != state.redis and not reply.lost:
            yield f"{what}, no reply", state._replace(redis=reply.redis).fault(), True

    def _follows(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        """By the watch, or by a look where the watch knows nothing."""
        pod = state.find(held.name)
        if pod is None or pod.uid != held.uid:
            missed = held._replace(phase=CANCELED if held.stop else FAILED)
            yield f"{worker.name} misses {held.uid}", state.with_held(worker, held, missed), False
        elif pod.phase == DONE:
            seen = held._replace(phase=SUCCEEDED)
            yield f"{worker.name} sees the end of {held.uid}", state.with_held(worker, held, seen), False
        elif held.stop and pod.phase == RUNS:
            deletion = Request("delete", *held.name, uid=held.uid)
            if deletion not in state.requests:
                yield f"{worker.name} stops {held.uid}", state.sent(deletion), False

    def _commits(self, state: State, worker: Worker, held: Held) -> Iterator[Step]:
        if self.rules.deletes_first and held.uid and any(pod.uid == held.uid for pod in state.pods):
            deletion = Request("delete", *held.name, uid=held.uid)
            if deletion not in state.requests:
                yield f"{worker.name} deletes {held.uid} first", state.sent(deletion), False
        reply = self.queue.settle(state.redis, worker.name, held.key, VERDICTS[held.phase], stop=held.stop)
        what = f"{worker.name} commits {held.phase} of {held.key[1]}{held.key[2]}"
        if state.faults and reply.redis != state.redis:
            yield f"{what}, no reply", state._replace(redis=reply.redis).fault(), True
        deletes = self.rules.after_commit(recorded=reply.recorded) is End.DELETE and held.uid
        after = held._replace(phase=DELETE) if deletes else None
        yield what, state.with_held(worker, held, after)._replace(redis=reply.redis), False

    def _sees(self, state: State, worker: Worker, pod: Pod) -> Iterator[Step]:
        held = next((h for h in worker.held if h.name == pod.name), None)
        sight = Sight.ORPHAN
        if held is not None:
            metadata = pod.manifest()["metadata"]
            creates = held.phase in LAUNCHING and self.rules.first_step(adopted=held.key[3]) is Start.CREATE
            creating = (worker.name, ownership.work_of(metadata)) if creates else None
            sight = self.rules.on_sight(metadata, pod.job, pod.attempt, creating=creating)
        if held is None or sight is Sight.ORPHAN:
            yield from self._finds_orphan(state, worker, pod)
        elif sight is Sight.FOLLOW and held.phase in LAUNCHING:
            yield f"{worker.name} sees {pod.uid}", state.following(worker, held, pod), False
        elif sight is Sight.FOLLOW and held.phase in FINISHING and not held.uid:
            # To be deleted with the others, once the end is recorded.
            noted = state.with_held(worker, held, held._replace(uid=pod.uid))
            yield f"{worker.name} takes note of {pod.uid}", noted, False

    def _finds_orphan(self, state: State, worker: Worker, pod: Pod) -> Iterator[Step]:
        deletion = Request("delete", pod.job, pod.attempt, uid=pod.uid)
        if pod.phase == ENDING or deletion in state.requests:
            return
        fate = self.rules.orphan_fate(pod.attempt, self.queue.record(state.redis, pod.job))
        before = state.find((pod.job, pod.attempt - 1))
        if fate is Fate.DELETE or (fate is Fate.ASK and before is not None):
            yield f"{worker.name} deletes the orphan {pod.uid}", state.sent(deletion), False

    # Kubernetes

    def _arrives(self, state: State, request: Request) -> Iterator[Step]:
        state = state.without(request)
        if request.kind == "delete":
            pod = next((pod for pod in state.pods if pod.uid == request.uid), None)
            if pod is not None and pod.phase != ENDING:
                state = state.with_pod(pod, pod._replace(phase=ENDING) if pod.phase == RUNS else None)
            yield f"{request.uid} is deleted", state, False
            return
        existing = pod = state.find((request.job, request.attempt))
        if pod is None:
            state, pod = self._create(state, request)
        what = f"{pod.uid} is {'created' if existing is None else 'there already'} for {request.sender}"
        waiting = state.waiting_for(request)
        if waiting is None or request in state.requests:  # another one's reply is waited for
            yield f"{what}, who does not hear of it", state, False
            return
        yield what, self._answered(state, *waiting, pod), False
        if state.faults:
            yield f"{what}, no reply", state.fault(), True

    def _create(self, state: State, request: Request) -> tuple[State, Pod]:
        name = (request.job, request.attempt)
        count = 1 + next((one[2] for one in state.created if one[:2] == name), 0)
        uid = f"{request.job}{request.attempt}{'' if count == 1 else f'#{count}'}"
        pod = Pod(*name, uid, request.sender, late=self._is_late(state, request))
        others = [one for one in state.created if one[:2] != name]
        created = tuple(sorted((*others, (*name, count))))
        return state._replace(pods=tuple(sorted((*state.pods, pod))), created=created), pod

    def _is_late(self, state: State, request: Request) -> bool:
        """Whether its attempt has ended, or has been given up by who holds it."""
        record = self.queue.record(state.redis, request.job)
        name = (request.job, request.attempt)
        over = record.status in ENDED or request.attempt < record.newest or request.attempt in record.recorded
        waited_for = {CREATE, CREATING, FIND}
        missed = any(h.name == name and h.phase not in waited_for for w in state.workers for h in w.held)
        return over or missed

    def _answered(self, state: State, worker: Worker, held: Held, pod: Pod) -> State:
        meeting = self.rules.meet(pod.manifest(), manifest(*held.name, worker.name))
        if meeting is Meeting.FOLLOW:
            return state.following(worker, held, pod)
        return state.with_held(worker, held, held._replace(phase=CREATE if meeting is Meeting.WAIT else FAILED))


def _pod_steps(state: State, pod: Pod) -> Iterator[Step]:
    if pod.phase == RUNS:
        done = state.with_pod(pod, pod._replace(phase=DONE))
        yield f"{pod.uid} succeeds", done._replace(proven=state.proven | {(*pod.name, pod.late)}), False
    if pod.phase == ENDING:
        yield f"{pod.uid} is gone", state.with_pod(pod, None), False
    elif state.faults:
        # With the evidence gone, that a job runs again is not dynapod's doing.
        excused = state.proven if pod.phase == RUNS else (state.proven - {(*pod.name, False)}) | {(*pod.name, True)}
        after = state.with_pod(pod, pod._replace(phase=ENDING) if pod.phase == RUNS else None)
        yield f"{pod.uid} is deleted by a stranger", after._replace(proven=excused).fault(), True

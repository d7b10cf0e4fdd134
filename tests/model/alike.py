"""One state for all those that differ in nothing that can ever matter: names, and the history of those who are gone."""

from tests.model.queue_states import NOBODY, QueueStates
from tests.model.state import State, Worker

_Signature = tuple[object, ...]


class Alike:
    """`of` gives the state that stands for all that are alike. What it leaves out, no later step can read.

    The names of workers and executions mean nothing, except that they differ; who is dead, and of whom neither a pod
    nor a request nor an execution is left, will never be heard of. As long as Redis may fail over to an earlier
    content, whose names are those of its time, they stay as they are.
    """

    def __init__(self, queue: QueueStates) -> None:
        self._queue = queue

    def of(self, state: State) -> State:
        """What stands for it."""
        busy = {w.name for w in state.workers} | {p.creator for p in state.pods} | {r.sender for r in state.requests}
        if not all(busy.issuperset(worker.watched) for worker in state.workers):
            # That somebody watches the pods of one who has none, and never will.
            watching = (w._replace(watched=tuple(name for name in w.watched if name in busy)) for w in state.workers)
            state = state._replace(workers=tuple(watching))
        return state if state.failovers else self._renamed(_forgetful(state) if state.failed_over else state, busy)

    def _renamed(self, state: State, busy: set[str]) -> State:
        mentions = self._queue.mentions(state.redis)
        order = sorted(
            ((busy | mentions.workers) & _given(state.born)) - {NOBODY, ""},
            key=lambda name: (_signature(state, name), mentions.leases.get(name, 0), int(name[1:])),
        )
        workers = {old: f"w{number}" for number, old in enumerate(order, 1)} | {"": ""}
        held = frozenset(held.key[0] for worker in state.workers for held in worker.held)
        ids = sorted(held | mentions.executions)
        executions = {old: f"{number:028x}0000" for number, old in enumerate(ids, 1)}
        names = tuple(sorted({**workers, **executions}.items()))
        known = {old: new for old, new in executions.items() if old != new}
        redis = self._queue.rename(state.redis, names, held)
        if redis == state.redis and not known and all(old == new for old, new in workers.items()):
            return state._replace(born=len(order), claims=len(ids))
        return state._replace(
            redis=redis,
            workers=tuple(sorted(self._worker(worker, workers, known) for worker in state.workers)),
            requests=tuple(sorted(r._replace(sender=workers[r.sender]) for r in state.requests)),
            pods=tuple(sorted(p._replace(creator=workers[p.creator]) for p in state.pods)),
            claims=len(ids),
            born=len(order),
        )

    def _worker(self, worker: Worker, workers: dict[str, str], executions: dict[str, str]) -> Worker:
        held = worker.held
        if executions:
            held = tuple(
                h._replace(key=self._queue.renamed_claim(h.key, executions[h.key[0]])) if h.key[0] in executions else h
                for h in held
            )
        watched = tuple(sorted(workers[name] for name in worker.watched))
        return Worker(workers[worker.name], watched, tuple(sorted(held)))


def _given(born: int) -> set[str]:
    """Every name that was ever given."""
    return {f"w{number}" for number in range(1, born + 1)}


def _signature(state: State, name: str) -> _Signature:
    """What can be said of a worker without its name: the dead come last."""
    worker = next((w for w in state.workers if w.name == name), None)
    held = tuple(h[1:] + h.key[1:] for h in worker.held) if worker else ()
    pods = tuple((p.name, p.phase, p.late) for p in state.pods if p.creator == name)
    requests = tuple(r[1:3] for r in state.requests if r.sender == name)
    return worker is None, held, pods, requests, len(worker.watched) if worker else 0


def _forgetful(state: State) -> State:
    """After a failover nobody counts how often a pod was created: uids only have to differ."""
    uids = {(p.name, p.uid) for p in state.pods} | {(h.name, h.uid) for w in state.workers for h in w.held if h.uid}
    uids |= {((r.job, r.attempt), r.uid) for r in state.requests if r.uid}
    counts: dict[tuple[str, int], int] = {}
    table = {"": ""}
    for name, uid in sorted(uids):
        counts[name] = count = counts.get(name, 0) + 1
        table[uid] = "{}{}".format(*name) + ("" if count == 1 else f"#{count}")
    workers = (w._replace(held=tuple(sorted(h._replace(uid=table[h.uid]) for h in w.held))) for w in state.workers)
    return state._replace(
        workers=tuple(workers),
        pods=tuple(sorted(p._replace(uid=table[p.uid]) for p in state.pods)),
        requests=tuple(sorted(r._replace(uid=table[r.uid]) for r in state.requests)),
        created=tuple((*name, count) for name, count in sorted(counts.items())),
        proven=frozenset((job, attempt, True) for job, attempt, _ in state.proven),
    )

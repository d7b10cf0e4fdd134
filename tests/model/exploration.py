"""Breadth first through all states: what was found, and the shortest way to whatever must not be.

A replica may fall behind at any moment, and take over at any later one. Nobody reads it in between, so no state need
remember it: what it may hold when a state is reached is what Redis has held on some way there. Those sets are computed
once all states without a further failover are known; then each state is continued with each of its set.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from runner_spec.ownership import ENDED
from tests.model.state import RUNS, State
from tests.model.world import Configuration, Rules, World


class Violated(Exception):  # noqa: N818 - what it says, not that it is an error
    """A promise does not hold; the message has the shortest way there."""


@dataclass
class Exploration:
    """The states by number, and the steps between them."""

    world: World
    limit: int = 5_000_000
    numbers: dict[State, int] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    came: list[tuple[int, str]] = field(default_factory=list)  # by which step, from which state
    replicas: dict[int, int] = field(default_factory=dict)  # states right after a failover: what Redis is again
    following: dict[int, list[int]] = field(default_factory=dict)  # all steps, where a failover is still to come
    before: list[list[int]] = field(default_factory=list)  # by steps that are no faults
    ends: list[int] = field(default_factory=list)
    transitions: int = 0
    crowd: int = 0  # the most live pods of one job, late ones left out, after a failover
    crowded: int = 0  # the first state with so many

    def run(self) -> None:
        """All of them.

        Raises:
            Violated: a promise does not hold.
        """
        entries = [self._add(self.world.first(), 0, "")]
        while entries:
            self._explore(entries)
            entries = list(self._failovers(entries))
        self._check_ways()

    def _explore(self, entries: list[int]) -> None:
        waiting = deque(entries)
        while waiting:
            number = waiting.popleft()
            state = self.states[number]
            known = len(self.states)
            targets = []
            for what, following, is_fault in self.world.steps(state):
                self.transitions += 1
                target = self._add(following, number, what)
                targets.append(target)
                if not is_fault:
                    self.before[target].append(number)
            if state.failovers:
                self.following[number] = targets
            waiting.extend(range(known, len(self.states)))

    def _add(self, state: State, origin: int, what: str) -> int:
        number = self.numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            if number > self.limit:
                raise MemoryError(f"more than {self.limit} states: choose a smaller configuration")
            self.states.append(state)
            self.came.append((origin, what))
            self.before.append([])
            if self._is_over(state):
                self.ends.append(number)
            self._check(state, number)
        return number

    def _failovers(self, entries: list[int]) -> Iterator[int]:
        """The states right after one more failover, from all those that were reached from `entries`."""
        held: dict[int, int] = {}  # state → contents that Redis has had on some way to it, as bits
        waiting = deque((number, 1 << self.states[number].redis) for number in entries if number in self.following)
        while waiting:
            number, more = waiting.popleft()
            already = held.get(number, 0)
            now = already | more | (1 << self.states[number].redis)
            if now != already:
                held[number] = now
                waiting.extend((target, now) for target in self.following[number])
        for number, contents in held.items():
            for redis in range(contents.bit_length()):
                if contents >> redis & 1:
                    known = len(self.states)
                    entry = self._add(self.world.failover(self.states[number], redis), number, "failover")
                    if entry == known:
                        self.replicas[entry] = redis
                        yield entry

    def _is_over(self, state: State) -> bool:
        if state.pods or state.requests or any(worker.held for worker in state.workers):
            return False
        return all(self.world.queue.record(state.redis, job).status in ENDED for job in self.world.queue.jobs)

    def _check(self, state: State, number: int) -> None:
        queue = self.world.queue
        for job in queue.jobs:
            record, ends = queue.record(state.redis, job), queue.ends(state.redis, job)
            # rq's word for a job that was canceled while it waited: it ends without an attempt.
            if len(ends) != (record.status in ENDED - {"canceled"}):
                self._fail(number, f"{job} is {record.status} and has the recorded ends {ends}")
            proven = {one[:2] for one in state.proven}
            if any(kind == "finish" and (job, attempt) not in proven for attempt, kind in ends):
                self._fail(number, f"{job} is green without a pod that succeeded: {ends}")
        live = Counter(pod.job for pod in state.pods if pod.phase == RUNS and not pod.late)
        most = max(live.values(), default=0)
        if state.failed_over:
            if most > self.crowd:
                self.crowd, self.crowded = most, number
            return
        if most > 1:
            self._fail(number, f"two live pods of one job, none of them late: {state.pods}")
        if any(count > 1 for _, _, count in state.created):
            self._fail(number, f"an attempt's pod was created twice: {state.created}")
        again = [p for p in state.pods for job, n, late in state.proven if not late and p.job == job and p.attempt > n]
        if again:
            self._fail(number, f"a job runs again although it had succeeded: {again}")

    def _check_ways(self) -> None:
        """From every state, a way to an end without any further fault."""
        reached = set(self.ends)
        waiting = deque(self.ends)
        while waiting:
            for number in self.before[waiting.popleft()]:
                if number not in reached:
                    reached.add(number)
                    waiting.append(number)
        if len(reached) < len(self.states):
            stuck = next(number for number in range(len(self.states)) if number not in reached)
            count = len(self.states) - len(reached)
            self._fail(stuck, f"no way to an end from here ({count} such states): {self.states[stuck]}")

    def _fail(self, number: int, why: str) -> None:
        raise Violated(f"{why}\n{self.way(number)}")

    def way(self, number: int) -> str:
        """The shortest way to a state, a step a line. Names may change on it, as `Alike` does away with the dead."""
        return "\n".join(f"{n:3} {what}" for n, what in enumerate(self._steps(number), 1))

    def _steps(self, number: int) -> list[str]:
        steps: list[str] = []
        while number:
            origin, what = self.came[number]
            if number in self.replicas:
                steps.append("failover: Redis forgets what comes after the moment marked")
                origin, between = self._since(origin, self.replicas[number])
                steps += reversed(["- the replica falls behind -", *between])
            else:
                steps.append(what)
            number = origin
        return steps[::-1]

    def _since(self, number: int, redis: int) -> tuple[int, list[str]]:
        """The nearest state before this one in which Redis was so, and the steps from there."""
        sources: dict[int, list[int]] = {}
        for source, targets in self.following.items():
            for target in targets:
                sources.setdefault(target, []).append(source)
        onwards = {number: number}
        waiting = deque([number])
        while self.states[(found := waiting.popleft())].redis != redis:
            for source in sources.get(found, ()):
                if source not in onwards:
                    onwards[source] = found
                    waiting.append(source)
        at, steps = found, []
        while at != number:
            steps.append(
                next(what for what, s, _ in self.world.steps(self.states[at]) if s == self.states[onwards[at]])
            )
            at = onwards[at]
        return found, steps


def explore(configuration: Configuration, rules: Rules | None = None, *, limit: int = 5_000_000) -> Exploration:
    """Explore everything that may happen; see `Exploration.run`."""
    world = World(configuration, rules)
    try:
        exploration = Exploration(world, limit)
        exploration.run()
    finally:
        world.queue.close()
    return exploration

"""Breadth first through all states: what was found, and the shortest way to whatever must not be."""

from collections import Counter, deque
from dataclasses import dataclass, field

from runner_spec.ownership import ENDED
from tests.model.world import RUNS, Configuration, Rules, State, World


class Violated(Exception):  # noqa: N818 - what it says, not that it is an error
    """A promise does not hold; the message has the shortest way there."""


@dataclass
class Exploration:
    """The states by number, and the steps between them."""

    world: World
    limit: int = 5_000_000
    numbers: dict[State, int] = field(default_factory=dict)
    came: list[tuple[int, str]] = field(default_factory=list)  # by which step, from which state
    before: list[list[int]] = field(default_factory=list)  # by steps that are no faults
    ends: list[int] = field(default_factory=list)
    transitions: int = 0
    crowd: int = 0  # the most live pods of one job, late ones left out, after a failover

    def run(self) -> None:
        """All of them.

        Raises:
            Violated: a promise does not hold.
        """
        first = self.world.first()
        self._number(first, 0, "")
        waiting = deque([first])
        while waiting:
            state = waiting.popleft()
            number = self.numbers[state]
            for what, following, is_fault in self.world.steps(state):
                self.transitions += 1
                known = following in self.numbers
                target = self._number(following, number, what)
                if not is_fault:
                    self.before[target].append(number)
                if not known:
                    self._check(following, target)
                    waiting.append(following)
        self._check_ways()

    def _number(self, state: State, origin: int, what: str) -> int:
        number = self.numbers.setdefault(state, len(self.came))
        if number == len(self.came):
            if number > self.limit:
                raise MemoryError(f"more than {self.limit} states: choose a smaller configuration")
            self.came.append((origin, what))
            self.before.append([])
            if self._is_over(state):
                self.ends.append(number)
        return number

    def _is_over(self, state: State) -> bool:
        if state.pods or state.requests or any(worker.held for worker in state.workers):
            return False
        return all(self.world.queue.record(state.redis, job).status in ENDED for job in self.world.queue.jobs)

    def _check(self, state: State, number: int) -> None:
        queue = self.world.queue
        for job in queue.jobs:
            record, ends = queue.record(state.redis, job), queue.ends(state.redis, job)
            if len(ends) != (record.status in ENDED):
                self._fail(number, f"{job} is {record.status} and has the recorded ends {ends}")
            proven = {one[:2] for one in state.proven}
            if any(kind == "finish" and (job, attempt) not in proven for attempt, kind in ends):
                self._fail(number, f"{job} is green without a pod that succeeded: {ends}")
        live = Counter(pod.job for pod in state.pods if pod.phase == RUNS and not pod.late)
        most = max(live.values(), default=0)
        if state.failed_over:
            self.crowd = max(self.crowd, most)
            return
        if most > 1:
            self._fail(number, f"two live pods of one job, none of them late: {state.pods}")
        if any(sound > 1 or (count > 1 and (*name,) not in state.resent) for *name, count, sound in state.created):
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
        if len(reached) < len(self.came):
            stuck = next(number for number in range(len(self.came)) if number not in reached)
            state = next(state for state, number in self.numbers.items() if number == stuck)
            self._fail(stuck, f"no way to an end from here ({len(self.came) - len(reached)} such states): {state}")

    def _fail(self, number: int, why: str) -> None:
        steps = []
        while number:
            number, what = self.came[number]
            steps.append(what)
        way = "\n".join(f"{n:3} {what}" for n, what in enumerate(reversed(steps), 1))
        raise Violated(f"{why}\n{way}")


def explore(configuration: Configuration, rules: Rules | None = None, *, limit: int = 5_000_000) -> Exploration:
    """Explore everything that may happen; see `Exploration.run`."""
    world = World(configuration, rules)
    try:
        exploration = Exploration(world, limit)
        exploration.run()
    finally:
        world.queue.close()
    return exploration

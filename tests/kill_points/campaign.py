"""First every scenario once, to learn where the worker comes by; then it is killed there, in one run each."""

import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.kill_points.instrument import PHASES, Victim
from tests.kill_points.points import Point, points
from tests.kill_points.scenarios import SCENARIOS
from tests.kill_points.stage import perform
from tests.kill_points.unreachable import reason, stale
from tests.kill_points.world import world

# Worlds at once: a run mostly waits (for a lease to lapse, a back-off to pass).
LANES: Final = 5
# Of a scenario's passes through a point: those near its end may not come again in the next run.
CERTAIN: Final = 0.7
SCENARIOS_TRIED: Final = 4
LONG_S: Final = 5.0


@dataclass(slots=True)
class Passed:
    """What scenarios pass without a victim: point and phase → scenario → how often; and how long scenarios take."""

    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, float] = field(default_factory=dict)

    def choices(self, point: str, phase: str, dice: random.Random) -> list[tuple[str, Victim]]:
        """Scenarios and passes to try in turn, the quick ones first."""
        found = self.counts.get((point, phase), Counter())
        names = sorted(found, key=lambda name: (self.seconds[name] > LONG_S, dice.random()))[:SCENARIOS_TRIED]
        passes = [(name, dice.randint(1, max(1, int(found[name] * CERTAIN)))) for name in names]
        # In the end the first pass, which is the surest.
        return [(name, Victim(point, phase, nth)) for name, nth in [*passes, *((name, 1) for name in names)]]


@dataclass(slots=True)
class Report:
    """What came of it. `unclean` is: which run, and what was wrong after it."""

    points: Sequence[Point]
    killed: set[str] = field(default_factory=set)
    kills: int = 0
    unclean: list[tuple[str, list[str]]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    listed_but_passed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether all is as it should be."""
        return not (self.unclean or self.missed or self.unlisted or self.listed_but_passed or self.stale)

    def lines(self) -> Iterable[str]:
        """For people; the last line has the figures."""
        for what, names in (
            ("neither passed nor listed", self.unlisted),
            ("listed, and passed all the same", self.listed_but_passed),
            ("listed, and not in the sources", self.stale),
            ("passed, but the worker could not be killed there", self.missed),
        ):
            yield from (f"{what}: {name}" for name in names)
        for run, found in self.unclean:
            yield f"NOT CLEAN: {run}"
            yield from (f"    {problem}" for problem in found)
        dirty = {run.partition(" --point ")[2].partition("@")[0] for run, _ in self.unclean}
        yield (
            f"points {len(self.points)}, killed {len(self.killed)}, listed {len(self.listed)}, "
            f"clean {len(self.killed - dirty)} (kills {self.kills}, unclean {len(self.unclean)})"
        )


@dataclass(slots=True)
class _Run:
    """One run to be done, and what came of it."""

    scenario: str
    victim: Victim | None
    killed: bool = False
    found: list[str] = field(default_factory=list)
    passes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"--scenario {self.scenario} --point {self.victim}"


class _Done(Protocol):
    def __call__(self, run: _Run, *, last: int) -> None: ...


class Campaign:
    """Runs in several worlds at once, in folders below `folder`."""

    def __init__(self, folder: Path, *, seed: int = 1, lanes: int = LANES, verbose: bool = True) -> None:
        self._folder = folder
        self._seed = seed
        self._lanes = lanes
        self._verbose = verbose
        self._worlds = 0
        self._began = time.monotonic()
        self.passed = Passed()
        self.report = Report(points())

    async def learn(self, names: Iterable[str] = tuple(SCENARIOS)) -> None:
        """Every scenario once, without a victim: it must come clean, too."""
        waiting = [[_Run(name, None)] for name in names]
        await self._work(waiting, self._learned)
        passed = {point for point, _ in self.passed.counts}
        for point in self.report.points:
            why = reason(point.id)
            if why is not None:
                self.report.listed.append(point.id)
                if point.id in passed:
                    self.report.listed_but_passed.append(point.id)
            elif point.id not in passed:
                self.report.unlisted.append(f"{point.id} ({point.file}:{point.line})")
        self.report.stale = stale(self.report.points)
        self._say(
            f"{len(passed)} of {len(self.report.points)} points are passed in {len(self.passed.seconds)} scenarios"
        )

    async def kill(self, wanted: Iterable[tuple[str, str]] | None = None, *, seconds: float | None = None) -> None:
        """A run for each point and phase (all that were passed), until the time is over."""
        chosen = sorted(self.passed.counts) if wanted is None else sorted(set(wanted))
        random.Random(self._seed).shuffle(chosen)
        waiting = []
        for point, phase in chosen:
            dice = random.Random(f"{self._seed} {point} {phase}")
            waiting.append([_Run(*choice) for choice in self.passed.choices(point, phase, dice)])
        self._say(f"{len(waiting)} kills to come, seed {self._seed}")
        await self._work(waiting, self._killed, None if seconds is None else time.monotonic() + seconds)

    async def one(self, scenario: str, victim: Victim | None) -> None:
        """A single run."""
        await self._work([[_Run(scenario, victim)]], self._learned if victim is None else self._killed)

    async def _work(self, waiting: list[list[_Run]], done: _Done, until: float | None = None) -> None:
        total = len(waiting)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._lanes, total)):
                group.create_task(self._lane(waiting, done, until))

    async def _lane(self, waiting: list[list[_Run]], done: _Done, until: float | None) -> None:
        while waiting and (until is None or time.monotonic() < until):
            self._worlds += 1
            async with world(self._folder / f"world-{self._worlds}") as here:
                clean = True
                while clean and waiting and (until is None or time.monotonic() < until):
                    for run in waiting.pop():
                        began = time.monotonic()
                        run.killed, run.found, passes = await perform(here, SCENARIOS[run.scenario], run.victim)
                        run.seconds = time.monotonic() - began
                        for line in passes.read_text(encoding="ascii").splitlines():
                            point, _, phase = line.partition(" ")
                            run.passes[point, phase] += 1
                        passes.unlink()
                        if run.victim is None or run.killed or run.found:
                            break
                    done(run, last=len(waiting))
                    clean = not run.found  # what is left of this run must not be blamed on the next one

    def _learned(self, run: _Run, *, last: int) -> None:
        self.passed.seconds[run.scenario] = run.seconds
        for key, count in run.passes.items():
            self.passed.counts[key][run.scenario] += count
        if run.found:
            self.report.unclean.append((str(run), run.found))
        self._say(f"{last:4} to go  {run.scenario}: {run.seconds:.1f} s, {'; '.join(run.found) or 'clean'}")

    def _killed(self, run: _Run, *, last: int) -> None:
        assert run.victim is not None
        if run.killed:
            self.report.kills += 1
            self.report.killed.add(run.victim.point)
        else:
            self.report.missed.append(f"{run.victim} in {run.scenario}")
        if run.found:
            self.report.unclean.append((str(run), run.found))
        verdict = "; ".join(run.found) or ("clean" if run.killed else "not killed")
        self._say(f"{last:4} to go  {run.victim} in {run.scenario}: {run.seconds:.1f} s, {verdict}")

    def _say(self, line: str) -> None:
        if self._verbose:
            sys.stdout.write(f"{time.monotonic() - self._began:6.1f} s  {line}\n")
            sys.stdout.flush()


def every_tenth(passed: Passed) -> list[tuple[str, str]]:
    """A subset that is the same for the same sources."""
    return [key for key in sorted(passed.counts) if random.Random(f"subset {key}").random() < 0.1]


def both_phases(point: str) -> list[tuple[str, str]]:
    """Before and after."""
    return [(point, phase) for phase in PHASES]

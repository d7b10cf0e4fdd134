"""What a benchmark is, and which there are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure


class BenchmarkError(Exception):
    """No figure can be given; the message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the suite was called.

    `rounds`: how often what is compared is measured in alternation. `scale`: 1.0 for the sizes that docs/performance.md
    names; less for a look. `folder` is empty, and removed afterwards. `say` tells how far it has come.
    """

    rounds: int
    scale: float
    folder: Path
    say: Callable[[str], None]

    def sized(self, full: int, *, at_least: int = 1) -> int:
        """A number of jobs, bytes, …: `full`, or its share of a smaller run."""
        return max(at_least, round(full * self.scale))


@dataclass(frozen=True, slots=True)
class Bench:
    """One of them; `module` has `measure(options) -> Iterable[Figure]`, imported only when it is wanted."""

    letter: str
    title: str
    module: str

    def measure(self, options: Options) -> Iterable[Figure]:
        """Measure.

        Raises:
            BenchmarkError: something that is needed is not there.
        """
        work: Callable[[Options], Iterable[Figure]] = import_module(f"benchmarks.{self.module}").measure
        return work(options)


BENCHES: Final[Sequence[Bench]] = (
    Bench("a", "jobs/s beside the control plane's own limit; what a job costs (a to e)", "throughput"),
    Bench("f", "memory by jobs in flight", "in_flight"),
    Bench("g", "latency", "latency"),
    Bench("h", "adoption", "adoption"),
    Bench("i", "logs", "log_rate"),
    Bench("j", "start-up", "startup"),
    Bench("k", "decisions, per call", "decisions"),
    Bench("l", "caches beside tar and zstd", "caches"),
    Bench("m", "the gateway", "gateway_rate"),
    Bench("n", "growth", "growth"),
    Bench("o", "stock rq workers", "stock_rq"),
)


def chosen(letters: str) -> list[Bench]:
    """Those that are asked for by their letters (`a,h`), all for none.

    Raises:
        BenchmarkError: there is no such letter.
    """
    wanted = [letter.strip() for letter in letters.split(",") if letter.strip()]
    known = {bench.letter: bench for bench in BENCHES}
    # (b) to (e) are measured in the very runs of (a).
    aliases = dict.fromkeys("bcde", "a")
    names = [aliases.get(letter, letter) for letter in wanted]
    for letter in names:
        if letter not in known:
            raise BenchmarkError(f"--only {letter}: no such benchmark; there are {', '.join(known)}")
    return [bench for bench in BENCHES if not names or bench.letter in names]

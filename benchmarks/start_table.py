"""Times of single runs, and what they say together. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Times:
    """One run; milliseconds since the start (`submit`, or the start of `kubectl apply`).

    `written` is the node's clock, the others this machine's: where they are not the same machine, the two may disagree.
    """

    created: float  # a watch shows the pod
    running: float  # a watch shows that the container `run` has started: earlier, Kubernetes gives no log
    written: float  # the timestamp of the user's first line
    read: float  # that line has reached its reader

    def as_dict(self) -> dict[str, float]:
        """For JSON, rounded to what the clocks can tell."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same pod, started in two ways, `dynapod[i]` and `kubectl[i]` right after each other."""

    name: str
    containers: tuple[str, ...]
    dynapod: tuple[Times, ...]
    kubectl: tuple[Times, ...]

    @property
    def ratio(self) -> float:
        """The median of dynapod's times to the first line, divided by that of kubectl's."""
        return median(t.read for t in self.dynapod) / median(t.read for t in self.kubectl)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ways = {"dynapod": self.dynapod, "kubectl": self.kubectl}
        runs = {way: [times.as_dict() for times in series] for way, series in ways.items()}
        return {
            "name": self.name,
            "containers": self.containers,
            "ratio_of_medians": round(self.ratio, 3),
            "runs": runs,
        }


_HEADINGS = ("min", "median", "max", "created", "running", "written", "read")


def table(comparisons: Sequence[Comparison]) -> str:
    """For people: per way min, median and max of the time to the first line; then the median of each stage."""
    lines = [f"{'':34}{'to the first line, ms':>24}{'':4}{'median of each stage, ms':>36}"]
    lines.append(f"{'':34}" + "".join(f"{word:>8}" for word in _HEADINGS[:3]) + "    " + _row(_HEADINGS[3:]))
    for comparison in comparisons:
        for way, series in (("dynapod", comparison.dynapod), ("kubectl apply", comparison.kubectl)):
            read = [times.read for times in series]
            ends = "".join(f"{value:8.0f}" for value in (min(read), median(read), max(read)))
            stages = [
                f"{median(values):.0f}"
                for values in (
                    [t.created for t in series],
                    [t.running for t in series],
                    [t.written for t in series],
                    read,
                )
            ]
            lines.append(f"{f'{comparison.name}, {way}':34}{ends}    {_row(stages)}")
        containers = " and ".join(comparison.containers)
        lines.append(f"  pod of {containers}: ratio of medians {comparison.ratio:.3f}")
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return "".join(f"{word:>9}" for word in words)

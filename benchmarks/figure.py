"""A figure that a benchmark gives: what was measured, how often, and what is promised of it. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What is promised: the figure is at most (`<=`) or at least (`>=`) `bound`, in the figure's unit."""

    sense: Literal["<=", ">="]
    bound: float

    def met_by(self, value: float) -> bool:
        """Whether a value keeps the promise."""
        return value <= self.bound if self.sense == "<=" else value >= self.bound


def at_most(bound: float) -> Target:
    """The figure should not be larger."""
    return Target("<=", bound)


def at_least(bound: float) -> Target:
    """The figure should not be smaller."""
    return Target(">=", bound)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    `bench` is the letter of the benchmark that gave it. `values` are the single measurements in `unit`, in their order:
    the figure is their median. `note` says what stands beside it: a baseline, a size, a reason.
    """

    bench: str
    name: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The median; NaN when nothing could be measured (`note` says why)."""
        return median(self.values) if self.values else math.nan

    @property
    def missed(self) -> bool:
        """Whether it has a target and does not keep it."""
        return self.target is not None and not self.target.met_by(self.value)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        data: dict[str, Any] = {
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "median": _rounded(self.value),
            "values": [_rounded(value) for value in self.values],
        }
        if self.target is not None:
            data["target"] = {"sense": self.target.sense, "bound": self.target.bound, "met": not self.missed}
        if self.note:
            data["note"] = self.note
        return data


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """How ours compares with theirs, pair by pair: `ours[i]` and `theirs[i]` were measured right after each other."""
    return tuple(one / other for one, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0.99, say) of the values do not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def table(figures: Sequence[Figure], titles: Mapping[str, str]) -> str:
    """For people: benchmark by benchmark, the median, its spread, the target and whether it is kept."""
    lines = []
    width = max((len(figure.name) for figure in figures), default=0)
    for bench in dict.fromkeys(figure.bench for figure in figures):
        lines.append(f"({bench}) {titles.get(bench, '')}")
        lines += [_line(figure, width) for figure in figures if figure.bench == bench]
    return "\n".join(lines)


def _line(figure: Figure, width: int) -> str:
    spread = ""
    if len(figure.values) > 1:
        spread = f"{_short(min(figure.values))} … {_short(max(figure.values))} ({len(figure.values)})"
    promise = ""
    if figure.target is not None:
        promise = f"{figure.target.sense} {_short(figure.target.bound)} {'MISSED' if figure.missed else 'ok'}"
    line = f"  {figure.name:{width}}  {_short(figure.value):>10} {figure.unit:9} {spread:26} {promise:18} {figure.note}"
    return line.rstrip()


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def _short(value: float) -> str:
    """Three figures that mean something, without an exponent."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"

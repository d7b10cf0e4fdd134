"""Figures of a worker's memory."""

from pathlib import Path

from benchmarks.in_flight import figures, scaled
from benchmarks.suite import Options
from benchmarks.usage import Usage


def used(megabytes: float) -> Usage:
    return Usage(0.0, 0.0, round((megabytes + 20) * 1e6), round(megabytes * 1e6))


def test_sizes_grow_whatever_the_scale(tmp_path: Path) -> None:
    assert scaled(Options(1, 1.0, tmp_path, print)) == [0, 1000, 5000, 20_000]
    small = scaled(Options(1, 0.0001, tmp_path, print))
    assert small == sorted(set(small))


def test_the_slope_is_that_between_the_smallest_and_the_largest_number_of_jobs() -> None:
    held = {0: [used(60)], 1000: [used(80)], 20_000: [used(270)]}
    empty, few, many, slope, stream = figures(held, [12_000.0])
    assert (empty.value, few.value, many.value) == (80, 100, 290)
    assert slope.value == 10
    assert not slope.missed
    assert not many.missed
    assert stream.value == 12
    assert [figure.target is not None for figure in (empty, few, many, slope, stream)] == [
        False,
        False,
        True,
        True,
        False,
    ]

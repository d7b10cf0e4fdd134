import math

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figure import Figure, at_least, at_most, percentile, ratios, table


def test_a_figure_is_the_median_and_keeps_its_target_or_not() -> None:
    values = (4.0, 1.0, 2.0)
    assert Figure("a", "x", "ms", values).value == 2.0
    assert [Figure("a", "x", "ms", values, target).missed for target in (at_most(2), at_most(1.9))] == [False, True]
    assert [Figure("a", "x", "ms", values, target).missed for target in (at_least(2), at_least(2.1))] == [False, True]
    assert not Figure("a", "x", "ms", values).missed


def test_what_could_not_be_measured_keeps_no_target() -> None:
    for target in (at_most(1), at_least(1)):
        nothing = Figure("a", "x", "ms", (), target, "no such device")
        assert math.isnan(nothing.value)
        assert nothing.missed
        assert nothing.as_dict()["median"] is None


def test_pairs_are_compared_one_by_one() -> None:
    assert ratios([1.0, 6.0], [2.0, 3.0]) == (0.5, 2.0)


def test_the_table_says_what_is_missed_beside_what() -> None:
    figures = [
        Figure("a", "rate", "jobs/s", (10.0, 30.0, 20.0), at_least(25), "of 3"),
        Figure("f", "memory", "MB", (12345.6,), at_most(20000)),
    ]
    lines = table(figures, {"a": "jobs", "f": "memory"}).splitlines()
    assert [line.split() for line in lines] == [
        ["(a)", "jobs"],
        ["rate", "20.00", "jobs/s", "10.00", "…", "30.00", "(3)", ">=", "25.00", "MISSED", "of", "3"],
        ["(f)", "memory"],
        ["memory", "12,346", "MB", "<=", "20,000", "ok"],
    ]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) <= share * len(values)

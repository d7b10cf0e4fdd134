from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec.duration import MAXIMUM_SECONDS, format_duration, parse_duration, parse_retention


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("90s", 90),
        ("90", 90),
        (90, 90),
        ("1d", 86400),
        ("1d1h1m1s", 90061),
        ("0h5s", 5),
    ],
)
def test_durations_are_read_in_seconds(text: str | int, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "0s",
        0,
        -1,
        True,
        1.5,
        None,
        "1.5h",
        "30 m",
        "m",
        "30M",
        "1m1h",
        "1m1m",
        "-5s",
        "+5",
        "31d",
        "٣s",
        "9" * 99,
        [1],
    ],
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


@given(st.integers(1, MAXIMUM_SECONDS))
def test_formatting_and_reading_are_inverse(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(max_size=12))
def test_no_text_does_worse_than_a_value_error(text: str) -> None:
    with suppress(ValueError):  # the one permitted refusal
        assert 1 <= parse_duration(text) <= MAXIMUM_SECONDS


def test_only_positive_durations_are_formatted() -> None:
    with pytest.raises(ValueError, match="at least 1 second"):
        format_duration(0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("never", 0), ("0", 0), (0, 0), ("1h", 3600), ("90d", 90 * 86400), ("3650d", 3650 * 86400), (7200, 7200)],
)
def test_retentions_are_hours_to_years_or_never(value: object, seconds: int) -> None:
    assert parse_retention(value) == seconds


@pytest.mark.parametrize("value", ["59m", "3651d", "forever", "", "-1d", True, None, 1.5, 60, ["90d"]])
def test_what_is_no_retention_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"kept|not a duration"):
        parse_retention(value)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.quantity import counted, duration, roughly, short_digest, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.0 s"),
        (0, "0.0 s"),
        (3.24, "3.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (9951, "10 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (5 * 10**13, "50 TB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(octets: int, text: str) -> None:
    assert size(octets) == text


def test_digests_are_shortened_as_git_does() -> None:
    assert short_digest("0123456789abcdef" * 4) == "0123456789ab"


def test_counts_have_their_plural() -> None:
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "< 1 s"), (1.0, "~1 s"), (11.0, "~11 s"), (1.25, "1.2 s"), (61.0, "1 min 01 s")]
)
def test_times_of_whole_seconds_claim_no_more(seconds: float, text: str) -> None:
    assert roughly(seconds) == text


@given(st.floats())
def test_every_float_is_a_duration_of_few_characters(seconds: float) -> None:
    for text in (duration(seconds), roughly(seconds)):
        assert 0 < len(text) < 20


@given(st.integers())
def test_every_number_is_a_size(octets: int) -> None:
    assert size(octets)
    assert size(octets * 10**400)

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec.description import Resources
from runner_spec.quantity import parse_quantity
from tests.runner_spec.test_description import problems_of

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("1Gi", Fraction(2**30)),
        ("1.5", Fraction(3, 2)),
        ("1.5Gi", Fraction(3 * 2**29)),
        (".5", Fraction(1, 2)),
        ("1.", Fraction(1)),
        ("2e3", Fraction(2000)),
        ("2E-1", Fraction(1, 5)),
        ("2E", Fraction(2 * 10**18)),
        ("1Ei", Fraction(2**60)),
        ("3u", Fraction(3, 10**6)),
        (2, Fraction(2)),
        (0.1, Fraction(1, 10)),
    ],
)
def test_quantities_are_exact(text: object, value: Fraction) -> None:
    assert parse_quantity(text).value == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        0,
        -1,
        "-1",
        "+1",
        "1 Gi",
        "1gi",
        "Gi",
        "1KiB",
        "1e",
        "1e999",
        "inf",
        "nan",
        float("nan"),
        True,
        None,
        "9" * 30,
        "16Ei",
    ],
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(value)


@given(st.integers(1, 10**5), st.integers(0, 999), st.sampled_from(sorted(SUFFIXES)))
def test_every_decimal_with_a_suffix_is_exact(whole: int, thousandths: int, suffix: str) -> None:
    number = f"{whole}.{thousandths:03d}"
    assert parse_quantity(number + suffix).value == Fraction(Decimal(number)) * SUFFIXES[suffix]


@given(st.lists(st.sampled_from(["1000m", "1", "1.0", "999m", "1Ki", "1024", "2"]), min_size=2, max_size=2))
def test_quantities_are_ordered_by_value_not_by_text(texts: list[str]) -> None:
    left, right = map(parse_quantity, texts)
    assert (left <= right) == (left.value <= right.value)
    assert (left >= right) == (left.value >= right.value)
    assert (left < right) == (left.value < right.value)
    assert (left > right) == (left.value > right.value)


def test_the_text_is_kept_as_written() -> None:
    assert str(parse_quantity("1000m")) == "1000m"


@pytest.mark.parametrize("cpu", ["0.0001", "1.0005", "1Gi"])
def test_a_cpu_is_counted_in_thousandths_of_a_core(cpu: str) -> None:
    (problem,) = problems_of({"image": "a", "steps": [{"run": "x"}], "resources": {"cpu": cpu}})
    assert problem.path == "resources.cpu"


def test_millibytes_are_explained() -> None:
    (problem,) = problems_of({"image": "a", "steps": [{"run": "x"}], "resources": {"memory": "512m"}})
    assert problem.path == "resources.memory"
    assert "512Mi" in problem.message


def test_resources_read_numbers_and_texts() -> None:
    resources = Resources.model_validate({"cpu": 0.5, "memory": "1Gi", "ephemeral-storage": 2**31})
    assert [str(resources.cpu), str(resources.memory), str(resources.ephemeral_storage)] == ["0.5", "1Gi", "2147483648"]

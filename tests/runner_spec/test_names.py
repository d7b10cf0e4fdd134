import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner_spec.names import ATTEMPT_LIMIT, label_value, pod_name, scope_name

ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=60),  # lone surrogates too
    st.sampled_from(
        ["", "a", "A", "a b", "a-b", "-", ".", "x" * 10_000, "x" * 10_000 + "y", "\0", "ü", "u\u0308", "\ud800"]
    ),
)
ATTEMPTS = st.integers(1, ATTEMPT_LIMIT)


@given(ANY_TEXT, ATTEMPTS)
def test_every_job_id_has_a_valid_pod_name(job_id: str, attempt: int) -> None:
    name = pod_name(job_id, attempt)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
    assert name == pod_name(job_id, attempt)
    assert name.startswith("dp-")
    assert name.endswith(f"-{attempt}")


@given(st.tuples(ANY_TEXT, ATTEMPTS), st.tuples(ANY_TEXT, ATTEMPTS))
@example(("a", 11), ("a-1", 1))
@example(("a b", 1), ("a-b", 1))
def test_different_attempts_have_different_pod_names(one: tuple[str, int], other: tuple[str, int]) -> None:
    assert (pod_name(*one) == pod_name(*other)) == (one == other)


@given(ANY_TEXT)
def test_every_text_has_a_valid_label_value(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", label_value(text))


@given(ANY_TEXT, ANY_TEXT)
def test_different_texts_have_different_label_values(one: str, other: str) -> None:
    assert (label_value(one) == label_value(other)) == (one == other)


@given(ANY_TEXT)
def test_nobody_can_choose_a_text_that_equals_anothers_digest(text: str) -> None:
    stolen = label_value(text)
    assert stolen == text or label_value(stolen) != stolen


def test_a_readable_id_stays_readable() -> None:
    uuid = "0b0d3c9e-8f6a-4a39-9f37-0a2f7a1f5f55"
    assert label_value(uuid) == uuid
    assert pod_name("Nightly build #7", 2).startswith("dp-nightly-build-7-")


@pytest.mark.parametrize("attempt", [0, -1, ATTEMPT_LIMIT + 1])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    with pytest.raises(ValueError, match="attempts are counted"):
        pod_name("a", attempt)


@given(ANY_TEXT, ANY_TEXT)
def test_cache_scopes_are_safe_and_distinct(one: str, other: str) -> None:
    assert re.fullmatch(r"source-[a-z0-9-]{1,47}", scope_name("source", one))
    assert (scope_name("source", one) == scope_name("source", other)) == (one == other)

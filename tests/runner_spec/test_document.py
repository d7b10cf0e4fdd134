import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec.description import parse_description
from runner_spec.document import DEPTH_LIMIT, NODES_LIMIT, load_document
from runner_spec.problem import InvalidDescription, Problem
from tests.runner_spec.descriptions import WHOLE


def refusal(source: str | bytes) -> Problem:
    with pytest.raises(InvalidDescription) as caught:
        load_document(source)
    (problem,) = caught.value.problems
    return problem


def test_yaml_and_json_give_the_same_plain_data() -> None:
    text = """
name: test
on: yes
off: 012
empty:
numbers: [1, -2, 0x1F, 0o17, 1.5, 1e3, .5]
texts: ["1", 'true', 2026-01-01, 1:30, NaN, .inf, 0b1]
flags: [true, False, TRUE]
block: |
  one
  two
folded: >-
  one
  two
"""
    expected = {
        "name": "test",
        "on": "yes",
        "off": 12,
        "empty": None,
        "numbers": [1, -2, 31, 15, 1.5, 1000.0, 0.5],
        "texts": ["1", "true", "2026-01-01", "1:30", "NaN", ".inf", "0b1"],
        "flags": [True, False, True],
        "block": "one\ntwo\n",
        "folded": "one two",
    }
    assert load_document(text).data == expected
    assert load_document(json.dumps(expected)).data == expected
    assert load_document("\ufeff" + text).data == expected
    assert load_document(text.encode("utf-8-sig")).data == expected


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), json_values, max_size=4))
def test_any_json_object_is_read_back(data: dict[str, object]) -> None:
    assert load_document(json.dumps(data)).data == data


@given(
    st.text(max_size=60) | st.text(st.sampled_from("a:-[]{},&*!|>'\"#%\n\t ?<"), max_size=40) | st.binary(max_size=40)
)
def test_no_input_does_worse_than_a_refusal(source: str | bytes) -> None:
    try:
        assert isinstance(load_document(source).data, dict)
    except InvalidDescription as error:
        assert error.problems  # noqa: PT017 - a refusal is as good as a document here


@pytest.mark.parametrize(
    ("source", "words", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3", '"a" stands here again (first in line 1, column 1)', 3, 1),
        ('{\n"a": 1,\n "a": 2}', "stands here again", 3, 2),
        ("steps:\n- run: a\n  run: b", '"run" stands here again', 3, 3),
        ("a: 1\n---\nb: 2", "second document", 2, 1),
        ("a: !!python/object/apply:os.system [x]", "tag", 1, 4),
        ("a: [1", "not YAML", 1, 6),
        ("a: b: c", "not YAML", 1, 5),
        ("a: *nobody", "nothing is called", 1, 4),
        ("a: &a [*a]", "nothing is called", 1, 8),
        ("? [a]\n: 1", "a key must be a text", 1, 3),
        ("<<: 3", "<< takes a mapping", 1, 5),
        ("a: b\x00", "U+0000", 1, 5),
        ("a: " + "[" * (DEPTH_LIMIT + 1), "nested deeper", 1, 67),
    ],
)
def test_a_refusal_names_line_and_column(source: str, words: str, line: int, column: int) -> None:
    problem = refusal(source)
    assert words in problem.message
    assert (problem.line, problem.column) == (line, column)
    assert problem.remedy


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "is a mapping"),
        ("- a", "is a mapping"),
        ("[1]", "is a mapping"),
        ("{" * 100_000, "key must be a text"),
        (b"a: \xff", "not UTF-8"),
        ("a: " + "x" * 5_000_000, "5000003 bytes; 4194304 are allowed"),
    ],
)
def test_what_is_no_document_is_refused(source: str | bytes, words: str) -> None:
    assert words in refusal(source).message


def test_aliases_that_multiply_are_refused_before_they_cost_anything() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    began = time.process_time()
    assert f"more than {NODES_LIMIT} values" in refusal("\n".join(lines)).message
    assert time.process_time() - began < 5


def test_aliases_and_merges_are_understood() -> None:
    text = "base: &base {A: '1', B: '2'}\nenv:\n  <<: *base\n  B: '3'\nmore: {<<: [*base, {C: '4'}]}\ncopy: *base"
    data = load_document(text).data
    assert data["env"] == {"A": "1", "B": "3"}
    assert data["more"] == {"A": "1", "B": "2", "C": "4"}
    assert data["copy"] == {"A": "1", "B": "2"}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert load_document("'<<': x").data == {"<<": "x"}


def test_problems_of_a_description_get_their_lines() -> None:
    text = "image: python:3.12\nenv:\n  A: true\n  'B.C': x\nsteps:\n- name: a\n  run: ''\n"
    text += "- run: x\n  nmae: b\ntimeout: 0\n"
    document = load_document(text)
    with pytest.raises(InvalidDescription) as caught:
        parse_description(document.data)
    places = {problem.path: (problem.line, problem.column) for problem in document.locate(caught.value.problems)}
    assert places == {
        "env.A": (3, 3),
        'env["B.C"]': (4, 3),
        "steps[0].run": (7, 3),
        "steps[1].nmae": (9, 3),
        "timeout": (10, 1),
    }


def test_a_missing_key_is_shown_at_its_parent() -> None:
    document = load_document("image: a\nsteps:\n- name: a\n")
    with pytest.raises(InvalidDescription) as caught:
        parse_description(document.data)
    (problem,) = document.locate(caught.value.problems)
    assert (problem.path, problem.line) == ("steps[0].run", 3)
    assert str(problem).startswith("line 3: steps[0].run: ")


def test_the_whole_language_survives_json() -> None:
    assert parse_description(load_document(json.dumps(WHOLE)).data) == parse_description(WHOLE)

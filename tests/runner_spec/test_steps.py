import json
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec.steps import NAME_LIMIT_BYTES, Keep, json_name, steps_fragment

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def fragment(*steps: tuple[str, str], after: tuple[tuple[str, str], ...] = ()) -> str:
    return steps_fragment(steps, after, timeout=60, grace=10, after_budget=30)


def test_the_limits_come_first_in_centiseconds() -> None:
    text = steps_fragment([], [], timeout=1.5, grace=0, after_budget=30)
    assert text == "dynapod_limits 1 150 0 3000\n"


def test_the_keeping_comes_before_the_steps_and_its_hint_survives_the_quoting() -> None:
    keep = Keep(5400, "it's kept: $(id) `x`\nfor long")
    text = steps_fragment([("a", "true")], [], timeout=60, grace=10, after_budget=30, keep=keep)
    _, line, step = text.splitlines()
    assert shlex.split(line) == ["dynapod_keep", "540000", "it's kept: $(id) `x`?for long"]
    assert step.startswith("dynapod_step")


def test_variables_come_before_the_keeping_sorted_by_name() -> None:
    keep = Keep(5400, "kept")
    given = {"B": "it's $x\ny", "A": ""}
    text = steps_fragment(
        [], [], timeout=60, grace=10, after_budget=30, keep=keep, variables=given, defaults=["CI", "GIT_CONFIG_VALUE_0"]
    )
    assert text == (
        "dynapod_limits 1 6000 1000 3000\n"
        """export A='' B='it'"'"'s $x\ny' CI=true GIT_CONFIG_VALUE_0="$DYNAPOD_WORKSPACE"\n"""
        "dynapod_keep 540000 kept\n"
    )


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_a_variable_that_no_process_can_have_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"variables\.X: holds a "):
        steps_fragment([], [], timeout=60, grace=10, after_budget=30, variables={"X": value})


def test_steps_come_before_after_steps_in_the_order_given() -> None:
    text = fragment(("a", "echo 1"), ("b", "echo 2"), after=(("c", "echo 3"),))
    assert text.splitlines()[1:] == [
        "dynapod_step a '\"a\"' 'echo 1'",
        "dynapod_step b '\"b\"' 'echo 2'",
        "dynapod_after c '\"c\"' 'echo 3'",
    ]


@given(TEXT, TEXT)
def test_any_name_and_script_survive_the_quoting(name: str, script: str) -> None:
    words = shlex.split(fragment((name, script)), posix=True)
    assert words[6] == "dynapod_step" or words[5] == "dynapod_step"
    assert words[-1] == script
    shown = json.loads(words[-2])
    assert shown == name or (shown.endswith("…") and name.startswith(shown[:-1]))


def test_a_shell_reads_the_hostile_script_unchanged() -> None:
    script = "printf 'it'\\''s' \"$HOME\" `id` \\ \u2028 \u00e4\u20ac\U0001f600 \r\n\tend\n\n" + "".join(
        map(chr, range(1, 256))
    )
    program = fragment(("hostile", script)) + "\n"
    functions = 'dynapod_limits() { :; }; dynapod_step() { printf %s "$3"; }\n'
    done = subprocess.run(["/bin/sh"], input=(functions + program).encode(), capture_output=True, check=True)
    assert done.stdout.decode() == script


@given(TEXT)
def test_a_name_for_the_report_is_small_ascii_without_a_closing_brace(name: str) -> None:
    text = json_name(name)
    assert len(text.encode("ascii")) <= NAME_LIMIT_BYTES
    assert "}" not in text


def test_control_characters_cannot_forge_a_heading_line() -> None:
    assert "\nforged" not in fragment(("a\n[dynapod] forged", "true"))


@pytest.mark.parametrize(
    ("text", "problem"), [("a\0b", "NUL character at offset 1"), ("\ud800", "lone surrogate at offset 0")]
)
def test_what_no_file_can_hold_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"steps\[1\].run: holds a {problem}"):
        fragment(("ok", "true"), ("bad", text))
    with pytest.raises(ValueError, match=rf"after\[0\].name: holds a {problem}"):
        fragment(after=((text, "true"),))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout: "):
        steps_fragment([], [], timeout=timeout, grace=1, after_budget=1)

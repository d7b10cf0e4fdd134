from pathlib import Path

import pytest

from tests.mutations.sabotage import Sabotage
from tests.mutations.trial import PROJECT, Run, Trial, why_survived

NODES = ("tests/worker/test_x.py::test_one", "tests/worker/test_x.py::test_two")
SABOTAGE = Sabotage("x", "worker/x.py", "a", "b", "all", NODES)
ONE, TWO = "tests.worker.test_x.test_one", "tests.worker.test_x.test_two"
TIMED_OUT = "Failed: Timeout (>90.0s) from pytest-timeout."


def test_what_all_its_tests_notice_is_caught() -> None:
    assert why_survived(SABOTAGE, Run(1, "", {f"{ONE}[server]": "assert 1 == 2", TWO: "assert False"})) == ""


@pytest.mark.parametrize(
    ("run", "why"),
    [
        pytest.param(Run(0, "", {}), "its tests pass", id="nothing fails"),
        pytest.param(Run(1, "", {ONE: "assert False"}), "test_two passes", id="one of two fails"),
        pytest.param(Run(1, "", {f"{ONE}_more": "assert False", TWO: "x"}), "test_one passes", id="another test fails"),
        pytest.param(Run(2, "cannot import", {}), "pytest ended with 2", id="no collection"),
        pytest.param(Run(None, "too long", {}), "pytest ended with None", id="no end"),
        pytest.param(Run(1, "", {ONE: "E   NameError: x", TWO: "y"}), "the edit does not run", id="nonsense"),
        pytest.param(Run(1, "", {ONE: TIMED_OUT, TWO: "y"}), "test_one only timed out", id="out of time"),
    ],
)
def test_everything_else_is_no_catch(run: Run, why: str) -> None:
    assert why in why_survived(SABOTAGE, run)


def test_running_out_of_time_is_a_catch_where_it_is_said() -> None:
    hanging = Sabotage("x", "worker/x.py", "a", "b", "all", NODES[:1], hangs=True)
    assert why_survived(hanging, Run(1, "", {ONE: TIMED_OUT})) == ""


def test_an_edit_is_made_in_the_copy_tried_and_taken_back(tmp_path: Path) -> None:
    """With a test of the pure core, which takes no time."""
    trial = Trial(tmp_path / "copy")
    trial.check_imports()
    copy, original = tmp_path / "copy/runner_spec/retry.py", PROJECT / "runner_spec/retry.py"
    node = "tests/runner_spec/test_retry.py::test_the_platforms_fault_is_the_operators_to_pay"
    edits = {"platform_retries <= policy": True, "(platform_retries) < policy": False}
    for after, caught in edits.items():
        sabotage = Sabotage("x", "runner_spec/retry.py", "platform_retries < policy", after, "all", (node,))
        assert trial.try_out(sabotage).caught is caught
        assert copy.read_bytes() == original.read_bytes()

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.cli.scene import ended, failed, succeeded
from worker.cli.ending import Ending, read_ending
from worker.cli.paint import Paint
from worker.cli.summary import outcome_lines, service_lines, summary, summary_document


def test_the_summary_of_a_success() -> None:
    ending = read_ending(ended(result=succeeded()))
    lines = summary(ending, job_id="job-1", seconds=65.2, paths={"wheel": "out/wheel/dist/a.whl", "junit": "out/junit"})
    assert (
        "\n".join(lines)
        == """
stage             time
waiting          0.5 s
db          1 min 06 s
unfinished           -
checkout         1.2 s
run         1 min 02 s
upload            ~2 s
in all      1 min 05 s
commit 0123456789abcdef0123456789abcdef01234567

step              time  exit
install         20.0 s     0
test            41.5 s     0
report (after)   0.2 s     1

cache    result      size
pip-abc  hit        12 MB
pip-abc  unchanged      -

artifact  result    files    size  sha256        path
wheel     uploaded      1  120 kB  abababababab  out/wheel/dist/a.whl
junit     uploaded      2   900 B  -             out/junit
coverage  skipped       -       -  -             -

junit: 10 tests, 1 failed, 1 error, 2 skipped, 3.0 s
  failed: t.x::test_y
  and 1 more, see the artifact

job-1: succeeded in 1 min 05 s"""
    )


def test_the_summary_of_a_failure_says_whose_fault_it_was() -> None:
    ending = read_ending(ended("failed", failed()))
    assert summary(ending, job_id="job-1", seconds=2, paths={}) == [
        "",
        "job-1: failed (exit code 3, the job's fault, attempt 2) in 2.0 s",
        "  Step test ended with exit code 3.",
    ]


def test_colours_follow_the_verdict() -> None:
    paint = Paint(colours=True)
    assert "\x1b[32msucceeded\x1b[0m" in outcome_lines(Ending("succeeded"), job_id="j", paint=paint)[0]
    assert "\x1b[1;31mfailed\x1b[0m" in outcome_lines(Ending("failed"), job_id="j", paint=paint)[0]
    assert "\x1b[33mcanceled\x1b[0m" in outcome_lines(Ending("canceled"), job_id="j", paint=paint)[0]


def test_a_jobs_texts_cannot_draw_over_the_summary() -> None:
    ending = Ending("failed", message="\x1b[2J\x1b[1;1Hsucceeded\nall fine")
    assert outcome_lines(ending, job_id="j\x1b[2K") == ["j: failed", "  succeeded all fine"]


def test_the_document_holds_the_result_as_it_was_recorded() -> None:
    status = ended(result=succeeded())
    document = summary_document(read_ending(status), status, seconds=1.23456, paths={"wheel": "w"}, exit_status=0)
    assert json.loads(json.dumps(document)) == {
        "job": "job-1",
        "name": "",
        "status": "finished",
        "verdict": "succeeded",
        "exit_status": 0,
        "seconds": 1.235,
        "result": succeeded(),
        "paths": {"wheel": "w"},
    }


def test_a_service_that_crashed_is_shown_with_its_last_lines() -> None:
    crashed = {"name": "db", "crashed": True, "exit_code": 7, "restarts": 2, "reason": "", "lines": ["up", "FATAL: x"]}
    hungry = {"name": "web", "crashed": True, "exit_code": 137, "restarts": 1, "reason": "oom", "lines": []}
    silent = {"name": "mail", "crashed": False, "exit_code": None, "restarts": 0, "reason": "", "lines": ["\x1b[2Jhi"]}
    ending = read_ending(ended("failed", {**failed(), "services": [crashed, hungry, silent]}))
    lines = service_lines(ending.services)
    assert lines == [
        "service db crashed (exit code 7, restarted 2 times); the last lines of its log:",
        "  | up",
        "  | FATAL: x",
        "service web crashed (exit code 137, out of memory, restarted 1 time); its log is empty",
        "service mail was not ready; the last lines of its log:",
        "  | hi",
    ]
    assert set(lines) < set(summary(ending, job_id="job-1", seconds=2, paths={}))


NUMBERS = st.floats() | st.integers() | st.integers().map(lambda number: number * 10**400)
ANYTHING = st.recursive(
    NUMBERS | st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
STAGE = st.fixed_dictionaries(
    {"name": st.sampled_from(["db", "checkout", "run", "upload"])},
    optional={"started_at": NUMBERS | ANYTHING, "seconds": NUMBERS | ANYTHING},
)
STEP = st.fixed_dictionaries({"name": st.just("a"), "exit_code": st.just(0)}, optional={"seconds": NUMBERS | ANYTHING})
CACHE = st.fixed_dictionaries({"key": st.just("k"), "result": st.just("hit"), "size": NUMBERS, "seconds": NUMBERS})
JUNIT = st.fixed_dictionaries({"tests": st.integers(), "seconds": NUMBERS})
ARTIFACT = st.fixed_dictionaries(
    {"name": st.just("a"), "result": st.just("uploaded"), "count": st.integers(), "size": NUMBERS, "junit": JUNIT}
)
RESULTS = st.fixed_dictionaries(
    {"verdict": st.just("failed")},
    optional={
        "stages": st.lists(STAGE, max_size=5) | ANYTHING,
        "steps": st.lists(STEP, max_size=3) | ANYTHING,
        "caches": st.lists(CACHE, max_size=3) | ANYTHING,
        "artifacts": st.lists(ARTIFACT, max_size=3) | ANYTHING,
        "timings": st.fixed_dictionaries({"waiting": NUMBERS}) | ANYTHING,
        "services": ANYTHING,
        "attempt": ANYTHING,
        "exit_code": ANYTHING,
    },
)


@given(RESULTS, st.floats())
def test_whatever_was_recorded_the_end_is_told(result: dict[str, Any], seconds: float) -> None:
    lines = summary(read_ending(ended("failed", result)), job_id="job-1", seconds=seconds, paths={})
    assert any(line.startswith("job-1: failed") for line in lines)


@pytest.mark.parametrize("seconds", [-28.0, 0, 1e308])
def test_times_that_no_clock_measured_are_shown_as_something(seconds: float) -> None:
    """A node whose clock was set back ends a container before it began; a job forges what its steps took."""
    steps = [{"name": name, "exit_code": 0, "seconds": max(0.0, seconds)} for name in ("a", "b")]
    result = {**failed(), "stages": [{"name": "run", "started_at": 12.0, "seconds": seconds}], "steps": steps}
    lines = summary(read_ending(ended("failed", result)), job_id="j", seconds=1, paths={})
    assert any(line.startswith("run ") for line in lines)

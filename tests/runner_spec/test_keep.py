"""`keep: on-failure 1h`: what it says, and that a kept pod's end is the job's failure whoever ended the keeping."""

import pytest

from runner_spec import anatomy
from runner_spec.classify import classify, classify_deleted
from runner_spec.description import parse_description
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.problem import InvalidDescription
from tests.runner_spec.descriptions import least
from tests.runner_spec.pods import START, Json, deleted, disrupted, over

STEP = '{"reason":"step","message":"","steps":[{"name":"test","exit":3,"seconds":1.0}]}'
TIMEOUT = '{"reason":"timeout","message":"","steps":[]}'
CANCELED = '{"reason":"canceled","message":"","steps":[]}'
CASES = [
    ("a step failed", 3, STEP, "exit"),
    ("a step was killed", 137, STEP.replace("3", "137"), "signal"),
    ("the time was over", 124, TIMEOUT, "exit"),
]


def kept(code: int, report: str) -> Json:
    pod = over(code, message=report)
    pod["metadata"]["annotations"][anatomy.ANNOTATION_KEEP] = "3600"
    return pod


def ended(pod: Json, stop: str = "") -> Outcome:
    outcome = classify(pod, START + 4000, stop=stop)
    assert isinstance(outcome, Outcome)
    assert outcome == classify_deleted(pod, stop=stop)
    return outcome


@pytest.mark.parametrize(("code", "report", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("stop", ["", "cancel"])
@pytest.mark.parametrize("how", ["by itself", "a deletion", "a drain"])
def test_a_kept_pods_end_is_the_jobs_failure(code: int, report: str, reason: str, stop: str, how: str) -> None:
    pod = kept(code, report)
    if how == "a deletion":
        pod = deleted(pod, 20)
    if how == "a drain":
        pod = disrupted(pod, "EvictionByEvictionAPI", "drained", 20)
    outcome = ended(pod, stop)
    assert (outcome.verdict, outcome.fault, outcome.exit_code) == (Verdict.FAILED, Fault.JOB, code)
    assert outcome.reason == reason


def test_a_job_that_was_stopped_while_its_steps_ran_is_canceled() -> None:
    assert ended(kept(143, CANCELED), "cancel").verdict is Verdict.CANCELED
    assert ended(kept(137, ""), "cancel").verdict is Verdict.CANCELED


def test_without_keeping_a_request_to_stop_comes_first() -> None:
    assert ended(over(3, message=STEP), "cancel").verdict is Verdict.CANCELED


def test_no_word_of_the_job_makes_a_kept_pod_green() -> None:
    for report in (STEP, '{"reason":"ok"}', ""):
        assert ended(kept(3, report)).verdict is Verdict.FAILED


def test_success_is_success_though_it_might_have_been_kept() -> None:
    assert ended(kept(0, '{"reason":"ok"}')).verdict is Verdict.SUCCEEDED


@pytest.mark.parametrize(
    ("text", "seconds"), [("on-failure 1h", 3600), ("on-failure 90", 90), ("on-failure 1h30m", 5400)]
)
def test_it_says_when_and_for_how_long(text: str, seconds: int) -> None:
    assert parse_description(least(keep=text)).keep == seconds


@pytest.mark.parametrize(
    "value",
    [
        "1h",
        "always 1h",
        "on-failure",
        "on-failure ",
        "on-failure 0s",
        "on-failure 31d",
        "On-Failure 1h",
        3600,
        True,
        {},
    ],
)
def test_anything_else_is_refused_with_what_to_write(value: object) -> None:
    with pytest.raises(InvalidDescription) as caught:
        parse_description(least(keep=value))
    (problem,) = caught.value.problems
    assert (problem.path, problem.remedy) == ("keep", "write on-failure and a duration, such as on-failure 1h")

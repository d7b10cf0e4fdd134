from typing import Any

import pytest

from tests.worker.cli.scene import ended, failed, succeeded
from worker.cli.ending import read_ending
from worker.cli.exit_status import exit_status
from worker.job_status import JobStatus


def outcome(verdict: str, fault: str) -> dict[str, Any]:
    return {"verdict": verdict, "fault": fault, "reason": "r", "message": "m"}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (ended(result=succeeded()), 0),
        (ended("failed", failed()), 1),
        (ended("failed", outcome("rejected", "job")), 2),
        (ended("failed", outcome("failed", "platform")), 3),
        (ended("stopped", outcome("canceled", "user")), 130),
        (ended("canceled"), 130),
        (ended("stopped"), 130),
        (ended("failed", outcome("something-new", "job")), 3),
        (ended("failed", outcome("something-new", "platform")), 3),
    ],
)
def test_the_exit_status_follows_the_recorded_outcome(status: JobStatus, code: int) -> None:
    assert exit_status(read_ending(status)) == code


def test_finished_without_a_recorded_result_is_no_success() -> None:
    ending = read_ending(ended("finished"))
    assert (ending.verdict, exit_status(ending)) == ("unknown", 3)
    assert "no result of dynapod is recorded" in ending.message


def test_a_failure_of_another_worker_shows_its_last_words() -> None:
    ending = read_ending(ended("failed", error="Traceback …\nValueError: bad"))
    assert ending.verdict == "unknown"
    assert "ValueError: bad" in ending.message


def test_a_result_is_read_whole() -> None:
    ending = read_ending(ended(result=succeeded()))
    assert [(stage.name, stage.seconds) for stage in ending.stages] == [
        ("waiting", 0.5),
        ("db", 66.0),
        ("unfinished", None),
        ("checkout", 1.25),
        ("run", 62.0),
        ("upload", 2.0),  # of 64.5, most of which it waited for run
    ]
    assert [step.name for step in ending.steps] == ["install", "test", "report"]
    assert [cache.result for cache in ending.caches] == ["hit", "unchanged"]
    junit = ending.artifacts[1].junit
    assert junit is not None
    assert junit.failed == ("t.x::test_y",)


@pytest.mark.parametrize("damage", [None, 7, "x", [], [1], {"a": 1}, [{"name": None, "seconds": "x", "exit": "y"}]])
@pytest.mark.parametrize("key", ["stages", "timings", "steps", "caches", "artifacts", "commit", "attempt"])
def test_a_damaged_part_does_not_hide_the_verdict(key: str, damage: object) -> None:
    assert read_ending(ended(result={**succeeded(), key: damage})).verdict == "succeeded"


def test_a_job_canceled_while_it_waited_for_its_retry_is_canceled() -> None:
    ending = read_ending(ended("canceled", failed()))
    assert (ending.verdict, ending.fault, exit_status(ending)) == ("canceled", "user", 130)
    assert "canceled while it waited to try again; its last attempt failed: " in ending.message

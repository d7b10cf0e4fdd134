"""What `dynapod status` and `dynapod list` say of a job."""

from typing import Any

import pytest

from tests.worker.cli.scene import START, ended, failed, lost_attempt, queued, started, succeeded
from worker.cli.status_view import attempt_lines, doing, status_lines
from worker.job_status import AttemptRecord, JobStatus

QUOTA = {"verdict": "failed", "fault": "platform", "reason": "quota", "message": "Kubernetes' quota is used up: jobs"}


def wait(number: int, **facts: Any) -> AttemptRecord:
    return AttemptRecord(number, started_at=START + 100, ended_at=START + 101, result=QUOTA, **facts)


def test_the_attempts_are_told_apart_from_waits_which_are_told_together() -> None:
    success = AttemptRecord(59, pod="dp-job-59", started_at=START + 3700, ended_at=START + 3762, result=succeeded())
    records = (lost_attempt(), wait(58, waits=57, waiting_since=START + 61), success)
    assert "\n".join(attempt_lines(records)) == (
        "attempt  outcome          reason           time  pod        message\n"
        "      1  failed           node-lost  1 min 01 s  dp-job-1   The node n1 is gone.\n"
        "     58  waited 57 times  quota          40.0 s  -          Kubernetes' quota is used up: jobs\n"
        "     59  succeeded        ok         1 min 02 s  dp-job-59  All steps ended with 0."
    )


@pytest.mark.parametrize("record", [wait(1), wait(1, waits=1, waiting_since=START + 100)])
def test_a_single_wait_is_not_counted(record: AttemptRecord) -> None:
    (_, line) = attempt_lines([record])
    assert line.split()[:5] == ["1", "waited", "quota", "1.0", "s"]


def test_an_attempt_of_which_little_is_known_is_shown() -> None:
    (_, line) = attempt_lines([AttemptRecord(3, started_at=START)])
    assert line.split() == ["3", *"----"]


def test_the_end_of_a_job_comes_with_its_services_last_lines() -> None:
    crashed = {"name": "db", "crashed": True, "exit_code": 7, "restarts": 2, "reason": "", "lines": ["FATAL: x"]}
    lines = status_lines(ended("failed", {**failed(), "services": [crashed]}, attempt=2, since=START), now=START + 9)
    assert lines == [
        "job       job-1",
        "queue     jobs",
        "status    failed, exit (failed)",
        "attempt   2",
        "",
        "service db crashed (exit code 7, restarted 2 times); the last lines of its log:",
        "  | FATAL: x",
        "job-1: failed (exit code 3, the job's fault, attempt 2)",
        "  Step test ended with exit code 3.",
    ]


def test_a_job_under_way_tells_for_how_long() -> None:
    assert "status    running: run for 9.0 s (started)" in status_lines(
        started(stage="run", since=START), now=START + 9
    )
    waiting = started(stage="waiting", why="run: the image a cannot be pulled", since=START)
    assert "status    waiting: run: the image a cannot be pulled for 9.0 s (started)" in status_lines(
        waiting, START + 9
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ended(result=succeeded()), "succeeded"),
        (ended("failed", failed()), "failed, exit"),
        (ended("failed", {**failed(), "reason": "\x1b[2Jexit"}), "failed, exit"),
        (ended("canceled"), "canceled"),
        (started(stage="checkout"), "running: checkout"),
        (queued(workers=0), "waiting for a worker: none serves queue 'jobs'"),
    ],
)
def test_one_line_says_what_a_job_does(status: JobStatus, words: str) -> None:
    assert doing(status) == words

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.worker.cli.scene import START, ended, queued, started
from worker.cli.waiting import why_it_waits
from worker.job_status import AttemptRecord, JobStatus

DUE = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
NEXT = "next try at 2027-01-02 03:04:05 UTC"
QUOTA = "exceeded quota: jobs, requested: pods=1, used: pods=20, limited: pods=20"


def retried(reason: str, message: str, **facts: Any) -> JobStatus:
    result = {"verdict": "failed", "reason": reason, "message": message}
    record = AttemptRecord(1, started_at=START, ended_at=START + 1, result=result)
    return JobStatus("j", "scheduled", scheduled_at=DUE, attempts=(record,), **facts)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (queued(workers=0), "waiting for a worker: none serves queue 'jobs'"),
        (queued(), "waiting in queue 'jobs'"),
        (
            queued(workers=1, ahead=2, suspended=True),
            "waiting in queue 'jobs': 2 jobs ahead; all queues are suspended: `rq resume` lets the workers go on",
        ),
        (queued(ahead=2), "waiting in queue 'jobs': 2 jobs ahead"),
        (queued(workers=1, capacity=1, in_flight=1), "waiting in queue 'jobs'; the only worker is full: 1 of 1 job"),
        (queued(workers=1, ahead=0), "waiting for a worker to take it"),
        (queued(workers=1), "waiting for a worker to take it"),
        (queued(workers=1, ahead=2), "waiting in queue 'jobs': 2 jobs ahead"),
        (queued(workers=2, ahead=2, capacity=20, in_flight=19), "waiting in queue 'jobs': 2 jobs ahead"),
        (
            queued(workers=2, ahead=1, capacity=20, in_flight=20),
            "waiting in queue 'jobs': 1 job ahead; all 2 workers are full: 20 of 20 jobs",
        ),
        (
            queued(workers=1, ahead=0, capacity=1, in_flight=1),
            "next in queue 'jobs'; the only worker is full: 1 of 1 job",
        ),
        (
            queued(workers=2, ahead=3, capacity=20, in_flight=20, no_room=QUOTA),
            f"waiting in queue 'jobs': 3 jobs ahead; Kubernetes' quota is used up: {QUOTA}",
        ),
        (JobStatus("j", "deferred", waits_for=("a", "b")), "waiting for the jobs it depends on: a, b"),
        (JobStatus("j", "rate_limited"), "waiting for a slot of its rate limit"),
        (
            JobStatus("j", "rate_limited", rate_limit="'deploys', 1 at a time"),
            "waiting for a slot of its rate limit: 'deploys', 1 at a time",
        ),
        (JobStatus("j", "scheduled", scheduled_at=DUE), "waiting for its time: 2027-01-02 03:04:05 UTC"),
        (JobStatus("j", "scheduled"), "waiting for its time"),
        (JobStatus("j", "scheduled", scheduled_at=float("inf")), "waiting for its time: after all time"),
        (JobStatus("j", "scheduled", scheduled_at=1e300), "waiting for its time: after all time"),
        (
            retried("quota", f"Kubernetes' quota is used up: {QUOTA}"),
            f"waiting for room: Kubernetes' quota is used up: {QUOTA}; {NEXT}",
        ),
        (
            retried("evicted", "the node evicted the pod"),
            f"waiting to try again after attempt 1 (evicted: the node evicted the pod); {NEXT}",
        ),
        (started(), "waiting: for its pod to start"),
        (
            started(stage="waiting", why="run: the image a cannot be pulled: not found"),
            "waiting: run: the image a cannot be pulled: not found",
        ),
        (started(stage="run"), ""),
        (started(stage="run", stop_requested_by="me@host"), "stopping: told to by me@host"),
        (ended(), ""),
    ],
)
def test_one_line_says_what_a_job_waits_for(status: JobStatus, why: str) -> None:
    assert why_it_waits(status) == why


def test_words_of_others_cannot_draw_over_the_terminal() -> None:
    assert "\x1b" not in why_it_waits(queued(workers=1, no_room="\x1b[2J full"))

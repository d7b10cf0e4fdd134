"""Statuses, log lines and results to try the command line's texts on."""

from typing import Any

from worker.job_status import AttemptRecord, JobStatus
from worker.log_store import LogChunk

START = 1_800_000_000.0  # Unix seconds


def line(container: str, text: bytes, *, timestamp: str = "T", notice: bool = False) -> LogChunk:
    return LogChunk(container, timestamp, text, notice=notice)


def started(**facts: Any) -> JobStatus:
    return JobStatus(id="job-1", status="started", queue="jobs", **{"attempt": 1, "workers": 1, **facts})


def queued(**facts: Any) -> JobStatus:
    return JobStatus(id="job-1", status="queued", queue="jobs", **facts)


def ended(status: str = "finished", result: dict[str, Any] | None = None, **facts: Any) -> JobStatus:
    return JobStatus(id="job-1", status=status, queue="jobs", result=result or {}, **{"attempt": 1, **facts})


def lost_attempt() -> AttemptRecord:
    result = {"verdict": "failed", "fault": "platform", "reason": "node-lost", "message": "The node n1 is gone."}
    return AttemptRecord(1, pod="dp-job-1", started_at=START, ended_at=START + 61, result=result)


def succeeded() -> dict[str, Any]:
    return {
        "verdict": "succeeded",
        "fault": "none",
        "reason": "ok",
        "message": "All steps ended with 0.",
        "attempt": 1,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "timings": {"waiting": 0.5, "checkout": 1.25, "run": 62.0, "upload": 64.5, "total": 66.25},
        "stages": [
            {"name": "db", "started_at": START, "seconds": 66.0},
            {"name": "checkout", "started_at": START, "seconds": 1.25},
            {"name": "upload", "started_at": START + 1.0, "seconds": 64.5},
            {"name": "run", "started_at": START + 1.5, "seconds": 62.0},
            {"name": "unfinished", "started_at": START, "seconds": None},
        ],
        "steps": [
            {"name": "install", "exit_code": 0, "seconds": 20.0},
            {"name": "test", "exit_code": 0, "seconds": 41.5},
            {"name": "report", "exit_code": 1, "seconds": 0.2, "after": True},
        ],
        "caches": [
            {"key": "pip-abc", "result": "hit", "size": 12_345_678, "seconds": 0.5},
            {"key": "pip-abc", "result": "unchanged"},
        ],
        "artifacts": [
            {
                "name": "wheel",
                "result": "uploaded",
                "count": 1,
                "size": 120_000,
                "files": [{"path": "dist/a.whl", "size": 120_000, "sha256": "ab" * 32}],
            },
            {
                "name": "junit",
                "result": "uploaded",
                "count": 2,
                "size": 900,
                "junit": {
                    "tests": 10,
                    "failures": 1,
                    "errors": 1,
                    "skipped": 2,
                    "seconds": 3,
                    "failed": ["t.x::test_y"],
                },
            },
            {"name": "coverage", "result": "skipped"},
        ],
    }


def failed() -> dict[str, Any]:
    message = "Step test ended with exit code 3."
    return {
        "verdict": "failed",
        "fault": "job",
        "reason": "exit",
        "message": message,
        "exit_code": 3,
        "attempt": 2,
    }

"""A service that knows rq and nothing of dynapod: run as a process of its own, it prints what it saw as JSON."""

import json
import sys
import time
from datetime import timedelta
from typing import Any

from redis import Redis
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError
from rq.job import Job

RUN = "worker.tasks.run"
PATIENCE_S = 60.0


def description(script: str) -> dict[str, Any]:
    return {"name": "produced", "image": "local", "steps": [{"name": "step", "run": script}]}


def wait(job: Job, *statuses: str) -> str:
    """Poll as rq's users do; rq offers nothing else."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        status = job.get_status(refresh=True)
        if status is not None and status.value in statuses:
            return str(status.value)
        time.sleep(0.05)
    return f"still {job.get_status()}"


def main(url: str, folder: str) -> dict[str, Any]:
    connection = Redis.from_url(url)
    queue = Queue("jobs", connection=connection, serializer="json")
    seen: dict[str, Any] = {}

    job = queue.enqueue(RUN, description("echo fine"))
    seen["enqueue"] = wait(job, "finished", "failed")
    seen["return_value"] = job.return_value()["verdict"]

    many = queue.enqueue_many([Queue.prepare_data(RUN, args=(description("true"),)) for _ in range(5)])
    seen["enqueue_many"] = [wait(one, "finished", "failed") for one in many]

    begun = time.monotonic()
    later = queue.enqueue_in(timedelta(seconds=3), RUN, description("true"))
    seen["scheduled"] = later.get_status().value
    seen["enqueue_in"] = wait(later, "finished", "failed")
    seen["waited"] = time.monotonic() - begun >= 2  # rq schedules by whole seconds

    script = f"n=$(cat {folder}/tries 2>/dev/null || echo 0); echo $((n+1)) > {folder}/tries; exit 3"
    retried = queue.enqueue(RUN, description(script), retry=Retry(max=2, interval=[1, 1]))
    seen["retry"] = wait(retried, "failed")
    seen["tries"] = int(open(f"{folder}/tries").read())  # noqa: PTH123, SIM115 - the job's own count
    seen["error"] = retried.latest_result().exc_string

    first = queue.enqueue(RUN, description("sleep 1"))
    second = queue.enqueue(RUN, description("true"), depends_on=first)
    seen["deferred"] = second.get_status().value
    seen["depends_on"] = [wait(first, "finished"), wait(second, "finished")]
    seen["in_order"] = second.started_at is None or second.ended_at >= first.ended_at

    queue.enqueue(RUN, description("sleep 1"), job_id="only", unique=True)
    try:
        queue.enqueue(RUN, description("true"), job_id="only", unique=True)
        seen["unique"] = "enqueued twice"
    except DuplicateJobError:
        seen["unique"] = "refused"

    endless = queue.enqueue(RUN, description("sleep 300"))
    wait(endless, "started")
    send_stop_job_command(connection, endless.id, serializer="json")
    seen["stop"] = wait(endless, "stopped", "finished", "failed")
    return seen


if __name__ == "__main__":
    json.dump(main(sys.argv[1], sys.argv[2]), sys.stdout)

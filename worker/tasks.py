"""The name that producers enqueue: `Queue("jobs", connection=r, serializer="json").enqueue("worker.tasks.run", job)`.

A dynapod worker dispatches on this name and never calls the function. It exists so that the name can be imported by
producers, and so that a stock `rq worker` that takes such a job fails it with the reason.
"""

from collections.abc import Mapping
from typing import Any


class NotADynapodWorkerError(RuntimeError):
    """A job for dynapod was taken by a worker that cannot run it."""


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Stand for one job; see the module's text.

    Raises:
        NotADynapodWorkerError: always; jobs run as pods, started by `dynapod worker`.
    """
    name = job.get("name") if isinstance(job, Mapping) else None
    raise NotADynapodWorkerError(
        f"Job {name!r} describes a pod, and this is a plain rq worker. "
        "Start `dynapod worker` on this queue and stop the rq worker, then requeue the job."
    )

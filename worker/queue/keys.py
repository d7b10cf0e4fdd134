"""Names of rq's keys (rq 3.0.0), as the scripts spell them; dynapod's own are in `runner_spec.wire`."""

from typing import Final

from rq.defaults import RQ_KEY_PREFIX

from worker.queue.errors import QueueRefused

# The scripts and `runner_spec.wire` spell rq's default prefix out.
PREFIX: Final = "rq"
WORKERS: Final = "rq:workers"
SUSPENDED: Final = "rq:suspended"
QUEUES: Final = "rq:queues"


def require_default_prefix() -> None:
    """Refuse to start under another key prefix: half of the protocol would read one set of keys, half another.

    Raises:
        QueueRefused: when RQ_KEY_PREFIX is set to something else.
    """
    if RQ_KEY_PREFIX != PREFIX:
        raise QueueRefused(f"RQ_KEY_PREFIX is {RQ_KEY_PREFIX!r}: dynapod needs {PREFIX!r}. Unset the variable.")


def queue_list(name: str) -> str:
    """The list of waiting job ids."""
    return f"rq:queue:{name}"


def intermediate_list(name: str) -> str:
    """Where a stock rq worker keeps a job between taking and starting it."""
    return f"rq:queue:{name}:intermediate"


def started_registry(name: str) -> str:
    """The zset of `job:execution` members that run."""
    return f"rq:wip:{name}"


def scheduled_registry(name: str) -> str:
    """The zset of job ids by due time."""
    return f"rq:scheduled:{name}"


def canceled_registry(name: str) -> str:
    """The zset of ids of canceled jobs."""
    return f"rq:canceled:{name}"


def scheduler_lock(name: str) -> str:
    """Held by rq's scheduler of the queue."""
    return f"rq:scheduler-lock:{name}"


def queue_workers(name: str) -> str:
    """The set of keys of the queue's workers."""
    return f"rq:workers:{name}"


def job_hash(job_id: str) -> str:
    """The job."""
    return f"rq:job:{job_id}"


def dependents_set(job_id: str) -> str:
    """The jobs that wait for this one."""
    return f"rq:job:{job_id}:dependents"


def execution_hash(job_id: str, execution_id: str) -> str:
    """One execution of a job; its `worker_name` is what every commit is fenced by."""
    return f"rq:execution:{job_id}:{execution_id}"


def worker_hash(worker: str) -> str:
    """A worker, as `rq info` shows it."""
    return f"rq:worker:{worker}"


def worker_executions(worker: str) -> str:
    """The set of `job:execution` members that a worker holds."""
    return f"rq:worker:{worker}:executions"


def command_channel(worker: str) -> str:
    """The channel of rq's commands to a worker (rq.command.PUBSUB_CHANNEL_TEMPLATE)."""
    return f"rq:pubsub:{worker}"

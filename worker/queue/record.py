"""What the end of an attempt writes: rq's own commands, made by rq's own functions, with the ledger and the event.

rq's functions take a pipeline. Given one that is never executed, they only record their commands; `commit.lua`
replays them behind its fence, and the slow path queues the same ones in a transaction. Nothing here talks to Redis
except where `transaction` says so.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rq import Queue
from rq.defaults import DEFAULT_FAILURE_TTL, DEFAULT_RESULT_TTL
from rq.executions import Execution
from rq.group import Group
from rq.job import Job, JobStatus
from rq.repeat import Repeat
from rq.utils import str_to_date

from adapters.redis_server import SyncClient, SyncPipeline
from runner_spec import wire
from worker.queue import keys
from worker.queue.claim import Claim, Held, JobHash, text
from worker.queue.settlement import Action, Fail, Finish, Requeue, Settlement, Stop, event_fields, ledger_entry

logger = logging.getLogger(__name__)

# Seconds that a ledger outlives the last attempt at least; rq's own default keeps a result for 500 s only.
HISTORY_SECONDS: Final = 7 * 86400
# A century: Redis refuses an EXPIRE beyond 2^63 ms in the middle of a commit, and Python a date beyond the year 9999.
LONGEST_SECONDS: Final = 100 * 366 * 86400
# Entries of the events stream, approximately.
EVENTS: Final = 100_000


class RecordedJob(Job):  # type: ignore[misc]  # rq is untyped here
    """A job of rq without its payload: that is in Redis already, and compressing 1 MiB for each commit costs 20 ms."""

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - rq's signature
        """All fields but the payload."""
        fields: dict[str, Any] = super().to_dict(include_meta=include_meta, include_result=include_result)
        del fields["data"]
        return fields


@dataclass(frozen=True, slots=True)
class Record:
    """What has been queued on a pipeline, to be acted on once it is executed."""

    status: str
    job: RecordedJob


def restore_job(claim: Claim, fields: JobHash, connection: SyncClient) -> RecordedJob:
    """The view that rq has of a claimed job; fields that rq cannot read (written by hand, say) are left out."""
    job = RecordedJob(connection=connection, serializer="json")
    job._id = claim.job_id  # noqa: SLF001 - the public setter refuses ids that rq itself would not make
    # Empty is how rq writes "none", and where it does not, it fails to read it.
    # Webhooks are not ours to send; left out, they stay in the hash as they are.
    sound = {n.encode(): value for n, value in fields.items() if value and n != "webhooks" and _sound(n, value)}
    job.restore({**sound, b"data": b""})
    job._status = JobStatus.STARTED  # noqa: SLF001 - the fence has made sure of it
    return job


def needs_transaction(held: Held, settlement: Settlement) -> bool:
    """Whether rq's functions have to read in between: repeats, rate limits, and a result that is kept for no time."""
    job = held.job
    if job.get("rate_limit_key"):
        return True
    match settlement.action:
        case Finish():
            return (job.get("repeats_left") or b"0") != b"0" or job.get("result_ttl") == b"0"
        case Fail() | Stop():
            return job.get("failure_ttl") == b"0"
        case Requeue():
            return False


def terminal_status(action: Action) -> JobStatus:
    """The word of rq for a job that ends this way."""
    match action:
        case Finish():
            return JobStatus.FINISHED
        case Fail():
            return JobStatus.FAILED
        case Stop():
            return JobStatus.STOPPED
        case Requeue():
            raise ValueError("a requeued job has not ended")


class Recorder:
    """Queues the writes of one settlement on a pipeline; `clock` gives the server's time in Unix seconds."""

    def __init__(self, connection: SyncClient, worker: str, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._worker = worker
        self._clock = clock

    def record(self, held: Held, settlement: Settlement, pipeline: SyncPipeline) -> Record:
        """The end of an attempt whose job is still `started`."""
        claim, ended_at = settlement.claim, self._ended_at(settlement)
        job = restore_job(claim, held.job, self._connection)
        job.ended_at = datetime.fromtimestamp(ended_at, UTC)
        queue = Queue(claim.queue, connection=self._connection, serializer="json", job_class=RecordedJob)
        match settlement.action:
            case Finish(result):
                lifetime = self._finish(job, queue, dict(result), settlement, pipeline)
            case Fail(message):
                lifetime = self._fail(job, JobStatus.FAILED, message, settlement, pipeline)
            case Stop(message):
                lifetime = self._fail(job, JobStatus.STOPPED, message, settlement, pipeline)
            case Requeue() as action:
                self._requeue(job, queue, action, settlement, pipeline)
                lifetime = None
        worked = max(ended_at - claim.started_at, 0.0)
        pipeline.hincrbyfloat(keys.worker_hash(self._worker), "total_working_time", worked)
        self._execution(claim).delete(job=job, pipeline=pipeline)
        status = str(job.get_status(refresh=False).value)
        self._close(settlement, status, ended_at, lifetime, pipeline)
        return Record(status, job)

    def detach(self, held: Held, settlement: Settlement, status: str, pipeline: SyncPipeline) -> Record:
        """The end of an attempt whose job went on without it: canceled, deleted or enqueued again (`status`).

        The job's fields and registries are left as they are; only the attempt is put on record.
        """
        job = restore_job(settlement.claim, held.job, self._connection)
        self._execution(settlement.claim).delete(job=job, pipeline=pipeline)
        with suppress(ValueError):  # `deleted` is no status of rq's
            job._status = JobStatus(status)  # noqa: SLF001 - for the release of a rate limit's slot
        lifetime = None if status not in {"canceled", "deleted"} else HISTORY_SECONDS
        self._close(settlement, status, self._ended_at(settlement), lifetime, pipeline)
        return Record(status, job)

    def _ended_at(self, settlement: Settlement) -> float:
        return self._clock() if settlement.ended_at is None else settlement.ended_at

    def _execution(self, claim: Claim) -> Execution:
        execution = Execution(claim.execution_id, claim.job_id, self._connection, worker_name=self._worker)
        execution.created_at = datetime.fromtimestamp(claim.started_at, UTC)
        return execution

    def _result_origin(self, settlement: Settlement) -> dict[str, Any]:
        """Where rq's result says that it comes from."""
        return {
            "worker_name": self._worker,
            "execution_id": settlement.claim.execution_id,
            "execution_started_at": datetime.fromtimestamp(settlement.claim.started_at, UTC),
            "execution_ended_at": datetime.fromtimestamp(self._ended_at(settlement), UTC),
        }

    def _finish(
        self, job: RecordedJob, queue: Queue, result: dict[str, Any], settlement: Settlement, pipeline: SyncPipeline
    ) -> int | None:
        """As BaseWorker.handle_job_success; returns the seconds that the job is kept, None while it goes on."""
        pipeline.hincrby(keys.worker_hash(self._worker), "successful_job_count", 1)
        lifetime = int(job.get_result_ttl(DEFAULT_RESULT_TTL))
        job._result = result  # noqa: SLF001 - where rq's worker puts it
        if lifetime != 0:
            job._handle_success(lifetime, pipeline=pipeline, **self._result_origin(settlement))  # noqa: SLF001 - rq's own writes are the point
        if job.repeats_left is not None and job.repeats_left > 0:
            self._forget_retries(job, pipeline)
            Repeat.schedule(job, queue, pipeline=pipeline)
            return None
        self._end(job, lifetime, pipeline)
        job._status = JobStatus.FINISHED  # noqa: SLF001 - with `result_ttl=0` rq deletes without setting it
        return lifetime

    def _fail(
        self, job: RecordedJob, status: JobStatus, message: str, settlement: Settlement, pipeline: SyncPipeline
    ) -> int:
        """As BaseWorker.handle_job_failure without a retry."""
        pipeline.hincrby(keys.worker_hash(self._worker), "failed_job_count", 1)
        lifetime = DEFAULT_FAILURE_TTL if job.failure_ttl is None else int(job.failure_ttl)
        if lifetime == 0:
            job.set_status(status, pipeline=pipeline)
            self._end(job, lifetime, pipeline)
            return lifetime
        self._forget_retries(job, pipeline)
        job.set_status(status, pipeline=pipeline)
        job._handle_failure(message, pipeline, **self._result_origin(settlement))  # noqa: SLF001 - rq's own writes are the point
        return lifetime

    def _requeue(
        self, job: RecordedJob, queue: Queue, action: Requeue, settlement: Settlement, pipeline: SyncPipeline
    ) -> None:
        """As Job.retry, which sets `scheduled` outside its transaction: a worker that dies there loses the job."""
        if (wait := settlement.wait) is None:
            pipeline.hincrby(keys.worker_hash(self._worker), "failed_job_count", 1)
        else:  # nothing has failed, nothing was tried
            pipeline.hset(job.key, wire.FIELD_WAIT, json.dumps(asdict(wait)))
        if action.consumes_retry and (job.retries_left or 0) > 0:
            job.retries_left -= 1
        if action.delay > 0:
            due = datetime.fromtimestamp(self._ended_at(settlement) + action.delay, UTC)
            # A wait says itself where the job goes on waiting; what it said the time before is in the job's hash.
            wished = settlement.wait is None and (job.enqueue_at_front_on_retry or job.enqueue_at_front)
            job.enqueue_at_front = action.at_front or wished
            queue.schedule_job(job, due, pipeline=pipeline)
        else:
            queue._enqueue_job(job, pipeline=pipeline, at_front=action.at_front or job.enqueue_at_front_on_retry)  # noqa: SLF001 - as rq's own retry
        if action.consumes_retry:
            pipeline.hincrby(job.key, wire.FIELD_JOB_RETRIES, 1)
        if action.platform_fault:
            pipeline.hincrby(job.key, wire.FIELD_PLATFORM_RETRIES, 1)

    def _end(self, job: RecordedJob, lifetime: int, pipeline: SyncPipeline) -> None:
        self._forget_retries(job, pipeline)
        if lifetime == 0 and job.group_id and not self._connection.exists(Group.get_key(job.group_id)):
            job.group_id = None  # rq's delete would raise NoSuchGroupError for a group that was cleaned up
        job.cleanup(lifetime, pipeline=pipeline, remove_from_queue=False)

    @staticmethod
    def _forget_retries(job: RecordedJob, pipeline: SyncPipeline) -> None:
        pipeline.hdel(job.key, wire.FIELD_PLATFORM_RETRIES, wire.FIELD_JOB_RETRIES, wire.FIELD_WAIT)

    def _close(
        self, settlement: Settlement, status: str, ended_at: float, lifetime: int | None, pipeline: SyncPipeline
    ) -> None:
        """The ledger entry and the event; `lifetime` in seconds, negative for ever, None while the job goes on."""
        claim = settlement.claim
        ledger = wire.attempts_key(claim.job_id)
        pipeline.hset(ledger, str(claim.attempt), ledger_entry(settlement, self._worker, ended_at))
        if (wait := settlement.wait) is not None and wait.count > 1:
            # This entry stands for the waits before it, too: hours of them would push out what really happened.
            pipeline.hdel(ledger, str(claim.attempt - 1))
        if lifetime is None or lifetime < 0:
            pipeline.persist(ledger)
        else:
            pipeline.expire(ledger, max(lifetime, HISTORY_SECONDS))
        if lifetime is not None:
            pipeline.delete(wire.stop_key(claim.job_id), wire.state_key(claim.job_id))
        event: Any = event_fields(settlement, self._worker, status, ended_at)
        pipeline.xadd(wire.EVENTS_KEY, event, maxlen=EVENTS, approximate=True)


def flatten(pipeline: SyncPipeline) -> list[list[str | bytes | int | float]]:
    """The commands that were queued on a pipeline, each as a flat list of words."""
    return [_words(arguments) for arguments, _ in pipeline.command_stack]


def _words(arguments: Any) -> list[str | bytes | int | float]:  # noqa: ANN401 - redis-py nests arguments at will
    words: list[str | bytes | int | float] = []
    for argument in arguments:
        if isinstance(argument, list | tuple):
            words.extend(_words(argument))
        else:
            words.append(argument)
    return words


def _sound(name: str, value: bytes) -> bool:
    """Whether rq's `Job.restore` can read the field: it raises on what a foreign producer may have written."""
    check = _CHECKS.get(name)
    try:
        if check is not None:
            check(value)
        value.decode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        logger.warning("job field %s is unreadable: %r", name, value[:100], extra={"action": "field-ignored"})
        return False
    return True


def _date(value: bytes) -> None:
    str_to_date(value)


def _number(value: bytes) -> None:
    if abs(int(value)) > LONGEST_SECONDS:
        raise ValueError("too large")


def _lifetime(value: bytes) -> None:
    _number(value)
    if int(value) == 0:
        raise ValueError("rq would delete the job when it is put back")


def _numbers(value: bytes) -> None:
    numbers = json.loads(value)
    if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 <= n <= LONGEST_SECONDS for n in numbers):
        raise TypeError("not a list of seconds")


def _texts(value: bytes) -> None:
    words = json.loads(value)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TypeError("not a list of strings")


def _status(value: bytes) -> None:
    JobStatus(text(value))


_CHECKS: Final[dict[str, Callable[[bytes], None]]] = {
    **dict.fromkeys(("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"), _date),
    **dict.fromkeys(
        (
            "timeout",
            "result_ttl",
            "failure_ttl",
            "success_callback_timeout",
            "failure_callback_timeout",
            "stopped_callback_timeout",
            "allow_dependency_failures",
            "enqueue_at_front",
            "number_of_retries",
            "retries_left",
            "enqueue_at_front_on_retry",
            "repeats_left",
            "rate_limit_concurrency",
        ),
        _number,
    ),
    "retry_intervals": _numbers,
    "repeat_intervals": _numbers,
    "dependency_ids": _texts,
    "status": _status,
    "ttl": _lifetime,
}

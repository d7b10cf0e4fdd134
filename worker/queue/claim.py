"""A claim: one attempt that this worker owns, with everything it has to know about the job."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from runner_spec import wire

# Fields of rq:job:<id> that a claim reads: all that rq's `Job.restore` knows (3.0.0), but `meta`, `result` and
# `exc_info`, which belong to the producer, may be pickles, and are left as they are; nor `description`, the payload
# once more as text: rq leaves it as it is where a job has none.
JOB_FIELDS: Final = (
    "data",
    "status",
    "origin",
    "created_at",
    "enqueued_at",
    "started_at",
    "ended_at",
    "last_heartbeat",
    "worker_name",
    "group_id",
    "timeout",
    "ttl",
    "result_ttl",
    "failure_ttl",
    "success_callback_name",
    "success_callback_timeout",
    "failure_callback_name",
    "failure_callback_timeout",
    "stopped_callback_name",
    "stopped_callback_timeout",
    "webhooks",
    "dependency_id",
    "dependency_ids",
    "allow_dependency_failures",
    "enqueue_at_front",
    "number_of_retries",
    "retries_left",
    "retry_intervals",
    "enqueue_at_front_on_retry",
    "repeats_left",
    "repeat_intervals",
    "rate_limit_key",
    "rate_limit_concurrency",
    wire.FIELD_PLATFORM_RETRIES,
    wire.FIELD_JOB_RETRIES,
    wire.FIELD_WAIT,
)
# Producers' code that rq's own worker would import and call, or post to; we do neither.
FOREIGN_HOOKS: Final = ("success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks")
CANCELED_BY_RQ: Final = "canceled through rq"
_FORGOTTEN: Final = wire.Refusal("forgotten", "The payload was read before, and is not kept.")

JobHash = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Wait:
    """Attempts in a row that were given back at once and cost nothing, as for want of room in the namespace.

    A job may wait for hours, with an attempt a minute. `count` of them, for the same `reason`, the last one being
    `attempt`; `since` (Unix seconds) is when the first was minted.
    """

    attempt: int
    reason: str
    count: int
    since: float


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt of a job, owned by this worker.

    `attempt` counts from 1 over the whole life of the job id and is never used twice; budgets of retries are counted
    by `platform_retries` and `job_retries` instead: how often this job was put back because of the platform's faults,
    or its own, since it was last enqueued. `wait` ends with the attempt right before this one, None when that one was
    no wait. `adopted`: not the reply to our own claim or mint. Another incarnation minted the attempt (`minted_by`), or
    this one did and a failover of Redis has brought it back: there may have been a pod, so it may only be found, never
    created. Otherwise it is ours to create. `payload` is the job description or why it
    is refused. `retries_left` and `retry_interval` (seconds before the next one) are rq's `Retry`, None without one.
    `stop_requested` says who asked to end the job, None when nobody did. Times are Unix seconds by the server's clock:
    `claimed_at` when the reply was made, `started_at` when the attempt was minted, `enqueued_at` as the producer wrote.
    `waited`: for how many seconds the attempts before this one, whose pods were never found, had been held; 0 for none.
    `workers_lost`: above zero when that many workers have died of this job, as many as the policy allows: its payload
    is left out, it must not be handled, only ended (`poison.py`).
    """

    job_id: str
    attempt: int
    execution_id: str
    queue: str
    payload: dict[str, Any] | wire.Refusal
    adopted: bool
    minted_by: str
    claimed_at: float
    started_at: float
    enqueued_at: float | None = None
    retries_left: int | None = None
    retry_interval: float | None = None
    platform_retries: int = 0
    job_retries: int = 0
    wait: Wait | None = None
    stop_requested: str | None = None
    foreign_hooks: tuple[str, ...] = ()
    waited: float = 0.0
    workers_lost: int = 0

    @property
    def member(self) -> str:
        """The execution's name in rq's registries."""
        return f"{self.job_id}:{self.execution_id}"

    def forget_payload(self) -> None:
        """It is launched: of the thousands of claims that a worker holds, only those on their way to a pod need it."""
        object.__setattr__(self, "payload", _FORGOTTEN)


@dataclass(frozen=True, slots=True)
class Held:
    """A claim and the job's hash at that moment, without the payload and without empty values, which rq takes for none.

    The commit is made from it.
    """

    claim: Claim
    job: JobHash = field(repr=False)


def read_reply(reply: Sequence[Any], now: float, *, adopted: bool) -> Held:
    """What prelude.lua's `describe` wrote, at server time `now`; see `Claim.adopted`."""
    raw_id, raw_execution, attempt, raw_minted_by, created_at, since, lost, stop, values = reply
    job = {name: value for name, value in zip(JOB_FIELDS, values, strict=True) if value}
    data = job.pop("data", b"")
    job_id, minted_by = text(raw_id), text(raw_minted_by or b"")
    retries_left = whole(job.get("retries_left"))
    claim = Claim(
        job_id=job_id,
        attempt=whole(attempt) or 1,
        execution_id=text(raw_execution),
        queue=text(job.get("origin", b"")),
        payload=_payload(raw_id, data),
        adopted=adopted,
        minted_by=minted_by,
        claimed_at=now,
        started_at=float(created_at or now),
        enqueued_at=unix_seconds(job.get("enqueued_at")),
        retries_left=retries_left,
        retry_interval=_retry_interval(retries_left, job.get("retry_intervals")),
        platform_retries=whole(job.get(wire.FIELD_PLATFORM_RETRIES)) or 0,
        job_retries=whole(job.get(wire.FIELD_JOB_RETRIES)) or 0,
        wait=_wait_before(whole(attempt) or 1, job.get(wire.FIELD_WAIT)),
        stop_requested=stop_request(job.get("status", b""), stop),
        foreign_hooks=tuple(name for name in FOREIGN_HOOKS if job.get(name) not in {None, b"", b"[]"}),
        waited=max(now - float(since or now), 0.0),
        workers_lost=whole(lost) or 0,
    )
    return Held(claim, job)


def text(value: bytes) -> str:
    """Bytes of Redis as text; what is not UTF-8 survives the way back (`surrogateescape`)."""
    return value.decode("utf-8", "surrogateescape")


def whole(value: bytes | None) -> int | None:
    """A whole number, None when it is absent or is none: hashes of foreign producers must not stop the loop."""
    try:
        return int(value) if value else None
    except ValueError:
        return None


def unix_seconds(value: bytes | None) -> float | None:
    """A date as rq writes it (`2026-01-01T00:00:00.000000Z`, or any ISO 8601), None when it is absent or is none."""
    try:
        parsed = datetime.fromisoformat(text(value or b"").strip())
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def stop_request(status: bytes, flag: bytes | None) -> str | None:
    """Who asked to end the job: the durable flag's author, or rq's own cancel, which only changes the status."""
    if flag is not None:
        return flag.decode("utf-8", "replace") or "unknown"
    return CANCELED_BY_RQ if status == b"canceled" else None


def _wait_before(attempt: int, value: bytes | None) -> Wait | None:
    """The waits that this attempt follows. What another end has followed is over, whether or not it was cleared."""
    try:
        found = json.loads(value or b"{}")
        wait = Wait(int(found["attempt"]), str(found["reason"]), int(found["count"]), float(found["since"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return wait if wait.attempt == attempt - 1 and wait.count > 0 and math.isfinite(wait.since) else None


def _payload(raw_id: bytes, data: bytes) -> dict[str, Any] | wire.Refusal:
    try:
        raw_id.decode()
    except UnicodeDecodeError:
        return wire.Refusal("id", "The job's id is not UTF-8. Enqueue it again under another id.")
    return wire.decode_payload(data)


def _retry_interval(retries_left: int | None, intervals: bytes | None) -> float | None:
    """Seconds before the next retry, as rq's `Job.get_retry_interval`: by how many retries are left of the list."""
    if retries_left is None or retries_left <= 0:
        return None
    try:
        listed = [float(interval) for interval in json.loads(intervals or b"[0]")] or [0.0]
    except (ValueError, TypeError):
        return 0.0
    return listed[max(len(listed) - retries_left, 0)]

"""The queue's wire contract: what producers write, and the Redis keys that are dynapod's own.

Everything rq itself defines stays rq's (`rq:job:<id>`, `rq:queue:<name>`, …). A job is
`Queue("jobs", connection=r, serializer="json").enqueue("worker.tasks.run", description, job_id=…)`, or, from any
language, three commands:

    HSET rq:job:<id> data '["worker.tasks.run",null,[<description>],{}]' status queued origin jobs
         created_at 2026-01-01T00:00:00.000000Z enqueued_at 2026-01-01T00:00:00.000000Z
    SADD rq:queues rq:queue:jobs
    RPUSH rq:queue:jobs <id>

The worker dispatches on `FUNCTIONS`; it never imports what the queue names, and it reads JSON only: a pickle is
refused, not opened.
"""

import json
import zlib
from dataclasses import dataclass
from typing import Any, Final

RUN_FUNCTION: Final = "worker.tasks.run"
FUNCTIONS: Final = frozenset({RUN_FUNCTION})
DEFAULT_QUEUE: Final = "jobs"
PAYLOAD_LIMIT_BYTES: Final = 16 * 1024 * 1024  # decompressed; far beyond any description that admission accepts

# Fields that dynapod adds to rq's own hashes.
FIELD_ATTEMPT: Final = "dynapod_attempt"  # of rq:job:<id>: the number of the newest attempt, from 1
FIELD_MINTED_BY: Final = "dynapod_minted_by"  # of rq:execution:…: the worker incarnation that minted the attempt
# of rq:job:<id>: how often it was put back since it was enqueued, by whose fault; absent when never, and at the end
FIELD_PLATFORM_RETRIES: Final = "dynapod_platform_retries"
FIELD_JOB_RETRIES: Final = "dynapod_job_retries"
# of rq:job:<id>: JSON `{"attempt", "reason", "count", "since"}`: the waits in a row up to this attempt (worker/queue)
FIELD_WAIT: Final = "dynapod_wait"

# of rq:worker:<name>, written with every heartbeat: jobs that the worker may hold, jobs that it holds, and, while the
# namespace has no room for more pods, Kubernetes' words about it
FIELD_CAPACITY: Final = "dynapod_capacity"
FIELD_IN_FLIGHT: Final = "dynapod_in_flight"
FIELD_NO_ROOM: Final = "dynapod_no_room"

PREFIX: Final = "dynapod:"
LEASES_KEY: Final = PREFIX + "leases"  # zset: worker incarnation → unix seconds at which its lease ends
# Seconds: the longest that can be set. One that seems to be longer was written before the server's clock was set back.
LONGEST_LEASE_S: Final = 600
EVENTS_KEY: Final = PREFIX + "events"  # stream, bounded: one entry per recorded end of an attempt


def attempts_key(job_id: str) -> str:
    """The ledger: a hash of attempt number → JSON `{"outcome": …, "started_at", "ended_at", "pod", "worker"}`.

    Of attempts in a row that were given back for want of room, only the newest is there: its `wait` counts them.
    """
    return f"{PREFIX}attempts:{job_id}"


def state_key(job_id: str) -> str:
    """What the job does right now: a hash `attempt`, `stage`, `why`, `pod`, `containers` (JSON list), `since`."""
    return f"{PREFIX}state:{job_id}"


def stop_key(job_id: str) -> str:
    """A durable request to stop the job; its value says who asked (rq's stop command alone is fire-and-forget)."""
    return f"{PREFIX}stop:{job_id}"


def masks_key(job_id: str, attempt: int) -> str:
    """JSON list of base64 values to mask in this attempt's logs; written by the gateway, read by the worker."""
    return f"{PREFIX}masks:{job_id}:{attempt}"


def log_stream_key(job_id: str, attempt: int, container: str) -> str:
    """Live log of one container: a stream of `o` (offset of the first byte) and `d` (bytes as Kubernetes sends)."""
    return f"{PREFIX}log:{job_id}:{attempt}:{container}"


def log_index_key(job_id: str, attempt: int) -> str:
    """Hash of container → JSON `{"size", "pieces", "complete", "cursor", "gaps"}`: how far each log is stored."""
    return f"{PREFIX}logs:{job_id}:{attempt}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A payload that is never executed: `reason` for programs, `message` with the remedy for people."""

    reason: str
    message: str


def decode_payload(data: bytes) -> dict[str, Any] | Refusal:
    """The job description in rq's `data` field (raw or zlib-compressed JSON), or why it is refused.

    Accepts `[function, instance, args, kwargs]` with the description as the only argument (or the only keyword
    argument, `job`). Never unpickles.
    """
    try:
        # Bounded: 1 MiB of zeros compresses to 1 KiB, and whoever may enqueue could exhaust the worker's memory.
        text = zlib.decompressobj().decompress(data, PAYLOAD_LIMIT_BYTES)
    except zlib.error:
        text = data  # producers in other languages need not compress
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        limit = f"{PAYLOAD_LIMIT_BYTES >> 20} MiB"
        return Refusal(
            "payload",
            f"The payload is no JSON of {limit} at most. Enqueue with serializer='json'; pickles are never opened.",
        )
    if not isinstance(call, list) or len(call) != 4:  # noqa: PLR2004 - rq's [function, instance, args, kwargs]
        return Refusal("payload", f'The payload must be ["{RUN_FUNCTION}", null, [description], {{}}].')
    function, instance, args, kwargs = call
    if not isinstance(function, str) or function not in FUNCTIONS or instance is not None:
        return Refusal("function", f"Function {str(function)[:200]!r} is not known here. Enqueue {RUN_FUNCTION!r}.")
    if isinstance(kwargs, dict) and list(kwargs) == ["job"] and not args:
        args = [kwargs["job"]]
    elif kwargs:
        return Refusal("arguments", "Pass the job description as the only argument.")
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], dict):
        return Refusal("arguments", "Pass the job description, an object, as the only argument.")
    return args[0]

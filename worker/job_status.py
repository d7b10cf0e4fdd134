"""What is known about one job, read from raw Redis hashes: rq's own fields and dynapod's (`runner_spec.wire`).

Pure: bytes in, frozen values out. Nothing is unpickled, and every decompression is bounded, because whoever may write
to Redis could otherwise run code, or exhaust memory, in the process of whoever merely asks for a job's status.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from runner_spec import wire

# rq's JobStatus values after which nothing more happens (rq/job.py, 3.0.0).
ENDED: Final = frozenset({"finished", "failed", "stopped", "canceled"})
# Statuses of a job that no worker holds.
WAITING: Final = frozenset({"created", "queued", "deferred", "scheduled", "rate_limited", "ready_to_enqueue"})
ALL_STATUSES: Final = tuple(sorted(ENDED | WAITING | {"started"}))

# A payload or traceback is read up to here: 16 MiB is far beyond any description that admission accepts.
DECOMPRESSED_LIMIT_BYTES: Final = 16 * 1024 * 1024

# Of a worker's hash: what says how much room there is.
LOAD_FIELDS: Final = ("queues", wire.FIELD_CAPACITY, wire.FIELD_IN_FLIGHT, wire.FIELD_NO_ROOM)

RawHash = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One entry of the attempts ledger; times are Unix seconds, None when unknown.

    `result` is the dictionary of `runner_spec.result`, or at least the outcome's fields of it. An attempt that only
    waited stands for those right before it, too: `waits` counts them all, `waiting_since` is when the first began.
    """

    number: int
    pod: str = ""
    worker: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    waits: int = 0
    waiting_since: float | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment.

    `status` is rq's word. `ahead` counts the jobs before it in its queue, None when it is not in the queue.
    `workers` counts live workers, for a job in a queue those that serve it, None when nobody asked; of these,
    `capacity` is how many jobs they may hold and `in_flight` how many they do (None when they do not say), and
    `no_room` what Kubernetes said to one of them when a quota left no room for its pod. `rate_limit` is rq's, as text.
    `stage`, `why`, `pod`, `containers` and `since` (Unix seconds) say what the newest attempt does now. `result` is
    that of the newest attempt that ended, or empty. `error` is rq's own failure text. `waits_for` are the ids of
    unfinished dependencies' jobs; `scheduled_at` is in Unix seconds. `suspended`: by `rq suspend`, which holds for all
    queues.
    """

    id: str
    status: str
    queue: str = ""
    name: str = ""
    created_at: datetime | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ahead: int | None = None
    workers: int | None = None
    capacity: int | None = None
    in_flight: int | None = None
    no_room: str = ""
    rate_limit: str = ""
    worker: str = ""
    attempt: int = 0
    stage: str = ""
    why: str = ""
    pod: str = ""
    containers: tuple[str, ...] = ()
    since: float | None = None
    stop_requested_by: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    waits_for: tuple[str, ...] = ()
    scheduled_at: float | None = None
    suspended: bool = False

    @property
    def ended(self) -> bool:
        """Whether the job has its final status; a job between two attempts has not ended."""
        return self.status in ENDED

    def as_dict(self) -> dict[str, Any]:
        """JSON-pure form, for `--json`: times are ISO 8601 in UTC, or Unix seconds where rq keeps those."""
        times = ("created_at", "enqueued_at", "started_at", "ended_at")
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data.update({name: data[name].isoformat() if data[name] else None for name in times})
        data["attempts"] = [
            {name: getattr(record, name) for name in AttemptRecord.__slots__} for record in self.attempts
        ]
        data["containers"], data["waits_for"] = list(self.containers), list(self.waits_for)
        return data


@dataclass(frozen=True, slots=True)
class RawStatus:
    """The Redis replies that together describe a job; see `JobClient.status` for the commands.

    `loads` has, for each live worker that serves the job's queue, the values of `LOAD_FIELDS`.
    """

    job: RawHash
    state: RawHash = field(default_factory=dict)
    ledger: RawHash = field(default_factory=dict)
    latest_result: RawHash = field(default_factory=dict)
    ahead: int | None = None
    workers: int | None = None
    stop: bytes | None = None
    loads: Sequence[Sequence[bytes | None]] = ()
    scheduled_at: float | None = None
    suspended: bool = False


def read_status(job_id: str, raw: RawStatus) -> JobStatus:
    """The job's status from what Redis holds; a damaged field counts as absent, it never hides the others."""
    job, state = raw.job, raw.state
    attempts = _ledger(raw.ledger)
    status = _text(job.get(b"status"))
    # A worker whose hash has expired during an outage does not say which queues it serves: it is given the benefit.
    queue = _text(job.get(b"origin"))
    serving = [load for load in raw.loads if not load[0] or queue in _text(load[0]).split(",")]
    return JobStatus(
        id=job_id,
        status=status,
        queue=_text(job.get(b"origin")),
        name=_description_name(job.get(b"data", b"")),
        created_at=_time(job.get(b"created_at")),
        enqueued_at=_time(job.get(b"enqueued_at")),
        started_at=_time(job.get(b"started_at")),
        ended_at=_time(job.get(b"ended_at")),
        ahead=raw.ahead,
        workers=len(serving) if raw.loads else raw.workers,
        capacity=_sum(serving, 1),
        in_flight=_sum(serving, 2),
        no_room=next((words for load in serving if (words := _text(load[3]))), ""),
        rate_limit=_rate_limit(job),
        worker=_text(job.get(b"worker_name")),
        attempt=_whole(state.get(b"attempt")) or _whole(job.get(wire.FIELD_ATTEMPT.encode())) or 0,
        stage=_text(state.get(b"stage")),
        why=_text(state.get(b"why")),
        pod=_text(state.get(b"pod")),
        containers=_texts(state.get(b"containers")),
        since=_seconds(_text(state.get(b"since"))),
        stop_requested_by=None if raw.stop is None else _text(raw.stop),
        attempts=attempts,
        result=_result(raw.latest_result, attempts) if status in ENDED else {},
        error=_failure_text(raw.latest_result.get(b"exc_string")),
        waits_for=_texts(job.get(b"dependency_ids")),
        scheduled_at=raw.scheduled_at,
        suspended=raw.suspended,
    )


def _result(latest: RawHash, attempts: Sequence[AttemptRecord]) -> Mapping[str, Any]:
    """The ledger knows every end; rq's own return value only those that rq calls finished."""
    value = _json_object(_decode_base64(latest.get(b"return_value")))
    if value:
        return value
    return next((record.result for record in reversed(attempts) if record.result), {})


def _sum(loads: Sequence[Sequence[bytes | None]], place: int) -> int | None:
    """None unless every worker says it: half a sum would make them look full."""
    numbers = [_whole(load[place]) for load in loads]
    return None if not numbers or None in numbers else sum(filter(None, numbers))


def _rate_limit(job: RawHash) -> str:
    key, most = _text(job.get(b"rate_limit_key")), _whole(job.get(b"rate_limit_concurrency"))
    return f"{key!r}, {most} at a time" if key and most else repr(key) if key else ""


def _ledger(ledger: RawHash) -> tuple[AttemptRecord, ...]:
    records = []
    for field_name, value in ledger.items():
        number, entry = _whole(field_name), _json_object(value)
        if number is None:
            continue
        # The result holds the outcome's fields and more; an attempt that got no pod may have the outcome alone.
        result = next((found for found in (entry.get("result"), entry.get("outcome")) if isinstance(found, dict)), {})
        wait = found if isinstance(found := entry.get("wait"), dict) else {}
        records.append(
            AttemptRecord(
                number=number,
                pod=str(entry.get("pod") or ""),
                worker=str(entry.get("worker") or ""),
                started_at=_seconds(entry.get("started_at")),
                ended_at=_seconds(entry.get("ended_at")),
                result=result,
                waits=count if isinstance(count := wait.get("count"), int) else 0,
                waiting_since=_seconds(wait.get("since")),
            )
        )
    return tuple(sorted(records, key=lambda record: record.number))


def _description_name(data: bytes) -> str:
    payload = wire.decode_payload(_decompress(data) or b"")
    return str(payload.get("name") or "") if isinstance(payload, dict) else ""


def _failure_text(encoded: bytes | None) -> str:
    return _text(_decompress(_decode_base64(encoded))).strip()


def _decompress(data: bytes) -> bytes:
    """What zlib compressed, up to the limit (then empty); data that is not compressed is returned as it is."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, DECOMPRESSED_LIMIT_BYTES)
    except zlib.error:
        return data
    return b"" if unpacker.unconsumed_tail else text


def _decode_base64(data: bytes | None) -> bytes:
    try:
        return base64.b64decode(data or b"", validate=True)
    except binascii.Error:
        return b""


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(data: bytes | None) -> tuple[str, ...]:
    try:
        value = json.loads(data or b"[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _whole(data: bytes | None) -> int | None:
    try:
        return int(data or b"")
    except ValueError:
        return None


def _seconds(value: object) -> float | None:
    """Unix seconds from a number or from ISO 8601 text; producers and rq use both."""
    if value is None or value == "":
        return None
    try:
        return float(str(value))
    except ValueError:
        moment = _time(str(value).encode())
        return moment.timestamp() if moment else None


def _time(data: bytes | None) -> datetime | None:
    if not data:
        return None
    try:
        moment = datetime.fromisoformat(_text(data))
    except ValueError:
        return None
    # rq writes UTC with a Z; a producer that forgot the zone meant UTC too (rq reads it so).
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

"""The job queue as a producer and an onlooker see it: submit, ask, follow, cancel.

Works on one `redis.asyncio` client, against any dynapod worker (or rq's own). Reads raw fields only and never
unpickles; writes exactly what rq 3.0's own functions write, by calling them.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from adapters.redis_server import AsyncClient, translated
from runner_spec import wire
from worker.job_status import ALL_STATUSES, LOAD_FIELDS, JobStatus, RawStatus, read_status

if TYPE_CHECKING:
    from rq import Queue
    from rq.job import Job

    from adapters.object_store import ObjectStore
    from worker.log_store import LogChunk

# rq accepts no other ids (rq/job.py, JOB_ID_PATTERN); producers that write three plain commands may use any.
JOB_ID_PATTERN: Final = re.compile(r"[a-zA-Z0-9_-]+")

QUEUES_KEY: Final = "rq:queues"
# rq's registries per status (rq/registry.py, key_template); `wip` members are `<job>:<execution>`.
REGISTRIES: Final = {
    "started": "wip",
    "finished": "finished",
    "failed": "failed",
    "stopped": "failed",
    "deferred": "deferred",
    "scheduled": "scheduled",
    "canceled": "canceled",
    "ready_to_enqueue": "ready",
}

# Seconds to wait for replicas; a command may take five in all (`redis_connections.CONTROL_TIMEOUT`).
REPLICAS_TIMEOUT: Final = 4.0

RQ_SUSPENDED: Final = "rq:suspended"  # rq/suspension.py: while it is there, no worker takes a job

# One script, so that a claim cannot fall between the look at the status and the write. A waiting job gets what rq's
# Job.cancel writes (rq/job.py); a claimed one gets the durable request, and rq's own command for stock workers.
CANCEL_SCRIPT: Final = """
local status = redis.call('HGET', KEYS[1], 'status')
if not status then
    return {'unknown', ''}
end
local id, by = ARGV[1], ARGV[2]
local origin = redis.call('HGET', KEYS[1], 'origin') or ''
if status == 'started' then
    redis.call('SET', KEYS[2], by)
    local worker = redis.call('HGET', KEYS[1], 'worker_name')
    if worker and worker ~= '' then
        redis.call('PUBLISH', 'rq:pubsub:' .. worker, cjson.encode({command = 'stop-job', job_id = id, by = by}))
    end
    return {'stopping', status}
end
if status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled' then
    return {'ended', status}
end
if status == 'rate_limited' then
    return {'refused', status}
end
redis.call('HSET', KEYS[1], 'status', 'canceled')
redis.call('LREM', 'rq:queue:' .. origin, 0, id)
for _, registry in ipairs({'deferred', 'scheduled', 'ready'}) do
    redis.call('ZREM', 'rq:' .. registry .. ':' .. origin, id)
end
local now = redis.call('TIME')
redis.call('ZADD', 'rq:canceled:' .. origin, now[1], id)
-- The claim of an earlier attempt has made the ledger permanent; nobody else will end it (scripts/canceled.lua).
local kept = tonumber(redis.call('HGET', KEYS[1], 'failure_ttl') or 31536000) or 31536000
if kept >= 0 then
    redis.call('EXPIRE', KEYS[3], string.format('%d', math.max(kept, 604800)))
end
return {'canceled', status}
"""


# A write that changes nothing and is sent to the replicas, after the job.
TOUCH_SCRIPT: Final = """
local origin = redis.call('HGET', KEYS[1], 'origin')
if origin then
    redis.call('HSET', KEYS[1], 'origin', origin)
end
"""


class ClientError(Exception):
    """A request of a client that cannot be met; the message names the job and the remedy."""


class UnknownJobError(ClientError):
    """No job of this id is known: never enqueued, or its record has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}: it was never enqueued here, or its record has expired")


class DuplicateJobIdError(ClientError):
    """A job of this id exists and `unique` was asked for."""


class NotReplicatedError(ClientError):
    """The job is enqueued on the primary, and fewer replicas than asked for have said that they have it."""

    def __init__(self, job_id: str, acknowledged: int, replicas: int, seconds: float) -> None:
        super().__init__(
            f"job {job_id!r} is enqueued, but is not safe yet: {acknowledged} of {replicas} replicas have it after "
            f"{seconds:g} s, and a failover now could lose it. Submit it again with the same job id, or see to the "
            "replicas"
        )


class Cancellation(StrEnum):
    """What a request to cancel did."""

    CANCELED = "canceled"  # it had not started and never will
    STOPPING = "stopping"  # it runs; its worker has been told, and will find the request even after a restart
    ENDED = "ended"  # too late: it had ended before


class LogSource(Protocol):
    """Reads the log of one attempt, from the durable store and then live."""

    def read(
        self, job_id: str, attempt: int, *, container: str | None = None, follow: bool = False
    ) -> "AsyncGenerator[LogChunk, None]":
        """Lines in order per container; with `follow`, until the attempt's logs are complete."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest jobs, newest first; `total` counts those that exist, `jobs` may be fewer."""

    jobs: tuple[JobStatus, ...]
    total: int


class JobClient:
    """Talks to the queue through `redis`; `store` is needed for logs only.

    Every method raises `adapters.redis_server.RedisError` when Redis fails. Nothing is sent twice: after a
    `RedisUnavailable`, what was asked for may have been done or not.
    """

    def __init__(
        self, redis: AsyncClient, store: "ObjectStore | None" = None, *, logs: LogSource | None = None
    ) -> None:
        self.redis = redis
        self.store = store
        self._logs = logs

    async def submit(
        self,
        description: Mapping[str, Any],
        *,
        job_id: str | None = None,
        unique: bool = False,
        queue: str = wire.DEFAULT_QUEUE,
        replicas: int = 0,
        replicas_timeout: float = REPLICAS_TIMEOUT,
        result_ttl: int | None = None,
    ) -> str:
        """Enqueue one job and return its id; on return, the job is in Redis, and in `replicas` copies of it.

        A success is kept for `result_ttl` seconds, rq's 500 by default.

        With `replicas`, a job of this id that exists is left as it is, in whatever state: after a
        `NotReplicatedError` or a `RedisUnavailable` it may be submitted again, and never runs twice. Waits for at most
        `replicas_timeout` seconds.

        Raises:
            ValueError: when rq would refuse `job_id`, or `replicas` or `replicas_timeout` cannot be used.
            DuplicateJobIdError: when `unique` and a job of that id exists.
            NotReplicatedError: when `replicas` have not acknowledged in time; the job is enqueued.
        """
        job_id = str(uuid.uuid4()) if job_id is None else job_id
        if not JOB_ID_PATTERN.fullmatch(job_id):
            raise ValueError(f"job id {job_id!r}: use letters, digits, `_` and `-` only, at least one")
        rq_queue, job = self._rq_job(dict(description), job_id, queue, result_ttl)
        if replicas:
            await self._enqueue_replicated(rq_queue, job, unique=unique, replicas=replicas, seconds=replicas_timeout)
        elif unique:
            await self._enqueue_unique(self.redis, rq_queue, job)
        else:
            pipeline = self.redis.pipeline(transaction=True)
            self._enqueue(rq_queue, job, pipeline)
            await _execute(pipeline)
        return job_id

    async def _enqueue_replicated(
        self,
        rq_queue: "Queue",
        job: "Job",
        *,
        unique: bool,
        replicas: int,
        seconds: float,
    ) -> None:
        """Enqueue and WAIT on one connection: Redis waits for the writes of the connection that asks."""
        if replicas < 0 or not 0 < seconds <= REPLICAS_TIMEOUT:
            raise ValueError(
                f"replicas {replicas}, timeout {seconds:g} s: ask for one replica at least, and wait for more than 0 "
                f"and at most {REPLICAS_TIMEOUT:g} s"
            )
        with translated():
            connection = await self.redis.client().initialize()
        async with connection:
            try:
                await self._enqueue_unique(connection, rq_queue, job)
            except DuplicateJobIdError:
                if unique:
                    raise
                # Nothing was written on this connection, and WAIT would answer for nothing.
                await _reply(connection.eval(TOUCH_SCRIPT, 1, f"rq:job:{job.id}"))
            acknowledged = await _reply(connection.wait(replicas, int(seconds * 1000)))
        if acknowledged < replicas:
            raise NotReplicatedError(job.id, acknowledged, replicas, seconds)

    def _enqueue(self, rq_queue: "Queue", job: "Job", pipeline: Any) -> None:  # noqa: ANN401 - redis-py's own is untyped
        """Let rq put its own commands (SADD, HSET, HSET, RPUSH) on an asynchronous pipeline: it only calls methods."""
        pipeline.multi()
        pipeline.sadd(rq_queue.redis_queues_keys, rq_queue.key)
        rq_queue._enqueue_job(job, pipeline=pipeline)  # noqa: SLF001 - `enqueue_job` reads dependencies synchronously

    async def ping(self) -> None:
        """Ask Redis for an answer: where this fails, nothing of what comes after was sent."""
        await _reply(self.redis.ping())

    async def _enqueue_unique(self, redis: AsyncClient, rq_queue: "Queue", job: "Job") -> None:
        from rq import scripts  # noqa: PLC0415 - rq takes 0.2 s to import; the command line starts without it

        rq_queue._prepare_for_queue(job)  # noqa: SLF001 - rq's own enqueue calls it; there is no public way without I/O
        fields = scripts._build_hset_args(job)  # noqa: SLF001 - the arguments of the script below
        await _reply(redis.sadd(QUEUES_KEY, rq_queue.key))
        keys, arguments = [f"rq:job:{job.id}", rq_queue.key], [job.id, "R", -1, *fields]
        stored = await _reply(redis.eval(scripts.UNIQUE_ENQUEUE_SCRIPT, len(keys), *keys, *arguments))
        if not stored:
            raise DuplicateJobIdError(f"a job {job.id!r} exists already: choose another id, or leave out unique")

    def _rq_job(self, description: dict[str, Any], job_id: str, queue: str, result_ttl: int | None) -> tuple[Any, Any]:
        """The queue and job objects of rq. They only keep the connection; what they would do with it is done here."""
        from rq import Queue  # noqa: PLC0415 - as above

        rq_queue = Queue(queue, connection=self.redis, serializer="json")
        # rq asks the server for its version when it is not known, and uses it for nothing that is written.
        rq_queue.redis_server_version = (6, 2, 0)
        title = f"{wire.RUN_FUNCTION}({str(description.get('name') or '')!r})"  # rq's own holds the whole description
        job = rq_queue.create_job(
            wire.RUN_FUNCTION, args=[description], job_id=job_id, description=title, result_ttl=result_ttl
        )
        return rq_queue, job

    async def status(self, job_id: str) -> JobStatus:
        """Everything known about one job, in two round trips; in three while it is in a queue.

        Raises:
            UnknownJobError: when Redis has no such job.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hgetall(f"rq:job:{job_id}")
        pipeline.hgetall(wire.state_key(job_id))
        pipeline.hgetall(wire.attempts_key(job_id))
        pipeline.xrevrange(f"rq:results:{job_id}", count=1)
        pipeline.get(wire.stop_key(job_id))
        pipeline.time()
        job, state, ledger, results, stop, now = await _execute(pipeline)
        if not job.get(b"status"):
            raise UnknownJobError(job_id)
        queue = _queue(job)
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.lpos(f"rq:queue:{queue}", job_id)
        pipeline.zscore(f"rq:scheduled:{queue}", job_id)
        pipeline.zrangebyscore(wire.LEASES_KEY, now[0], "+inf")
        pipeline.exists(RQ_SUSPENDED)
        ahead, scheduled_at, workers, suspended = await _execute(pipeline)
        loads = await self._loads(workers) if job.get(b"status") == b"queued" else []
        latest = results[0][1] if results else {}
        return read_status(
            job_id,
            RawStatus(
                job, state, ledger, latest, ahead, len(workers), stop, loads, scheduled_at, suspended=bool(suspended)
            ),
        )

    async def _loads(self, workers: Sequence[bytes]) -> Sequence[Sequence[bytes | None]]:
        """What the live workers said of their room with their last heartbeats."""
        pipeline = self.redis.pipeline(transaction=False)
        for worker in workers:
            pipeline.hmget(b"rq:worker:" + worker, *LOAD_FIELDS)
        return list(await _execute(pipeline)) if workers else []

    async def changes(self, job_id: str, *, interval: float = 0.25) -> AsyncIterator[JobStatus]:
        """The job's status now and after every change, the last one being its end.

        `interval` is in seconds. State lives in hashes, which Redis announces to nobody: hence the looking.

        Raises:
            UnknownJobError: when Redis has no such job, also when its record expires underway.
        """
        previous = None
        while True:
            status = await self.status(job_id)
            if status != previous:
                yield status
            if status.ended:
                return
            previous = status
            await asyncio.sleep(interval)

    async def wait(self, job_id: str, *, interval: float = 0.25) -> JobStatus:
        """The job's status once it has ended.

        Raises:
            UnknownJobError: as `changes` does.
        """
        async for status in self.changes(job_id, interval=interval):
            if status.ended:
                return status
        raise UnknownJobError(job_id)  # not reached: `changes` ends with the end, or raises

    async def list(
        self, *, statuses: Iterable[str] = (), queues: Sequence[str] | None = None, limit: int = 100
    ) -> Listing:
        """The newest jobs of these rq statuses (all by default) in these queues (all by default)."""
        wanted = frozenset(statuses) or frozenset(ALL_STATUSES)
        names = sorted(queues if queues is not None else await self._queues())
        pipeline = self.redis.pipeline(transaction=False)
        for queue in names:
            for registry in _registries(wanted):
                pipeline.zcard(f"rq:{registry}:{queue}")
                pipeline.zrevrange(f"rq:{registry}:{queue}", 0, limit - 1)
            if "queued" in wanted:
                pipeline.llen(f"rq:queue:{queue}")
                pipeline.lrange(f"rq:queue:{queue}", -limit, -1)
        replies = await _execute(pipeline)
        members = dict.fromkeys(member for found in replies[1::2] for member in found)
        brief = await self._brief(members)
        jobs = [job for job_id, raw in brief.items() if (job := read_status(job_id, raw)).status in wanted]
        jobs.sort(key=lambda job: (job.created_at.timestamp() if job.created_at else 0.0, job.id), reverse=True)
        newest = jobs[:limit]
        placed = await self._placed({job.id: brief[job.id] for job in newest if job.status in {"queued", "scheduled"}})
        return Listing(tuple(placed.get(job.id, job) for job in newest), max(sum(replies[0::2]), len(jobs)))

    async def _queues(self) -> tuple[str, ...]:
        keys = await _reply(self.redis.smembers(QUEUES_KEY))
        return tuple(key.decode("utf-8", "surrogateescape").removeprefix("rq:queue:") for key in keys)

    async def _brief(self, members: Iterable[bytes]) -> dict[str, RawStatus]:
        """Job and state of each registry member, by id; a member whose job has expired is left out."""
        ids = tuple(dict.fromkeys(_registry_job_id(member) for member in members))
        jobs = {}
        for start in range(0, len(ids), 500):  # 500 jobs a round trip: about 1 MB of replies
            chunk = ids[start : start + 500]
            pipeline = self.redis.pipeline(transaction=False)
            for job_id in chunk:
                pipeline.hgetall(f"rq:job:{job_id}")
                pipeline.hgetall(wire.state_key(job_id))
                pipeline.hgetall(wire.attempts_key(job_id))
            replies = await _execute(pipeline)
            for job_id, job, state, ledger in zip(chunk, replies[0::3], replies[1::3], replies[2::3], strict=True):
                if job.get(b"status"):
                    jobs[job_id] = RawStatus(job, state, ledger)
        return jobs

    async def _placed(self, jobs: Mapping[str, RawStatus]) -> dict[str, JobStatus]:
        """Jobs that wait, with what `status` says of their waiting: place or time, and the workers' room."""
        if not jobs:
            return {}
        pipeline = self.redis.pipeline(transaction=False)
        for job_id, raw in jobs.items():
            queue = _queue(raw.job)
            pipeline.lpos(f"rq:queue:{queue}", job_id, rank=-1)  # from the tail, near which the newest are
            pipeline.zscore(f"rq:scheduled:{queue}", job_id)
        pipeline.exists(RQ_SUSPENDED)
        pipeline.time()
        *places, suspended, now = await _execute(pipeline)
        workers = await _reply(self.redis.zrangebyscore(wire.LEASES_KEY, now[0], "+inf"))
        loads = await self._loads(workers)
        placed = {}
        for (job_id, raw), ahead, due in zip(jobs.items(), places[0::2], places[1::2], strict=True):
            told = loads if raw.job[b"status"] == b"queued" else []
            facts = replace(
                raw, ahead=ahead, scheduled_at=due, workers=len(workers), loads=told, suspended=bool(suspended)
            )
            placed[job_id] = read_status(job_id, facts)
        return placed

    async def cancel(self, job_id: str, *, by: str = "client") -> Cancellation:
        """Cancel a waiting job, or ask for the stop of a running one; `by` is kept as evidence.

        Raises:
            UnknownJobError: when Redis has no such job.
            ClientError: for a job that waits for rq's rate limit, which rq alone may cancel.
        """
        keys = [f"rq:job:{job_id}", wire.stop_key(job_id), wire.attempts_key(job_id)]
        reply = await _reply(self.redis.eval(CANCEL_SCRIPT, len(keys), *keys, job_id, by))
        word, status = (part.decode() if isinstance(part, bytes) else str(part) for part in reply)
        if word == "unknown":
            raise UnknownJobError(job_id)
        if word == "refused":
            raise ClientError(f"job {job_id!r} is {status}: cancel it with rq's own Job.cancel, which frees its slot")
        return Cancellation(word)

    def logs(
        self, job_id: str, attempt: int, *, container: str | None = None, follow: bool = False
    ) -> "AsyncGenerator[LogChunk, None]":
        """The log of one attempt; with `follow`, until it is complete.

        Raises:
            ClientError: when this client has no store, where the older part of every log is.
        """
        if self._logs is None:
            if self.store is None:
                raise ClientError("logs need the object store: name the worker's with --store or DYNAPOD_STORE")
            from worker.log_store import LogReader  # noqa: PLC0415 - brings the object store's library

            self._logs = LogReader(self.redis, self.store)
        return self._logs.read(job_id, attempt, container=container, follow=follow)


async def _execute(pipeline: Any) -> Any:  # noqa: ANN401 - redis-py's own pipeline and replies
    return await _reply(pipeline.execute())


async def _reply(reply: Any) -> Any:  # noqa: ANN401 - redis-py types its replies as `Awaitable[T] | T`
    with translated():
        return await reply


def _queue(job: Mapping[bytes, bytes]) -> str:
    return job.get(b"origin", b"").decode("utf-8", "surrogateescape")


def _registries(statuses: Iterable[str]) -> list[str]:
    return sorted({REGISTRIES[status] for status in statuses if status in REGISTRIES})


def _registry_job_id(member: bytes) -> str:
    """The job of a registry's member: `<job>`, or `<job>:<execution>` with 32 hexadecimal digits (rq's uuid4)."""
    text = member.decode("utf-8", "surrogateescape")
    job_id, separator, execution = text.rpartition(":")
    return job_id if separator and re.fullmatch(r"[0-9a-f]{32}", execution) else text

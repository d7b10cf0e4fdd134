"""What Redis holds, as one number per different content, and the product's queue as a function from one to the next."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from rq import Queue

from adapters.redis_server import embed
from runner_spec import wire
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.ownership import Record
from worker.queue import Claim, Fail, Finish, JobQueue, LeaseLost, Requeue, Settlement
from worker.queue.lease import Lease
from worker.queue.script import Script

if TYPE_CHECKING:
    from worker.queue.claim import Held

NOW: Final = 1_800_000_000.0  # the time that everybody has, all the while
LEASE_S: Final = 100.0
LIVE: Final = NOW + LEASE_S
FAR_OFF: Final = 9e9  # every score of rq's registries
LAPSED: Final = NOW - 1.0  # not so long ago that the lease would be forgotten
DATE: Final = b"2026-01-01T00:00:00.000000Z"
# Written for people and for rq; no script of ours decides by them.
UNREAD: Final = ("rq:results:", "rq:worker:", "rq:workers", "rq:queues", "dynapod:events", "dynapod:state:")
DATES: Final = frozenset({b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat"})
UNIX_TIMES: Final = frozenset({b"created_at", b"last_heartbeat", b"dynapod_held_since", b"dynapod_since"})

Content = tuple[tuple[bytes, str, Any], ...]  # key, type, value
Key = tuple[str, str, int, bool]  # execution, job, attempt, adopted: a claim


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call has left in Redis and said to the worker."""

    redis: int
    claims: tuple[Key, ...] = ()
    let_go: tuple[str, ...] = ()  # executions
    dead: frozenset[str] = frozenset()  # incarnations whose lease has lapsed
    lost: bool = False  # the worker's lease
    recorded: bool = False


class QueueStates:
    """Contents of Redis by number, and every call that was made of them, made once.

    `commit` replaces the text of commit.lua, to see what the model says of a sabotaged one.
    """

    def __init__(self, jobs: tuple[str, ...], workers: int, *, commit: Callable[[str], str] = str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connections = embed()
        self._sync: Any = self._connections.sync
        self._contents: list[Content] = []
        self._numbers: dict[Content, int] = {}
        self._replies: dict[tuple[Any, ...], Reply] = {}
        self._records: dict[tuple[int, str], Record] = {}
        self._claims: dict[Key, Held] = {}
        self._execution = 0
        patch("time.time", lambda: NOW).start()
        patch.object(Lease, "now", lambda _: NOW).start()
        patch("worker.queue.job_queue.uuid4", self._uuid).start()
        self._queues = {f"w{number}": self._queue(f"w{number}", commit) for number in range(1, workers + 1)}
        for job in jobs:
            Queue("jobs", connection=self._sync, serializer="json").enqueue(wire.RUN_FUNCTION, {}, job_id=job)
        self.jobs = jobs
        self.first = self._number()

    def close(self) -> None:
        for queue in self._queues.values():
            self._loop.run_until_complete(queue._committer.aclose())
        self._loop.run_until_complete(self._connections.aclose())
        self._loop.close()
        patch.stopall()

    # calls

    def born(self, redis: int, worker: str) -> Reply:
        """A worker takes its lease."""

        async def call(_: JobQueue) -> Reply:
            self._sync.zadd(wire.LEASES_KEY, {worker: LIVE})
            return Reply(self._number())

        return self._call("born", redis, worker, (), call)

    def lapse(self, redis: int, worker: str) -> Reply:
        """Its time is up."""

        async def call(_: JobQueue) -> Reply:
            if (self._sync.zscore(wire.LEASES_KEY, worker) or 0) > 0:
                self._sync.zadd(wire.LEASES_KEY, {worker: LAPSED})
            return Reply(self._number())

        return self._call("lapse", redis, worker, (), call)

    def claim(self, redis: int, worker: str, held: tuple[Key, ...], number: int) -> Reply:
        """One job; `number` becomes the execution's id."""

        async def call(queue: JobQueue) -> Reply:
            self._execution = number
            claims = await queue.claim(1)
            return Reply(self._number(), self._keys(queue, claims))

        return self._call("claim", redis, worker, (held, number), call)

    def beat(self, redis: int, worker: str, held: tuple[Key, ...]) -> Reply:
        """As `Adoption.run`: renew, ask who is dead, audit, adopt."""

        async def call(queue: JobQueue) -> Reply:
            await queue.renew()
            dead = await queue.lapsed()
            claims = await queue.adopt(10)
            let_go = []
            while not queue._commands.empty():
                command = queue._commands.get_nowait()
                assert command.execution_id is not None
                let_go.append(command.execution_id)
            return Reply(self._number(), self._keys(queue, claims), tuple(sorted(let_go)), frozenset(dead))

        return self._call("beat", redis, worker, (held,), call)

    def mint(self, redis: int, worker: str, key: Key) -> Reply:
        async def call(queue: JobQueue) -> Reply:
            claim = await queue.mint(self._claims[key].claim)
            return Reply(self._number(), self._keys(queue, [claim] if claim else []))

        return self._call("mint", redis, worker, ((key,),), call)

    def settle(self, redis: int, worker: str, key: Key, *, succeeded: bool) -> Reply:
        """Record an end; the platform's fault is tried again once."""

        async def call(queue: JobQueue) -> Reply:
            recorded = await queue.settle(settlement(self._claims[key].claim, succeeded=succeeded))
            return Reply(self._number(), recorded=recorded)

        return self._call("settle", redis, worker, ((key,), succeeded), call)

    # what there is

    def waiting(self, redis: int) -> bool:
        """Whether a job is in the queue."""
        return any(key == b"rq:queue:jobs" for key, _, _ in self._contents[redis])

    def record(self, redis: int, job: str) -> Record:
        """What `Orphans` would read."""
        if (redis, job) not in self._records:
            content = {key.decode(): value for key, _, value in self._contents[redis]}
            fields = dict(content.get(f"rq:job:{job}", ()))
            recorded = frozenset(int(number) for number, _ in content.get(wire.attempts_key(job), ()))
            newest = int(fields.get(wire.FIELD_ATTEMPT.encode(), 0)) or max(recorded, default=0)
            status = fields.get(b"status", b"").decode()
            self._records[redis, job] = Record(bool(fields), status, newest, recorded)
        return self._records[redis, job]

    def ends(self, redis: int, job: str) -> list[tuple[int, str]]:
        """Attempts whose record ended the job, and how."""
        content = {key.decode(): value for key, _, value in self._contents[redis]}
        entries = content.get(wire.attempts_key(job), ())
        kinds = ("finish", "fail", "stop")
        return [(int(n), kind) for n, entry in entries for kind in kinds if f'"action":"{kind}"'.encode() in entry]

    @property
    def calls(self) -> int:
        """Calls made of the product's queue."""
        return len(self._replies)

    # inside

    def _queue(self, worker: str, commit: Callable[[str], str]) -> JobQueue:
        queue = JobQueue(self._connections, ["jobs"], worker, lease_seconds=LEASE_S, worker_losses=0)
        text = commit(queue._committer._script.text)
        if text != queue._committer._script.text:
            queue._committer._script = Script(text, self._sync.script_load(text))
        self._loop.run_until_complete(_started(queue))
        return queue

    def _uuid(self) -> Any:
        class Identity:
            hex = f"{self._execution:028x}"

        return Identity

    def _call(
        self, name: str, redis: int, worker: str, facts: tuple[Any, ...], call: Callable[[JobQueue], Awaitable[Reply]]
    ) -> Reply:
        memory = (name, redis, worker, facts)
        if memory not in self._replies:
            held = facts[0] if facts else ()
            self._replies[memory] = self._loop.run_until_complete(self._make(redis, worker, held, call))
        return self._replies[memory]

    async def _make(
        self, redis: int, worker: str, held: tuple[Key, ...], call: Callable[[JobQueue], Awaitable[Reply]]
    ) -> Reply:
        self._restore(redis)
        queue = self._queues[worker]
        queue._held = {key[0]: self._claims[key] for key in held}
        queue._strays, queue._told, queue._scan_due, queue.lease._settled_at = set(), set(), 0.0, 0.0
        while not queue._commands.empty():
            queue._commands.get_nowait()
        try:
            return await call(queue)
        except LeaseLost:
            return Reply(self._number(), lost=True)

    def _keys(self, queue: JobQueue, claims: list[Claim]) -> tuple[Key, ...]:
        found = []
        for claim in claims:
            key = (claim.execution_id, claim.job_id, claim.attempt, claim.adopted)
            self._claims[key] = queue._held[claim.execution_id]
            found.append(key)
        return tuple(found)

    def _number(self) -> int:
        content = tuple(sorted(self._read(key) for key in self._sync.keys("*") if _is_read(key.decode())))
        if content not in self._numbers:
            self._numbers[content] = len(self._contents)
            self._contents.append(content)
        return self._numbers[content]

    def _read(self, key: bytes) -> tuple[bytes, str, Any]:
        """One key, with all times alike: nothing may depend on how long the exploration takes."""
        kind = self._sync.type(key).decode()
        if kind == "hash":
            job = key.startswith(b"rq:job:")
            times, time = (DATES, DATE) if job else (UNIX_TIMES, b"%f" % NOW)
            if key.startswith(b"dynapod:attempts:"):
                times = frozenset()
            return key, kind, tuple(sorted((f, time if f in times else v) for f, v in self._sync.hgetall(key).items()))
        if kind == "zset":
            score = _lease if key == wire.LEASES_KEY.encode() else lambda _: FAR_OFF
            return key, kind, tuple(sorted((m, score(s)) for m, s in self._sync.zrange(key, 0, -1, withscores=True)))
        if kind == "set":
            return key, kind, tuple(sorted(self._sync.smembers(key)))
        if kind == "list":
            return key, kind, tuple(self._sync.lrange(key, 0, -1))
        assert kind == "string", (key, kind)
        return key, kind, self._sync.get(key)

    def _restore(self, redis: int) -> None:
        self._sync.flushall()
        for key, kind, value in self._contents[redis]:
            if kind == "hash":
                self._sync.hset(key, mapping=dict(value))
            elif kind == "zset":
                self._sync.zadd(key, dict(value))
            elif kind == "set":
                self._sync.sadd(key, *value)
            elif kind == "list":
                self._sync.rpush(key, *value)
            else:
                self._sync.set(key, value)


def settlement(claim: Claim, *, succeeded: bool) -> Settlement:
    """As `Ending` would make it."""
    if succeeded:
        return Settlement(claim, Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0), Finish({}))
    outcome = Outcome(Verdict.FAILED, Fault.PLATFORM, "pod-deleted", "the pod is gone")
    action = Requeue(platform_fault=True, at_front=True) if claim.platform_retries < 1 else Fail("the pod is gone", {})
    return Settlement(claim, outcome, action)


async def _started(queue: JobQueue) -> None:
    queue._committer.start()


def _is_read(key: str) -> bool:
    return not key.startswith(UNREAD) or key.endswith(":executions")


def _lease(score: float) -> float:
    """Live, lapsed, or taken from; the time it is so for decides nothing here."""
    if score <= 0:
        return -LAPSED
    return LIVE if score > NOW else LAPSED

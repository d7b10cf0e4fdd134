"""What Redis holds, as one number per different content, and the product's queue as a function from one to the next."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from rq import Queue

from adapters.redis_server import embed
from runner_spec import wire
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.ownership import Record
from worker.client import CANCEL_SCRIPT
from worker.queue import Action, Claim, CommandKind, Fail, Finish, JobQueue, LeaseLost, Requeue, Settlement, Stop
from worker.queue.lease import Lease
from worker.queue.script import Script, load

if TYPE_CHECKING:
    from worker.queue.claim import Held

NOW: Final = 1_800_000_000.0  # the time that everybody has, all the while
LEASE_S: Final = 100.0
LIVE: Final = NOW + LEASE_S
FUTURE: Final = NOW + 86400.0  # taken before the clock was set back by a day
FAR_OFF: Final = 9e9  # every score of rq's registries
LAPSED: Final = NOW - 1.0  # not so long ago that the lease would be forgotten
DATE: Final = b"2026-01-01T00:00:00.000000Z"
# Written for people and for rq; no script of ours decides by them.
UNREAD: Final = ("rq:results:", "rq:worker:", "rq:workers", "rq:queues", "dynapod:events", "dynapod:state:")
DATES: Final = frozenset({b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat"})
UNIX_TIMES: Final = frozenset({b"created_at", b"last_heartbeat", b"dynapod_held_since", b"dynapod_since"})

Content = tuple[tuple[bytes, str, Any], ...]  # key, type, value
Key = tuple[str, str, int, bool, int]  # execution, job, attempt, adopted, retries for the platform's faults: a claim
Names = tuple[tuple[str, str], ...]  # from, to
NOBODY: Final = "w0"
_NAME: Final = re.compile(rb"\bw[0-9]\b")
_EXECUTION: Final = re.compile(rb"\b[0-9a-f]{32}\b")
_LEDGER: Final = b"dynapod:attempts:"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call has left in Redis and said to the worker."""

    redis: int
    claims: tuple[Key, ...] = ()
    let_go: tuple[str, ...] = ()  # executions
    stops: frozenset[str] = frozenset()  # executions whose end somebody has asked for
    dead: frozenset[str] = frozenset()  # incarnations whose lease has lapsed
    lost: bool = False  # the worker's lease
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Mentions:
    """Of whom a content of Redis speaks, ledgers left out: they are history."""

    workers: frozenset[str]
    executions: frozenset[str]
    leases: Mapping[str, float]


class QueueStates:
    """Contents of Redis by number, and every call that was made of them, made once.

    `commit` replaces the text of commit.lua, `scripts` those of the others: to see what the model says of a sabotage.
    """

    def __init__(
        self,
        jobs: tuple[str, ...],
        workers: int,
        *,
        commit: Callable[[str], str] = str,
        scripts: Callable[[str], str] = str,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._connections = embed()
        self._sync: Any = self._connections.sync
        self._contents: list[Content] = []
        self._numbers: dict[Content, int] = {}
        self._replies: dict[tuple[Any, ...], Reply] = {}
        self._records: dict[tuple[int, str], Record] = {}
        self._claims: dict[Key, Held] = {}
        self._mentions: dict[int, Mentions] = {}
        self._renamed: dict[tuple[int, Names, frozenset[str]], int] = {}
        self._execution = 0
        patch("time.time", lambda: NOW).start()
        patch.object(Lease, "now", lambda _: NOW).start()
        patch("worker.queue.job_queue.uuid4", self._uuid).start()
        for module in ("job_queue", "lease"):
            patch(f"worker.queue.{module}.load", lambda name: self._sabotaged(load(name), scripts)).start()
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
        """Its time is up; one that ends tomorrow only seems to, and will not be waited for."""

        async def call(_: JobQueue) -> Reply:
            if 0 < (self._sync.zscore(wire.LEASES_KEY, worker) or 0) <= LIVE:
                self._sync.zadd(wire.LEASES_KEY, {worker: LAPSED})
            return Reply(self._number())

        return self._call("lapse", redis, worker, (), call)

    def set_back(self, redis: int) -> int:
        """The server's clock goes back by a day: all leases seem to last."""

        async def call(_: JobQueue) -> Reply:
            leases = self._sync.zrange(wire.LEASES_KEY, 0, -1, withscores=True)
            if living := [name for name, score in leases if score > 0]:
                self._sync.zadd(wire.LEASES_KEY, dict.fromkeys(living, FUTURE))
            return Reply(self._number())

        return self._call("set back", redis, "w1", (), call).redis

    def stop(self, redis: int, job: str) -> int:
        """Somebody asks for the job's end, as `Client.cancel`."""

        async def call(_: JobQueue) -> Reply:
            names = (f"rq:job:{job}", wire.stop_key(job), wire.attempts_key(job))
            self._sync.eval(CANCEL_SCRIPT, len(names), *names, job, "somebody")
            return Reply(self._number())

        return self._call(f"stop {job}", redis, "w1", (), call).redis

    def claim(self, redis: int, worker: str, held: tuple[Key, ...], number: int) -> Reply:
        """One job; `number` becomes the execution's id."""

        async def call(queue: JobQueue) -> Reply:
            self._execution = number
            claims = await queue.claim(1)
            return Reply(self._number(), self._keys(queue, claims), stops=_asked(claims))

        return self._call("claim", redis, worker, (held, number), call)

    def beat(self, redis: int, worker: str, held: tuple[Key, ...]) -> Reply:
        """As `Adoption.run`: renew, ask who is dead, audit, adopt."""

        async def call(queue: JobQueue) -> Reply:
            await queue.renew()
            dead = await queue.lapsed()
            claims = await queue.adopt(10)
            let_go, stops = [], set(_asked(claims))
            while not queue._commands.empty():
                command = queue._commands.get_nowait()
                assert command.execution_id is not None
                if command.kind is CommandKind.STOP:
                    stops.add(command.execution_id)
                else:
                    let_go.append(command.execution_id)
            keys = self._keys(queue, claims)
            return Reply(self._number(), keys, tuple(sorted(let_go)), frozenset(stops), frozenset(dead))

        return self._call("beat", redis, worker, (held,), call)

    def mint(self, redis: int, worker: str, key: Key) -> Reply:
        async def call(queue: JobQueue) -> Reply:
            claim = await queue.mint(self._claims[key].claim)
            claims = [claim] if claim else []
            return Reply(self._number(), self._keys(queue, claims), stops=_asked(claims))

        return self._call("mint", redis, worker, ((key,),), call)

    def settle(self, redis: int, worker: str, key: Key, verdict: Verdict, *, stop: bool) -> Reply:
        """Record an end; the platform's fault is tried again once, unless somebody has asked for the job's end."""

        async def call(queue: JobQueue) -> Reply:
            recorded = await queue.settle(settlement(self._claims[key].claim, verdict, stop=stop))
            return Reply(self._number(), recorded=recorded)

        return self._call("settle", redis, worker, ((key,), verdict, stop), call)

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

    def mentions(self, redis: int) -> Mentions:
        """See `Mentions`. Of a job that is not under way, who worked at it last is history, too."""
        if redis not in self._mentions:
            workers: set[str] = set()
            executions: set[str] = set()
            leases: dict[str, float] = {}
            for key, kind, value in self._contents[redis]:
                if key == wire.LEASES_KEY.encode():
                    leases = {name.decode(): score for name, score in value}
                elif not key.startswith(_LEDGER) and not (key.startswith(b"rq:job:") and _at_rest(value)):
                    text = key + b" " + (b" ".join(_flat(value)) if kind != "string" else value)
                    workers |= {name.decode() for name in _NAME.findall(text)}
                    executions |= {name.decode() for name in _EXECUTION.findall(text)}
            self._mentions[redis] = Mentions(frozenset(workers), frozenset(executions), leases)
        return self._mentions[redis]

    def rename(self, redis: int, names: Names, held: frozenset[str]) -> int:
        """The same content with other names for workers and executions; who has none is dead, and nobody from now on.

        `held`: executions in somebody's hands. A record of any other one is only read for its number and its action.
        """
        memory = (redis, names, held)
        if memory not in self._renamed:
            table = {old.encode(): new.encode() for old, new in names}

            def new(found: re.Match[bytes]) -> bytes:
                return table.get(found[0], NOBODY.encode() if found[0].startswith(b"w") else b"")

            def text(old: bytes) -> bytes:
                return _EXECUTION.sub(new, _NAME.sub(new, old))

            content = []
            for key, kind, value in self._contents[redis]:
                if key == wire.LEASES_KEY.encode():
                    kept: Any = tuple(sorted((table[name], score) for name, score in value if name in table))
                elif key.startswith(_LEDGER):
                    kept = tuple((n, text(_of_nobody(entry, held))) for n, entry in value)
                elif key.startswith(b"rq:job:"):
                    worker = (lambda _: NOBODY.encode()) if _at_rest(value) else text
                    kept = tuple((f, worker(v) if f == b"worker_name" else v) for f, v in value)
                elif kind == "string":
                    kept = text(value)
                else:
                    kept = _renamed(kind, value, text)
                if kept:
                    content.append((text(key), kind, kept))
            self._renamed[memory] = self._numbered(tuple(sorted(content)))
        return self._renamed[memory]

    def renamed_claim(self, key: Key, execution: str) -> Key:
        """A claim under another name of its execution."""
        after = (execution, *key[1:])
        if after not in self._claims:
            held = self._claims[key]
            self._claims[after] = replace(held, claim=replace(held.claim, execution_id=execution))
        return after

    @property
    def calls(self) -> int:
        """Calls made of the product's queue."""
        return len(self._replies)

    # inside

    def _queue(self, worker: str, commit: Callable[[str], str]) -> JobQueue:
        queue = JobQueue(self._connections, ["jobs"], worker, lease_seconds=LEASE_S, worker_losses=0)
        queue._committer._script = self._sabotaged(queue._committer._script, commit)
        self._loop.run_until_complete(_started(queue))
        return queue

    def _sabotaged(self, script: Script, change: Callable[[str], str]) -> Script:
        text = change(script.text)
        return script if text == script.text else Script(text, self._sync.script_load(text))

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
            key = (claim.execution_id, claim.job_id, claim.attempt, claim.adopted, claim.platform_retries)
            self._claims[key] = queue._held[claim.execution_id]
            found.append(key)
        return tuple(found)

    def _number(self) -> int:
        return self._numbered(tuple(sorted(self._read(key) for key in self._sync.keys("*") if _is_read(key.decode()))))

    def _numbered(self, content: Content) -> int:
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


def settlement(claim: Claim, verdict: Verdict, *, stop: bool) -> Settlement:
    """As `Ending` would make it."""
    if verdict is Verdict.SUCCEEDED:
        return Settlement(claim, Outcome(verdict, Fault.NONE, "ok", "all steps succeeded", 0), Finish({}))
    if verdict is Verdict.CANCELED:
        return Settlement(claim, Outcome(verdict, Fault.USER, "stop", "stopped"), Stop("stopped"))
    action: Action = Fail("the pod is gone")
    if not stop and claim.platform_retries < 1:
        action = Requeue(platform_fault=True, at_front=True)
    return Settlement(claim, Outcome(verdict, Fault.PLATFORM, "pod-deleted", "the pod is gone"), action)


async def _started(queue: JobQueue) -> None:
    queue._committer.start()


def _asked(claims: list[Claim]) -> frozenset[str]:
    return frozenset(claim.execution_id for claim in claims if claim.stop_requested)


def _is_read(key: str) -> bool:
    return not key.startswith(UNREAD) or key.endswith(":executions")


def _lease(score: float) -> float:
    """Live, for ever, lapsed, or taken from; the time it is so for decides nothing here."""
    if score <= 0:
        return -LAPSED
    if score >= FUTURE:
        return FUTURE
    return LIVE if score > NOW else LAPSED


def _at_rest(job: tuple[tuple[bytes, bytes], ...]) -> bool:
    return (b"status", b"started") not in job


def _flat(value: Any) -> list[bytes]:
    """All bytes of a hash, a list, a set or a sorted set."""
    return [
        part for item in value for part in (item if isinstance(item, tuple) else (item,)) if isinstance(part, bytes)
    ]


def _renamed(kind: str, value: Any, text: Callable[[bytes], bytes]) -> Any:
    def one(part: Any) -> Any:
        return text(part) if isinstance(part, bytes) else part

    renamed = (tuple(map(one, item)) if isinstance(item, tuple) else one(item) for item in value)
    return tuple(renamed) if kind == "list" else tuple(sorted(renamed))


def _of_nobody(entry: bytes, held: frozenset[str]) -> bytes:
    """A ledger's entry, without the names of those whom it can no longer concern."""
    found = _EXECUTION.search(entry)
    if found is not None and found[0].decode() in held:
        head, action, rest = entry.partition(b'"action":')
        return head + action + _NAME.sub(NOBODY.encode(), rest)
    return _EXECUTION.sub(b"", _NAME.sub(NOBODY.encode(), entry))

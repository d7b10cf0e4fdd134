"""A walk over all keys: executions that are not whole, jobs that nobody will end, keys of jobs that are no more.

Every script of ours is all or nothing, so what is mended here comes from outside: a key deleted or expired, an rq
worker killed in between, a failover that lost writes. Each script decides anew on what it finds, so a second walk
beside this one does no harm, and finds nothing left to do.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import uuid4

from rq.defaults import DEFAULT_FAILURE_TTL

from adapters.redis_server import AsyncClient, translated
from runner_spec import wire
from worker.queue import keys
from worker.queue.claim import text
from worker.queue.lease import EXECUTION_TTL
from worker.queue.record import HISTORY_SECONDS
from worker.queue.script import Word, load

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")

# Keys that one step asks for: under a millisecond of Redis' time.
SCAN_COUNT: Final = 1000
# Jobs, executions or keys that one script looks at: some milliseconds, in which Redis does nothing else.
BATCH: Final = 200

_JOB: Final = keys.job_hash("").encode()
_EXECUTION: Final = b"rq:execution:"
_EXECUTIONS: Final = b"rq:executions:"
_WORKER: Final = keys.worker_hash("").encode()
_OF_A_WORKER: Final = b":executions"
_LEDGER: Final = wire.attempts_key("").encode()
_STOP: Final = wire.stop_key("").encode()


@dataclass(slots=True)
class _Step:
    """What one step of the walk has come by, by kind. `executions` are (member, the worker in whose set it was)."""

    jobs: list[bytes] = field(default_factory=list)
    executions: list[tuple[bytes, bytes]] = field(default_factory=list)
    registries: list[bytes] = field(default_factory=list)
    worker_sets: list[bytes] = field(default_factory=list)
    forgettable: list[bytes] = field(default_factory=list)


def _sort(found: Sequence[bytes]) -> _Step:
    step = _Step()
    for key in found:
        if key.startswith(_JOB):
            step.jobs.append(key.removeprefix(_JOB))
        elif key.startswith(_EXECUTION):
            step.executions.append((key.removeprefix(_EXECUTION), b""))
        elif key.startswith(_EXECUTIONS):
            step.registries.append(key)
        elif key.startswith(_WORKER) and key.endswith(_OF_A_WORKER):
            step.worker_sets.append(key)
        elif key.startswith((_LEDGER, _STOP, _WORKER)):
            step.forgettable.append(key)
    return step


class Census:
    """Mends what the keys of these queues' jobs lack. Costs one SCAN of the database, in steps, with bounded memory."""

    def __init__(self, client: AsyncClient, queues: Sequence[str], date: Callable[[], str]) -> None:
        self._redis: Any = client
        self._queues = tuple(queues)
        self._date = date

    async def take(self) -> int:
        """Walk once; returns how many executions, jobs and keys were mended.

        Raises:
            RedisUnavailable, RedisRefused: the next walk begins anew.
        """
        mended, references, suspects = 0, set[tuple[bytes, bytes]](), list[bytes]()
        with translated():
            async for found in self._steps():
                step = _sort(found)
                # First those whose hash is there: a reference without one is rebuilt only if no other is whole.
                mended += await self._mend(step.executions)
                references |= await self._references(step)
                suspects += await self._suspects(step.jobs)
                mended += await self._forget(step.forgettable)
            for queue in self._queues:
                mended += await self._expire_canceled(queue)
            references |= {(member, b"") for queue in self._queues for member in await self._running(queue)}
            mended += await self._mend(sorted(references))
            # By now every execution there is has been entered in its job's registry.
            for ids in _slices(suspects):
                mended += self._report(await self._revive("act", ids))
        return mended

    async def _steps(self) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            cursor, found = await self._redis.scan(cursor=cursor, count=SCAN_COUNT)
            yield found
            if cursor == 0:
                return

    async def _references(self, step: _Step) -> set[tuple[bytes, bytes]]:
        """The executions that registries name and that are not whole, as far as one look can tell."""
        found: set[tuple[bytes, bytes]] = set()
        for key in step.registries:
            job = key.removeprefix(_EXECUTIONS)
            found |= {(job + b":" + name, b"") for name in await self._redis.zrange(key, 0, -1)}
        for key in step.worker_sets:
            worker = key.removeprefix(_WORKER).removesuffix(_OF_A_WORKER)
            found |= {(member, worker) for member in await self._redis.smembers(key)}
        return await self._without_hash(found)

    async def _running(self, queue: str) -> set[bytes]:
        members = {member async for member, _ in self._redis.zscan_iter(keys.started_registry(queue), count=SCAN_COUNT)}
        return {member for member, _ in await self._without_hash({(member, b"") for member in members})}

    async def _without_hash(self, found: set[tuple[bytes, bytes]]) -> set[tuple[bytes, bytes]]:
        """Those without a hash of their own, and those in the set of another worker than the hash says."""
        lost: set[tuple[bytes, bytes]] = set()
        for batch in _slices(list(found)):
            pipeline = self._redis.pipeline(transaction=False)
            for member, _ in batch:
                pipeline.hget(_EXECUTION + member, "worker_name")
            owners = await pipeline.execute()
            lost |= {
                (member, holder)
                for (member, holder), owner in zip(batch, owners, strict=True)
                if owner is None or holder not in {b"", owner}
            }
        return lost

    async def _mend(self, executions: Sequence[tuple[bytes, bytes]]) -> int:
        mended = 0
        for batch in _slices(executions):
            words: list[Word] = [EXECUTION_TTL, len(self._queues), *self._queues]
            for pair in batch:
                words += pair
            mended += self._report(await load("mend").run(self._redis, [wire.LEASES_KEY], words))
        return mended

    async def _suspects(self, jobs: Sequence[bytes]) -> list[bytes]:
        found: list[bytes] = []
        for batch in _slices(jobs):
            found += [job_id for job_id, _ in await self._revive("look", batch)]
        return found

    async def _revive(self, verb: str, jobs: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        stem = uuid4().hex[:28]  # revive.lua completes it to rq's 32 digits
        words: list[Word] = [verb, self._date(), stem, EXECUTION_TTL, len(self._queues), *self._queues, *jobs]
        reply: Any = await load("revive").run(self._redis, [wire.LEASES_KEY], words)
        return [(job_id, what) for job_id, what in reply]

    async def _expire_canceled(self, queue: str) -> int:
        registry = keys.canceled_registry(queue)
        ended = 0
        ids = [job_id async for job_id, _ in self._redis.zscan_iter(registry, count=SCAN_COUNT)]
        for batch in _slices(ids):
            ended += int(await load("canceled").run(self._redis, [registry], [DEFAULT_FAILURE_TTL, *batch]))
        return ended

    async def _forget(self, found: Sequence[bytes]) -> int:
        forgotten = 0
        for batch in _slices(found):
            forgotten += int(await load("forget").run(self._redis, [wire.LEASES_KEY], [HISTORY_SECONDS, *batch]))
        return forgotten

    def _report(self, done: Sequence[Sequence[bytes]]) -> int:
        for name, what in done:
            logger.warning("an execution that was not whole is %s", text(what),
                           extra={"action": "execution-mended", "execution": text(name)})  # fmt: skip
        return len(done)


def _slices(found: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (found[at : at + BATCH] for at in range(0, len(found), BATCH))

"""Commits: many settlements in one round trip, each of them fenced and atomic by itself.

The usual one is replayed by `commit.lua`. Where rq's own functions have to read first (dependents, repeats, rate
limits, results kept for no time, a job that was canceled), the same commands go through WATCH and MULTI in a thread,
with the execution among the watched keys: the same fence. docs/decisions/0001-commit.md says why.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.rate_limit import release_slot

from adapters.redis_server import Connections, ScriptMissing, SyncPipeline, WatchConflict, translate, translated
from adapters.redis_server import RedisError as ServerError
from adapters.redis_server import RedisUnavailable as ServerUnavailable
from runner_spec import wire
from worker.cancellation import end_tasks
from worker.pace import Pace
from worker.queue import keys
from worker.queue.claim import Held
from worker.queue.errors import LogsForgotten, QueueRefused
from worker.queue.record import Record, Recorder, flatten, needs_transaction, restore_job, terminal_status
from worker.queue.script import Word, load
from worker.queue.settlement import Requeue, Settlement, ledger_head

logger = logging.getLogger(__name__)

BATCH: Final = 100
# Between two round trips, while there is much to commit.
GATHER_S: Final = 0.025
# Seconds between two tries while Redis does not answer: a commit is idempotent, so it may be sent again.
RESEND_DELAYS: Final = (0.1, 0.3, 1.0, 3.0, 5.0)
# Threads that may wait for Redis at once; rq's own transactions are rare.
SLOW_COMMITS: Final = 4


class Answer(StrEnum):
    """What became of a commit."""

    RECORDED = "recorded"
    FENCED = "fenced"
    SLOW = "slow"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Entry:
    """One settlement that waits for its commit, and who waits for the answer."""

    held: Held
    settlement: Settlement
    answer: "asyncio.Future[bool]"


class Committer:
    """Collects settlements while a batch is under way, and for `GATHER_S` after it was sent; they are the next one."""

    def __init__(self, connections: Connections, worker: str, recorder: Recorder) -> None:
        self._connections = connections
        self._worker = worker
        self._recorder = recorder
        self._script = load("commit")
        self._waiting: asyncio.Queue[Entry] = asyncio.Queue()
        self._slow_slots = asyncio.Semaphore(SLOW_COMMITS)
        self._slow_tasks: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None
        self._pace = Pace(GATHER_S)

    def start(self) -> None:
        """Begin to commit."""
        self._loop_task = asyncio.create_task(self._run(), name="commit")

    async def aclose(self) -> None:
        """Stop; settlements without an answer are cancelled: whoever adopts their executions settles them again."""
        tasks = [task for task in (self._loop_task, *self._slow_tasks) if task is not None]
        await end_tasks(tasks)
        while not self._waiting.empty():
            self._waiting.get_nowait().answer.cancel()

    async def commit(self, held: Held, settlement: Settlement) -> bool:
        """True once the end is on record, False when another incarnation owns the execution.

        Raises:
            QueueRefused: Redis answered with a permanent error; nothing was recorded.
            LogsForgotten: a log that the settlement demands is not complete; nothing was recorded.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(Entry(held, settlement, answer))
        return await answer

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            try:
                await self._pace.keep()
                while len(batch) < BATCH and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                await self._commit_batch(batch)
            except asyncio.CancelledError:
                for entry in batch:
                    entry.answer.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - a settlement that cannot be recorded must fail its own caller, not the loop
                for entry in batch:
                    _resolve(entry, error)

    async def _commit_batch(self, batch: Sequence[Entry]) -> None:
        fast: list[tuple[Entry, list[Word]]] = []
        for entry in batch:
            if needs_transaction(entry.held, entry.settlement):
                self._start_slow(entry)
                continue
            try:
                fast.append((entry, self._arguments(entry)))
            except Exception as error:  # noqa: BLE001 - as above: one bad settlement must not fail its neighbours
                _resolve(entry, error)
        for tries in range(1_000_000_000):
            fast = await self._send(fast)
            if not fast:
                return
            await asyncio.sleep(RESEND_DELAYS[min(tries, len(RESEND_DELAYS) - 1)])

    async def _send(self, fast: Sequence[tuple[Entry, list[Word]]]) -> list[tuple[Entry, list[Word]]]:
        """One round trip; returns what has to be sent again."""
        if not fast:
            return []
        pipeline = self._connections.control.pipeline(transaction=False)
        for entry, arguments in fast:
            claim = entry.settlement.claim
            names = [
                keys.execution_hash(claim.job_id, claim.execution_id),
                keys.job_hash(claim.job_id),
                keys.dependents_set(claim.job_id),
                wire.attempts_key(claim.job_id),
                wire.log_index_key(claim.job_id, claim.attempt),
            ]
            self._script.queue(pipeline, names, arguments)
        try:
            with translated():
                replies = await pipeline.execute(raise_on_error=False)
        except ServerUnavailable as error:
            self._connections.outage.report(error)
            return list(fast)
        again = [item for item, reply in zip(fast, replies, strict=True) if not self._receive(item[0], reply)]
        if any(isinstance(reply, ScriptMissing) for reply in replies):
            await self._load_script()
        return again

    async def _load_script(self) -> None:
        try:
            with translated():
                await self._connections.control.script_load(self._script.text)
        except ServerUnavailable as error:
            self._connections.outage.report(error)

    def _receive(self, entry: Entry, reply: object) -> bool:
        """Whether the reply settles the matter."""
        if isinstance(reply, ScriptMissing):
            return False
        if isinstance(reply, Exception):
            error = translate(reply)  # type: ignore[arg-type]  # a pipeline returns only errors of redis-py
            if error.temporary:
                return False
            # A key of the wrong type, say. A script stops there, a transaction goes on with all other commands.
            logger.error("commit: %s", error, extra={"action": "commit-refused", "job": entry.settlement.claim.job_id})
            self._start_slow(entry)
            return True
        answer = Answer(reply.decode() if isinstance(reply, bytes) else str(reply))
        if answer is Answer.SLOW:
            self._start_slow(entry)
        else:
            _resolve(entry, _verdict(answer))
        return True

    def _arguments(self, entry: Entry) -> list[Word]:
        pipeline = self._connections.sync.pipeline()
        self._recorder.record(entry.held, entry.settlement, pipeline)
        commands = flatten(pipeline)
        claim = entry.settlement.claim
        arguments: list[Word] = [self._worker, claim.attempt, ledger_head(claim.execution_id, self._worker)]
        arguments += [len(entry.settlement.logs), *entry.settlement.logs, len(commands)]
        for words in commands:
            arguments += [len(words), *words]
        return arguments

    def _start_slow(self, entry: Entry) -> None:
        task = asyncio.create_task(self._commit_slowly(entry), name="commit-slowly")
        self._slow_tasks.add(task)
        task.add_done_callback(self._slow_tasks.discard)

    async def _commit_slowly(self, entry: Entry) -> None:
        try:
            async with self._slow_slots:
                for tries in range(1_000_000_000):
                    try:
                        answer = await asyncio.to_thread(self._transact, entry.held, entry.settlement)
                        break
                    except ServerUnavailable as error:
                        self._connections.outage.report(error)
                        await asyncio.sleep(RESEND_DELAYS[min(tries, len(RESEND_DELAYS) - 1)])
            _resolve(entry, _verdict(answer))
        except asyncio.CancelledError:
            entry.answer.cancel()
            raise
        except ServerError as error:
            _resolve(entry, _refused(error))
        except Exception as error:  # noqa: BLE001 - it must reach the caller of `commit`, who waits
            _resolve(entry, error)

    def _transact(self, held: Held, settlement: Settlement) -> Answer:
        """As rq does it (BaseWorker.handle_job_success and handle_job_failure), watched and in a thread."""
        with translated(), self._connections.sync.pipeline() as pipeline:
            while True:
                try:
                    outcome = self._attempt_transaction(held, settlement, pipeline)
                    break
                except WatchConflict:
                    continue  # somebody wrote to the job or its dependents in between: look again
        if isinstance(outcome, Answer):
            return outcome
        record, ready = outcome
        self._follow_up(record, ready, settlement)
        return Answer.RECORDED

    def _attempt_transaction(
        self, held: Held, settlement: Settlement, pipeline: SyncPipeline
    ) -> Answer | tuple[Record, dict[str, list[str]]]:
        claim = settlement.claim
        execution, job = keys.execution_hash(claim.job_id, claim.execution_id), keys.job_hash(claim.job_id)
        reads: Any = pipeline  # while watching, commands are executed at once and return their replies
        reads.watch(execution, job, keys.dependents_set(claim.job_id))
        if reads.hmget(execution, "worker_name", wire.FIELD_ATTEMPT) != [
            self._worker.encode(),
            str(claim.attempt).encode(),
        ]:
            entry = reads.hget(wire.attempts_key(claim.job_id), str(claim.attempt)) or b""
            pipeline.unwatch()
            return _own_entry(entry, claim.execution_id, self._worker)
        if not _are_complete(reads, settlement):
            pipeline.unwatch()
            return Answer.LOGS
        status = (reads.hget(job, "status") or b"deleted").decode("utf-8", "replace")
        ready: dict[str, list[str]] = {}
        if status == "started":
            ready = self._release_dependents(held, settlement, pipeline)
            if not pipeline.explicit_transaction:
                pipeline.multi()
            record = self._recorder.record(held, settlement, pipeline)
        else:
            pipeline.multi()
            record = self._recorder.detach(held, settlement, status, pipeline)
        pipeline.execute()
        return record, ready

    def _release_dependents(self, held: Held, settlement: Settlement, pipeline: SyncPipeline) -> dict[str, list[str]]:
        """Move dependents that may run now to rq's ready registry, in the same transaction.

        rq does this after a failure in a second transaction: a worker that dies in between leaves them deferred.
        """
        if isinstance(settlement.action, Requeue):
            return {}
        job = restore_job(settlement.claim, held.job, self._connections.sync)
        job._status = terminal_status(settlement.action)  # noqa: SLF001 - what rq's worker does before it asks
        try:
            moved: dict[str, list[str]] = self._queue(settlement).move_dependents_to_ready(
                job, pipeline=pipeline, refresh_job_status=False
            )
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError, NoSuchJobError):
            # rq cannot read a dependent that somebody wrote by hand. That must not keep this job from ending.
            logger.exception(
                "dependents of %s cannot be read and stay deferred",
                settlement.claim.job_id,
                extra={"action": "dependents-unreadable", "job": settlement.claim.job_id},
            )
            return {}
        return moved

    def _follow_up(self, record: Record, ready: Mapping[str, list[str]], settlement: Settlement) -> None:
        """After the commit, as rq does; what a crash leaves undone here, maintenance finds in rq's registries."""
        try:
            self._queue(settlement).enqueue_ready_jobs_by_queue(dict(ready))
            release_slot(record.job)
        except Exception:
            logger.exception(
                "job %s is settled; its dependents wait for maintenance",
                settlement.claim.job_id,
                extra={"action": "follow-up-failed", "job": settlement.claim.job_id},
            )

    def _queue(self, settlement: Settlement) -> Queue:
        return Queue(settlement.claim.queue, connection=self._connections.sync, serializer="json")


def _own_entry(entry: bytes, execution_id: str, worker: str) -> Answer:
    head = ledger_head(execution_id, worker).encode()
    return Answer.RECORDED if entry.startswith(head) else Answer.FENCED


def _are_complete(reads: Any, settlement: Settlement) -> bool:  # noqa: ANN401 - as above
    """As commit.lua asks."""
    if not settlement.logs:
        return True
    index = wire.log_index_key(settlement.claim.job_id, settlement.claim.attempt)
    return all(entry and b'"complete":true' in entry for entry in reads.hmget(index, *settlement.logs))


def _verdict(answer: Answer) -> bool | LogsForgotten:
    """What the caller of `commit` is told."""
    if answer is Answer.LOGS:
        return LogsForgotten("Redis has forgotten logs that were complete; nothing was recorded.")
    return answer is Answer.RECORDED


def _refused(error: ServerError) -> QueueRefused:
    refused = QueueRefused(str(error))
    refused.__cause__ = error
    return refused


def _resolve(entry: Entry, answer: bool | Exception) -> None:  # noqa: FBT001 - the answer itself
    if entry.answer.done():
        return  # its caller was cancelled
    if isinstance(answer, Exception):
        entry.answer.set_exception(answer)
    else:
        entry.answer.set_result(answer)

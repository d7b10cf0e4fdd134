"""The queue of one worker incarnation: claim, adopt, mint, settle, all in rq's own keys.

How a job is held: its execution (`rq:execution:<job>:<id>`) names the worker that owns it, and every write is fenced
by that name. A worker lives under a lease; when it lapses, others may adopt what it held. An incarnation's name is
never used twice, so a paused worker that wakes up finds its name nowhere and its commits refused.

Every call may be repeated after `QueueUnavailable`: what an unanswered call has done is found again by `adopt`, which
compares what Redis has under this worker's name with what the worker knows.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Self
from uuid import uuid4

from rq.utils import get_version

from adapters.redis_outage import Outage
from adapters.redis_server import Connections, translated
from runner_spec import wire
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.policy import DEFAULT_POLICY
from worker.queue import keys
from worker.queue.claim import JOB_FIELDS, Claim, Held, read_reply, stop_request, text
from worker.queue.command import Command, CommandKind, Message
from worker.queue.commit import Committer
from worker.queue.errors import LeaseLost, QueueUnavailable, queue_errors
from worker.queue.lease import EXECUTION_TTL, Announce, Lease
from worker.queue.maintenance import Maintenance
from worker.queue.poison import QUARANTINE_KEY, STABLE_LEASES
from worker.queue.record import EVENTS, Recorder
from worker.queue.script import Word, load
from worker.queue.settlement import Requeue, Settlement, event_fields, ledger_head, superseded_entry
from worker.queue.subscription import Subscription
from worker.queue.watcher import Watcher

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15.0
CLAIM_LIMIT: Final = 100
# Payload bytes after which a claim ends early: a reply is held in memory on both sides.
CLAIM_BYTES: Final = 8 * 1024 * 1024
# Entries that a ledger keeps: an id may be enqueued every minute for years.
LEDGER_ENTRIES: Final = 100
REFRESH_SECONDS: Final = 86400.0
AUDIT_SECONDS: Final = 5.0
SCAN_SECONDS: Final = 60.0
SCAN_SLICE: Final = 1000
MAINTENANCE_SECONDS: Final = 60.0
# Seconds that the empty lease of a dead incarnation is kept, so that an idle worker may come back from a pause.
FORGET_SECONDS: Final = 60


class JobQueue:
    """One incarnation's view of its queues, highest priority first. See the module's text.

    `worker` must be a name never used before (a UUID). `worker_losses`: of how many workers' deaths one job may be
    guilty (`poison.py`); 0 suspects nobody. Use as a context manager, or call `start` and `aclose`.
    """

    def __init__(
        self,
        connections: Connections,
        names: Sequence[str],
        worker: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        audit_seconds: float = AUDIT_SECONDS,
        maintenance_seconds: float = MAINTENANCE_SECONDS,
        worker_losses: int = DEFAULT_POLICY.worker_losses,
    ) -> None:
        if not names or any(not name for name in names):
            raise ValueError(f"queue names {list(names)!r}: give at least one, none of them empty")
        self.worker = worker
        self.names = tuple(dict.fromkeys(names))
        self.lease = Lease(connections, worker, self.names, lease_seconds, lambda: len(self._held))
        self._connections = connections
        self._audit_seconds = audit_seconds
        self._maintenance_seconds = maintenance_seconds
        self._held: dict[str, Held] = {}  # by execution id
        self._settling: set[str] = set()  # execution ids
        self._strays: set[str] = set()  # members registered under us that we do not hold
        self._told: set[str] = set()  # execution ids whose end has been asked for
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._suspended = False
        self._quarantined = False
        self._stable_seconds = STABLE_LEASES * lease_seconds
        self._worker_losses = worker_losses
        # Claims and audits must not overlap: an audit would take a claim under way for a lost one.
        self._registry_lock = asyncio.Lock()
        self._audit_due = self._scan_due = self._refresh_due = 0.0
        self._clean_due = 0.0
        self._committer = Committer(connections, worker, Recorder(connections.sync, worker, self.lease.now))
        self._watcher = Watcher(connections, self.names)
        self._subscription = Subscription(connections, worker, self._receive)
        self._maintenance = Maintenance(connections, self.names, self.lease.date)

    async def start(self) -> None:
        """Take the lease, register the worker, listen for commands.

        Raises:
            QueueUnavailable: Redis gave no answer.
            QueueRefused: Redis refused, or rq is set to another key prefix.
        """
        keys.require_default_prefix()
        try:
            with queue_errors():
                with translated():
                    # rq asks once per connection; here it must not happen inside the event loop.
                    await asyncio.to_thread(get_version, self._connections.sync)
                await self._subscription.start()
                await self.lease.begin()
        except BaseException:
            await self.aclose()
            raise
        self._refresh_due = time.monotonic() + REFRESH_SECONDS
        self._committer.start()
        self._watcher.start()

    async def aclose(self) -> None:
        """Stop all tasks without a word to Redis; the connections stay open."""
        await self._maintenance.aclose()
        await self._watcher.aclose()
        await self._subscription.aclose()
        await self._committer.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def outage(self) -> Outage:
        """Who finds Redis away reports here, and learns when to try again."""
        return self._connections.outage

    @property
    def held(self) -> tuple[Claim, ...]:
        """The claims that this worker owns, as far as it knows."""
        return tuple(held.claim for held in self._held.values())

    def announce(self, facts: Announce) -> None:
        """What every heartbeat is to write into this worker's hash besides rq's own fields; call it before `start`."""
        self.lease.announce = facts

    async def renew(self) -> bool:
        """The heartbeat; call it every third of the lease. False when Redis gave no answer: the lease runs on.

        Raises:
            LeaseLost: this incarnation is over.
        """
        try:
            with queue_errors():
                await self.lease.renew()
        except QueueUnavailable as error:
            self.outage.report(error)
            return False
        self.outage.over()
        return True

    async def release(self) -> None:
        """End this incarnation in peace: nothing is claimed any more, others adopt its executions at once.

        Raises:
            QueueUnavailable: Redis gave no answer; the lease lapses by itself.
        """
        await self.aclose()
        with queue_errors():
            await self.lease.release()
        self._held.clear()

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - how long to wait for jobs, not for Redis
        """Block until a queue seems to have a job (True), at most `timeout` seconds (False). Takes nothing.

        It returns at once while jobs are waiting, so a worker that is full must wait for its own pods instead.
        """
        if self._suspended:
            with queue_errors():
                self._suspended = not await self._watcher.wait_for_resume(timeout)
            return not self._suspended
        if self._quarantined:  # there may be jobs, for others
            await asyncio.sleep(timeout)
            return False
        return await self._watcher.wait(timeout)

    async def claim(self, limit: int) -> list[Claim]:
        """Up to `limit` (100 at most) waiting jobs, now owned by this worker.

        An empty list also while `rq suspend` holds, and while this worker tries a suspect alone (`poison.py`).

        Raises:
            LeaseLost: this incarnation is over.
            QueueUnavailable: no answer; if jobs were claimed, `adopt` returns them.
        """
        names = [wire.LEASES_KEY, keys.worker_hash(self.worker), keys.SUSPENDED, QUARANTINE_KEY]
        arguments: list[Word] = [
            self.worker,
            min(limit, CLAIM_LIMIT),
            self.lease.date(),
            EXECUTION_TTL,
            uuid4().hex[:28],  # claim.lua completes it to rq's 32 digits
            CLAIM_BYTES,
            LEDGER_ENTRIES,
            len(self.names),
            *self.names,
            *JOB_FIELDS,
        ]
        async with self._registry_lock:
            reply = await self._run_leased("claim", names, arguments)
            self.outage.over()
            self._suspended = reply[0] == b"suspended"
            self._quarantined = reply[0] == b"quarantined"
            if self._suspended or self._quarantined:
                return []
            for job_id in reply[2]:
                facts = {"action": "claim-dropped", "job": text(job_id)}
                logger.info("not queued any more, or deleted: dropped", extra=facts)
            return [self._hold(description, adopted=False) for description in reply[1]]

    async def lapsed(self) -> set[str]:
        """Incarnations that are dead, or released, and not forgotten yet: they may have left pods behind.

        `adopt` forgets those without executions a minute after their end, so ask before.

        Raises:
            QueueUnavailable: no answer.
        """
        with queue_errors():
            return await self.lease.lapsed()

    async def next_lapse(self, within: float) -> float:
        """Seconds until another incarnation's lease ends, unless it is renewed; `within` when none does before.

        Raises:
            QueueUnavailable: no answer.
        """
        with queue_errors():
            return await self.lease.next_lapse(within)

    async def adopt(self, limit: int) -> list[Claim]:
        """Executions of dead incarnations, up to `limit`, and own ones that this worker does not hold.

        Same execution, same attempt. An own one: the reply of its claim was lost, or a failover of Redis has brought it
        back. All of them are `adopted`: somebody may have created their pods.
        Call it at the start and every few seconds.

        Raises:
            LeaseLost: this incarnation is over.
            QueueUnavailable: no answer; what was adopted is returned by the next call.
        """
        async with self._registry_lock:
            with queue_errors():
                await self._audit()
            claims = await self._reclaim(limit)
            if time.monotonic() >= self._scan_due and self.lease.may_adopt:
                await self._scan()
                self._scan_due = time.monotonic() + SCAN_SECONDS
            if len(claims) < limit and self.lease.may_adopt:
                claims += await self._take_over(limit - len(claims))
        return claims

    async def _take_over(self, limit: int) -> list[Claim]:
        names = [wire.LEASES_KEY, keys.WORKERS, QUARANTINE_KEY]
        arguments: list[Word] = [self.worker, limit, EXECUTION_TTL, FORGET_SECONDS]
        arguments += [self._stable_seconds, self._worker_losses]
        reply = await self._run_leased("adopt", names, [*arguments, len(self.names), *self.names, *JOB_FIELDS])
        if reply[1]:
            logger.warning(
                "%d jobs of workers that have died wait until it is known which of them kills",
                reply[1],
                extra={"action": "suspects-wait", "jobs": reply[1]},
            )
        return [self._hold(description) for description in reply[0]]

    async def mint(self, claim: Claim, outcome: Outcome | None = None) -> Claim | None:
        """The next attempt for an adopted execution whose pod was not found; `outcome` is the old attempt's end.

        It costs the job none of its retries: nothing of it was tried. None when another incarnation owns the execution
        by now, or the job is gone. Look at the new claim's `stop_requested` before creating its pod.

        Raises:
            LeaseLost: this incarnation is over.
            QueueUnavailable: no answer; call it again with the same claim.
        """
        held = self._held.get(claim.execution_id)
        if held is None or held.claim.attempt != claim.attempt:
            return None
        end = outcome or Outcome(
            Verdict.FAILED,
            Fault.PLATFORM,
            "worker-lost",
            "The worker that claimed this attempt ended, and no pod of it was found: the next attempt takes over.",
        )
        settlement = Settlement(claim, end, Requeue(reason=end.message, platform_fault=True))
        now = self.lease.now()
        event = event_fields(settlement, self.worker, "started", now)
        names = [
            wire.LEASES_KEY,
            keys.execution_hash(claim.job_id, claim.execution_id),
            keys.job_hash(claim.job_id),
            wire.attempts_key(claim.job_id),
            wire.EVENTS_KEY,
        ]
        arguments: list[Word] = [self.worker, claim.job_id, claim.execution_id, claim.attempt, self.lease.date()]
        arguments += [superseded_entry(settlement, self.worker, now), EVENTS, 2 * len(event)]
        for name, value in event.items():
            arguments += [name, value]
        async with self._registry_lock:
            reply = await self._run_leased("mint", names, [*arguments, *JOB_FIELDS])
            if reply is None:
                self._drop(claim.execution_id)
                return None
            return self._hold(reply, adopted=False)

    async def settle(self, settlement: Settlement) -> bool:
        """Put the end of an attempt on record, with rq's own writes, the ledger and the event: all or nothing.

        True once recorded (also when a commit whose reply was lost had done it), False when this worker does not own
        the execution any more: leave its pod alone. While Redis is away it waits and tries again.

        Raises:
            QueueRefused: Redis answered with a permanent error; nothing was recorded.
            LogsForgotten: a log that the settlement demands is not complete; nothing was recorded.
        """
        execution_id = settlement.claim.execution_id
        held = self._held.get(execution_id)
        if held is None:
            return await self._is_recorded(settlement)
        if held.claim.attempt != settlement.claim.attempt:
            return False  # this worker has minted the next attempt itself
        self._settling.add(execution_id)
        try:
            recorded = await self._committer.commit(held, settlement)
            self._drop(execution_id)
        finally:
            self._settling.discard(execution_id)
        return recorded

    async def _is_recorded(self, settlement: Settlement) -> bool:
        """Whether this worker has recorded this end before.

        What it does not hold, it must not record: others had the execution meanwhile, and should it have come back,
        whoever took it up again knows the job as it is now.
        """
        claim = settlement.claim
        while True:
            try:
                with queue_errors(), translated():
                    found: Any = await self._connections.control.hget(
                        wire.attempts_key(claim.job_id), str(claim.attempt)
                    )
            except QueueUnavailable as error:
                await self.outage.pause(error)
            else:
                return bool(found) and found.startswith(ledger_head(claim.execution_id, self.worker).encode())

    async def commands(self) -> AsyncIterator[Command]:
        """What others ask of this worker, as it comes; ends never. An end is asked for once per execution and asker."""
        while True:
            yield await self._commands.get()

    async def tick(self) -> None:
        """What is due: scheduled jobs, stop flags and cancels, rq's maintenance. Call it about every second.

        Raises:
            QueueUnavailable: no answer; the next tick goes on.
        """
        with queue_errors():
            await self._maintenance.schedule()
            if time.monotonic() >= self._audit_due:
                async with self._registry_lock:
                    await self._audit()
            if time.monotonic() >= self._refresh_due:
                await self._refresh()
            if self._maintenance.cut_short or time.monotonic() >= self._clean_due:
                self._clean_due = time.monotonic() + self._maintenance_seconds
                await self._maintenance.clean(self._maintenance_seconds)

    async def _run_leased(self, name: str, names: list[str], arguments: list[Word]) -> Any:  # noqa: ANN401 - a reply
        """Run a script that demands a live lease; one that has lapsed is renewed first, if nobody has taken it."""
        try:
            with queue_errors():
                return await load(name).run(self._connections.control, names, arguments)
        except LeaseLost:
            with queue_errors():
                await self.lease.renew()
                return await load(name).run(self._connections.control, names, arguments)

    def _hold(self, description: Sequence[Any], *, adopted: bool = True) -> Claim:
        held = read_reply(description, self.lease.now(), adopted=adopted)
        claim = held.claim
        self._held[claim.execution_id] = held
        self._strays.discard(claim.member)
        if claim.stop_requested:
            self._told.add(claim.execution_id)
        if claim.foreign_hooks:
            logger.warning(
                "callbacks and webhooks of rq are not run here: %s",
                ", ".join(claim.foreign_hooks),
                extra={"action": "hooks-ignored", "job": claim.job_id},
            )
        return claim

    def _drop(self, execution_id: str) -> None:
        self._held.pop(execution_id, None)
        self._told.discard(execution_id)

    async def _audit(self) -> None:
        """Compare Redis' view with ours: lost replies become strays, lost executions and stop flags become commands."""
        before = {held.claim.member: held.claim for held in self._held.values()}
        busy = set(self._settling)
        names = [keys.worker_executions(self.worker)]
        reply: Any = await load("audit").run(self._connections.control, names, [self.worker])
        registered = {text(member) for member in reply[0]}
        holding = {held.claim.member for held in self._held.values()}
        self._strays = registered - set(before) - holding
        busy |= self._settling
        missing = [
            claim
            for member, claim in before.items()
            if member not in registered and claim.execution_id in self._held and claim.execution_id not in busy
        ]
        await self._report_missing(missing)
        for member, status, flag in reply[1]:
            asked = before.get(text(member))
            if asked is not None and asked.execution_id not in busy:
                self._ask_to_stop(asked, stop_request(status, flag) or f"its status became {text(status)!r}")
        self._audit_due = time.monotonic() + self._audit_seconds

    async def _report_missing(self, missing: Sequence[Claim]) -> None:
        if not missing:
            return
        with translated():
            pipeline = self._connections.control.pipeline(transaction=False)
            for claim in missing:
                pipeline.hget(keys.execution_hash(claim.job_id, claim.execution_id), "worker_name")
            owners = await pipeline.execute()
        for claim, owner in zip(missing, owners, strict=True):
            if owner == self.worker.encode() or claim.execution_id in self._settling:
                continue
            self._drop(claim.execution_id)
            kind = CommandKind.FENCED if owner else CommandKind.GONE
            by = f"worker {text(owner)}" if owner else "the job was deleted or enqueued again"
            self._commands.put_nowait(Command(kind, by, claim.job_id, claim.execution_id))

    async def _reclaim(self, limit: int) -> list[Claim]:
        members = sorted(self._strays)[:limit]
        if not members:
            return []
        with queue_errors():
            arguments: list[Word] = [self.worker, len(members), *members, *JOB_FIELDS]
            reply: Any = await load("reclaim").run(self._connections.control, [], arguments)
        self._strays.clear()  # the next audit finds the others again
        return [self._hold(description) for description in reply]

    async def _scan(self) -> None:
        for queue in self.names:
            first, seen = 0, SCAN_SLICE
            while seen == SCAN_SLICE:
                arguments: list[Word] = [self.worker, EXECUTION_TTL, first, SCAN_SLICE]
                names = [wire.LEASES_KEY, keys.started_registry(queue)]
                _, seen = await self._run_leased("scan", names, arguments)
                first += SCAN_SLICE

    async def _refresh(self) -> None:
        """Move the far-off scores of our executions further on."""
        with translated():
            pipeline = self._connections.control.pipeline(transaction=False)
            score = int(self.lease.now()) + EXECUTION_TTL
            for claim in self.held:
                pipeline.expire(keys.execution_hash(claim.job_id, claim.execution_id), EXECUTION_TTL)
                pipeline.zadd(keys.started_registry(claim.queue), {claim.member: score}, xx=True)
            pipeline.expire(keys.worker_executions(self.worker), EXECUTION_TTL + 60)
            await pipeline.execute()
        self._refresh_due = time.monotonic() + REFRESH_SECONDS

    def _receive(self, message: Message) -> None:
        """A message on rq's channel; those of rq name a job or an execution, ours and foreign ones alike."""
        if message.name in {"stop-job", "stop-execution"}:
            for held in list(self._held.values()):
                claim = held.claim
                if claim.execution_id == message.execution_id or (
                    message.name == "stop-job" and claim.job_id == message.job_id
                ):
                    self._ask_to_stop(claim, message.by or f"rq's command {message.name}")
        elif message.name == "shutdown":
            self._commands.put_nowait(Command(CommandKind.SHUTDOWN, "rq's command shutdown"))
        elif message.name == "kill-horse":
            self._commands.put_nowait(Command(CommandKind.KILL, "rq's command kill-horse"))
        else:
            logger.warning("unknown command %.100r", message.name, extra={"action": "command-ignored"})

    def _ask_to_stop(self, claim: Claim, by: str) -> None:
        if claim.execution_id not in self._told:
            self._told.add(claim.execution_id)
            self._commands.put_nowait(Command(CommandKind.STOP, by, claim.job_id, claim.execution_id))

"""The life of every job in this worker's hands, written down once, in the order in which it happens.

    claim      the queue hands over jobs, as many as can be launched and held           `_claim_loop`
    launch     description → policy → pod manifest → created pod                         `launch`
    follow     each change of the pod is classified: waiting, running, or its end       `_seen`, `observe`
    log        a container that has started is followed to the end of its log           `LogStreams`
    end        logs complete, then the outcome is committed, then the pod is deleted    `_finish`
    adopt      jobs of workers whose lease has lapsed: same attempt, same pod            `Adoption`
    cancel     a request to stop becomes a graceful deletion of the pod                  `stop_job`
    leave      SIGTERM: stop claiming, release the lease, exit; the pods run on         `leave`

No task lives as long as a job does: between two events an attempt is one object. Decisions are `runner_spec`'s.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from adapters.kubernetes_api import KubernetesApi
from adapters.redis_outage import Outage
from runner_spec import anatomy, wire
from runner_spec.classify import classify, classify_deleted
from runner_spec.names import label_value
from runner_spec.outcome import Fault, Outcome, Running, Verdict, Waiting
from runner_spec.ownership import End, Sight, Start, after_commit, creator, first_step, on_sight
from runner_spec.policy import Policy
from worker.adoption import Adoption
from worker.attempt import Attempt, Phase, Pod, slim
from worker.cancellation import end_tasks
from worker.creation import Creation, never_started
from worker.ending import Ending
from worker.launch import Launcher
from worker.log_streams import LogKeeper, LogStreams
from worker.metrics import WorkerMetrics
from worker.orphan_scan import OrphanScan
from worker.orphans import Orphans
from worker.queue import Command, CommandKind, JobQueue, LeaseLost, LogsForgotten, QueueRefused, QueueUnavailable
from worker.queue.poison import poisoned
from worker.reflector import Reflector
from worker.retention import Retention
from worker.roster import Roster
from worker.state_board import StateBoard
from worker.upload_proof import confirmed

log = logging.getLogger(__name__)

WAIT_S: Final = 2.0
# How often the queue's own clockwork is turned, and how often the patience with waiting pods is looked at.
TICK_S: Final = 1.0
JUDGE_S: Final = 5.0
# While the namespace is full, how long until the next job is tried: the others would only be refused as well.
QUOTA_PAUSE_S: Final = 1.0
FINISH_RETRY_S: Final = 5.0


class Supervisor:
    """Holds the attempts of one worker incarnation. `run` is its life, `leave` its end."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        api: KubernetesApi,
        policy: Policy,
        keeper: LogKeeper,
        board: StateBoard,
        metrics: WorkerMetrics,
        capacity: int,
        lease_seconds: float,
    ) -> None:
        self._queue = queue
        self._policy = policy
        self._keeper = keeper
        self._board = board
        self._metrics = metrics
        self._launcher = Launcher(api, policy, queue.worker, metrics)
        self._ending = Ending(queue, api, policy, keeper.reader(), metrics)
        self.reflector = Reflector(api, queue.worker, seen=self._seen, gone=self._gone, metrics=metrics)
        self._orphans = Orphans(keeper.connection, api, self._ending, metrics)
        self._roster = Roster(capacity, self._orphans, metrics)
        self._orphan_scan = OrphanScan(api, keeper.connection, queue.worker, self.reflector.include, metrics)
        self._retention = Retention(keeper.store, keeper.connection, policy, metrics)
        self._adoption = Adoption(
            queue=queue,
            roster=self._roster,
            reflector=self.reflector,
            launcher=self._launcher,
            hands=self,
            metrics=metrics,
            lease_seconds=lease_seconds,
        )
        self._creation = Creation(self._launcher, self._ending, self._roster, self._adoption, hands=self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unknown: set[str] = set()  # pods that the watch did not know at the last look
        self._verifying: set[str] = set()  # pod names
        self._leaving = False
        self._claims_refused = Outage("no job is claimed")
        self._tick_refused = Outage("schedules, cancels and maintenance do not work")
        queue.announce(self._load)
        self.shutdown = asyncio.Event()  # somebody asked through the queue that this worker leaves

    @property
    def ready(self) -> bool:
        """Whether the cluster's pods are known, so that jobs can be taken."""
        return self.reflector.synced

    @property
    def refused(self) -> str:
        """What Redis refuses this worker for good, until somebody mends it; empty when nothing."""
        return self._adoption.refused.why or self._claims_refused.why or self._tick_refused.why

    @property
    def in_flight(self) -> int:
        """Jobs held, without those whose end is recorded."""
        return self._roster.in_flight

    def _load(self) -> dict[str, str | int]:
        """What `status` needs to say why a job is still in the queue; sent with the heartbeats."""
        return {
            wire.FIELD_CAPACITY: self._roster.capacity,
            wire.FIELD_IN_FLIGHT: self.in_flight,
            wire.FIELD_NO_ROOM: self._creation.no_room,
        }

    async def run(self) -> None:
        """Until cancelled, or until the lease is lost (the exception of `JobQueue.renew`)."""
        loops = [
            asyncio.create_task(self.reflector.run(), name="reflector"),
            asyncio.create_task(self._board.run(), name="state board"),
            asyncio.create_task(self._adoption.run(), name="lease"),
            asyncio.create_task(self._tick_loop(), name="tick"),
            asyncio.create_task(self._command_loop(), name="commands"),
            asyncio.create_task(self._claim_loop(), name="claim"),
            asyncio.create_task(self._orphan_scan.run(), name="orphan scan"),
            asyncio.create_task(self._retention.run(), name="retention"),
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_tasks(loops)

    async def leave(self) -> None:
        """Hand everything over: others adopt the jobs at once; no pod is touched, no log byte is lost."""
        self._leaving = True
        await end_tasks(self._tasks)
        await asyncio.gather(*(a.streams.cancel() for a in self._roster.attempts() if a.streams is not None))
        await self._board.flush()
        await self._queue.release()

    # claim

    async def _claim_loop(self) -> None:
        await self.reflector.cover({self._queue.worker})
        while True:
            try:
                await self._claim_once()
            except QueueUnavailable as error:
                await self._queue.outage.pause(error)
            except QueueRefused as error:  # those who are held go on; an operator may mend it meanwhile
                await self._claims_refused.pause(error)
            else:
                self._claims_refused.over()

    async def _claim_once(self) -> None:
        wanted = await self._roster.room_to_claim()
        if self._creation.no_room:
            await asyncio.sleep(QUOTA_PAUSE_S)
            wanted = 1
        claims = await self._queue.claim(wanted)
        for claim in claims:
            self._metrics.claimed.inc()
            if claim.enqueued_at is not None:
                self._metrics.queue_wait.observe(max(0.0, claim.claimed_at - claim.enqueued_at))
            attempt = self._roster.hold(claim)
            self.start(attempt, self.launch(attempt))
        if not claims:
            await self._queue.wait(WAIT_S)

    def start(self, attempt: Attempt, work: Coroutine[Any, Any, None]) -> None:
        """One piece of an attempt's work as a task; what goes wrong in it is logged, and the job stays held."""
        attempt.task = task = asyncio.create_task(work, name=f"{attempt.phase} {attempt.pod_name}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(attempt, done))
        if _creates(attempt):
            self._roster.launching(attempt, task)

    def _done(self, attempt: Attempt, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if attempt.task is task:
            attempt.task = None  # one that was cancelled holds all its frames, and with them the manifest: 40 KB
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, LeaseLost):
                return  # says nothing about the job: this worker is over, and others take it up
            log.error("attempt's task failed", exc_info=error, extra={"action": "bug", **attempt.log_extra})
            if self._leaving:
                return
            if attempt.phase is Phase.FINISHING and attempt.outcome is not None:
                # Its end must be recorded, whatever stood in the way: a job is never dropped.
                asyncio.get_running_loop().call_later(FINISH_RETRY_S, self.end, attempt, attempt.outcome)
            elif attempt.phase is not Phase.DELETING:
                message = f"The worker could not handle this job: {type(error).__name__}: {error}"
                self.end(attempt, Outcome(Verdict.FAILED, Fault.PLATFORM, "worker", message))

    # launch

    async def launch(self, attempt: Attempt) -> None:
        """From the claim to the created pod, or to an end without one."""
        await self._creation.run(attempt)

    def follow_logs(self, attempt: Attempt) -> None:
        """Be ready to follow its containers' logs, as they start. The last to need the payload."""
        claim = attempt.claim
        payload = claim.payload if isinstance(claim.payload, dict) else {}
        source = payload.get("source")
        has_secrets = bool(payload.get("secrets")) or (isinstance(source, dict) and bool(source.get("credentials")))
        attempt.streams = LogStreams(
            self._keeper,
            claim.job_id,
            claim.attempt,
            attempt.pod_name,
            has_secrets=has_secrets,
            limit=self._policy.max_log_bytes,
            begun=claim.adopted,
        )
        claim.forget_payload()

    # follow

    def _seen(self, pod: Pod) -> None:
        """The reflector saw a pod that is new or has changed."""
        attempt = self._roster.of_pod(pod["metadata"]["name"])
        sight = Sight.ORPHAN if attempt is None else self._sight(attempt, pod)
        if attempt is None or sight is Sight.ORPHAN:
            self._orphans.seen(pod)
        elif sight is Sight.FOLLOW:
            self._guard(attempt, partial(self.observe, attempt, pod))

    def _sight(self, attempt: Attempt, pod: Pod) -> Sight:
        claim = attempt.claim
        creating = (label_value(self._queue.worker), attempt.work) if _creates(attempt) else None
        return on_sight(pod["metadata"], claim.job_id, claim.attempt, creating=creating)

    def _guard(self, attempt: Attempt, step: Callable[[], None]) -> None:
        """A pod that nobody has imagined ends its own job, not the reflector, and with it the worker and all others."""
        try:
            step()
        except Exception as error:
            log.exception("strange pod", extra={"action": "bug", **attempt.log_extra})
            if attempt.phase in (Phase.FINISHING, Phase.DELETING):
                return
            if attempt.pod is not None:
                attempt.pod = {**attempt.pod, "status": {}}  # nor may its record stumble over it
            message = f"The worker could not read this job's pod: {type(error).__name__}: {error}"
            self.end(attempt, Outcome(Verdict.FAILED, Fault.PLATFORM, "worker", message))

    def observe(self, attempt: Attempt, pod: Pod) -> None:
        """Take note of the attempt's pod, new or changed, unless something newer is known."""
        if attempt.is_past(pod):
            return
        if attempt.phase in (Phase.FINISHING, Phase.DELETING):
            if attempt.pod is None:  # it ends without a pod, and now there is one: to be deleted with the others
                attempt.note(pod)
            return
        if attempt.phase is Phase.LAUNCHING:
            self._stop_creating(attempt)
        attempt.phase = Phase.FOLLOWING
        self.reflector.include({creator(pod["metadata"])})  # taken over: its events must come here, too
        attempt.note(pod)
        assert attempt.pod is not None
        if attempt.streams is not None:
            attempt.streams.update(attempt.pod)
        self._judge(attempt)

    def _stop_creating(self, attempt: Attempt) -> None:
        """The pod is seen before the reply to its creation: that is no longer waited for.

        Only that: a task that looks for the pod must not be interrupted while it mints.
        """
        creating = attempt.task
        if attempt.creating and creating is not None and creating is not asyncio.current_task():
            creating.cancel()

    def _judge(self, attempt: Attempt) -> None:
        """Classify the pod as last seen, at this time by the clock that all workers share: Redis'."""
        assert attempt.pod is not None
        observation = classify(attempt.pod, self._queue.lease.now(), policy=self._policy, stop=attempt.stop)
        if attempt.stop and not attempt.deletion_sent and not isinstance(observation, Outcome):
            self._end_early(attempt)
        if observation == attempt.observation:
            if isinstance(observation, Running):
                attempt.rest()
            return
        attempt.observation = observation
        if isinstance(observation, Outcome):
            self.end(attempt, observation)
        elif isinstance(observation, Running):
            self.show(attempt, "canceling" if attempt.stop else observation.stage)
            attempt.rest()
        else:
            self.show(attempt, "waiting", observation.why)

    def _end_early(self, attempt: Attempt) -> None:
        """End the pod that somebody asked to stop.

        Never by force: its containers may run before its status says so. A pod on no node goes at once anyway.
        """
        attempt.deletion_sent = True
        self.spawn(self._delete(attempt, grace_seconds=None))

    async def _delete(self, attempt: Attempt, *, grace_seconds: int | None) -> None:
        """End a pod on request. Tried again here: a pod that runs may give no other occasion for hours."""
        while not await self._ending.delete_pod(attempt, grace_seconds=grace_seconds):
            if attempt.phase is Phase.DELETING:
                self._roster.leave_behind(attempt)
            if attempt.phase is not Phase.FOLLOWING:
                attempt.deletion_sent = False
                return
            await asyncio.sleep(JUDGE_S)

    def _gone(self, name: str, uid: str, last: Pod | None) -> None:
        """The reflector saw that a pod is no more."""
        attempt = self._roster.of_pod(name)
        if attempt is None or uid != attempt.pod_uid:
            self._orphans.gone(name)
        elif attempt.phase is Phase.DELETING:
            self._roster.forget(attempt)
        elif attempt.phase is Phase.FINISHING:
            attempt.pod_gone = True
        elif attempt.phase is Phase.FOLLOWING:
            attempt.pod_gone = True
            self._guard(attempt, partial(self._end_without_pod, attempt, last))

    def _end_without_pod(self, attempt: Attempt, last: Pod | None) -> None:
        if last is not None:
            attempt.pod = slim(last)
        if attempt.streams is not None and attempt.pod is not None:
            attempt.streams.update(attempt.pod)
            if last is None or last["spec"].get("nodeName"):
                # A container's start is known some time later: gone by then, nobody has seen it.
                attempt.streams.owe(anatomy.RUN, "the pod was gone before this container was seen to run")
        self.end(attempt, classify_deleted(attempt.pod, stop=attempt.stop))

    def show(self, attempt: Attempt, stage: str, why: str = "") -> None:
        """What the job does now, for people."""
        pod, containers = "", []
        if attempt.pod is not None:
            pod, spec = attempt.pod_name, attempt.pod["spec"]
            containers = [c["name"] for kind in ("initContainers", "containers") for c in spec[kind]]
        claim = attempt.claim
        self._board.show(claim.job_id, claim.attempt, stage, why, pod=pod, containers=containers)

    # end

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Record how it ended, once its logs are complete, or what is missing of them is declared."""
        if self._leaving:
            return
        attempt.phase, attempt.outcome = Phase.FINISHING, outcome
        self.start(attempt, self._finish(attempt, outcome))

    def bury(self, attempt: Attempt) -> None:
        """End a job that kills workers, without a look at its pod."""
        assert attempt.streams is not None
        attempt.streams.forsake("this log was not read to its end: workers died of this job")
        self.end(attempt, poisoned(attempt.claim))

    async def _expose(self, attempt: Attempt) -> None:
        """Let `Orphans` see the pod that a buried job may have: nobody looked at it while the job was held."""
        pod = await self._launcher.find(attempt.pod_name)
        if pod is not None:
            self._orphans.seen(pod)

    async def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt.streams is not None:
            await attempt.streams.finish(pod_gone=attempt.pod_gone)
        outcome = attempt.outcome = await confirmed(attempt, outcome, self._keeper.store)
        recorded = await self._record(attempt, outcome)
        if recorded:
            self.show(attempt, outcome.verdict)
        if after_commit(recorded=recorded) is End.LEAVE or attempt.pod is None or attempt.pod_gone:
            self._roster.leave_behind(attempt)
            if recorded and attempt.claim.workers_lost:
                self.spawn(self._expose(attempt))
            return
        attempt.phase = Phase.DELETING
        self._roster.release(attempt)
        if not attempt.deletion_sent and not await self._ending.delete_pod(attempt, grace_seconds=0):
            self._roster.leave_behind(attempt)  # to be tried again

    async def _record(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Commit the end together with its logs: a failover in between may have lost what was stored of them."""
        while attempt.streams is not None:
            try:
                return await self._ending.record(attempt, outcome, attempt.streams.names)
            except LogsForgotten as error:
                log.warning("logs are stored again: %s", error, extra={"action": "logs_again", **attempt.log_extra})
            await attempt.streams.finish_again(pod_gone=attempt.pod_gone)
        return await self._ending.record(attempt, outcome, ())

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Work that belongs to no single attempt, as a task; what goes wrong in it is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)

    def _spawned_done(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", exc_info=error, extra={"action": "bug"})

    # cancel

    async def _command_loop(self) -> None:
        async for command in self._queue.commands():
            if command.kind is CommandKind.SHUTDOWN:
                log.info("shutdown requested by %s", command.by, extra={"action": "shutdown"})
                self.shutdown.set()
            elif command.job_id is not None:
                self._obey(command, command.job_id)

    def _obey(self, command: Command, job_id: str) -> None:
        attempt = self._roster.of_job(job_id, command.execution_id)
        if attempt is None:
            return
        if command.kind is CommandKind.STOP:
            self._stop(attempt, command.by)
        elif command.kind in (CommandKind.GONE, CommandKind.FENCED):
            log.warning("let go: %s", command.by, extra={"action": "let_go", **attempt.log_extra})
            self.spawn(self._let_go(attempt))

    async def _let_go(self, attempt: Attempt) -> None:
        """The job is no longer this worker's: record nothing, delete nothing.

        Its pod may be what the next claim will find, if Redis has lost this one; `Orphans` knows when it is not.
        """
        if attempt.phase in (Phase.FINISHING, Phase.DELETING):
            return  # the commit is fenced, and decides by itself
        attempt.phase = Phase.DELETING
        self._roster.release(attempt)
        if attempt.task is not None:
            attempt.task.cancel()
        if attempt.streams is not None:
            await attempt.streams.cancel()
        self._roster.leave_behind(attempt)

    def stop_job(self, job_id: str, by: str) -> None:
        """End a job at somebody's request: gracefully when it runs, at once when it waits."""
        attempt = self._roster.of_job(job_id)
        if attempt is not None:
            self._stop(attempt, by)

    def _stop(self, attempt: Attempt, by: str) -> None:
        if attempt.stop:
            return
        log.info("stop requested by %s", by, extra={"action": "stop", **attempt.log_extra})
        attempt.stop = by
        if attempt.phase is Phase.FOLLOWING:
            self._guard(attempt, partial(self._judge, attempt))
        elif attempt.phase is Phase.LAUNCHING and attempt.creation_waits and attempt.task is not None:
            attempt.task.cancel()
            self.end(attempt, never_started(by))
        elif attempt.phase is Phase.LAUNCHING:
            self.show(attempt, "canceling")

    # clockwork

    async def _tick_loop(self) -> None:
        judge_due = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._queue.tick()
                await self._orphans.sweep()
            except QueueUnavailable as error:
                self._queue.outage.report(error)
            except QueueRefused as error:
                self._tick_refused.report(error)
            else:
                self._tick_refused.over()
            if time.monotonic() >= judge_due:
                judge_due = time.monotonic() + JUDGE_S
                self._look_after()

    def _look_after(self) -> None:
        """Patience runs out without an event; and a pod may have gone before the watch knew it."""
        before, self._unknown = self._unknown, set()
        for attempt in self._roster.attempts():
            known = self.reflector.knows(attempt.pod_name)
            if attempt.phase is Phase.DELETING and not known:
                self._roster.forget(attempt)
            if attempt.phase is not Phase.FOLLOWING:
                continue
            # Patience runs out with a pod that waits; and the end of a lost node's pod comes by the clock alone.
            if isinstance(attempt.observation, Waiting) or attempt.pod_deleted:
                self._guard(attempt, partial(self._judge, attempt))
            if not known and attempt.phase is Phase.FOLLOWING:
                self._unknown.add(attempt.pod_name)
        # A watch may lag behind the reply to a creation, and at load it does: only who is unknown twice is asked for.
        for name in self._unknown & before - self._verifying:
            if (doubtful := self._roster.of_pod(name)) is not None:
                self.spawn(self._verify(doubtful))

    async def _verify(self, attempt: Attempt) -> None:
        """Created, but deleted by somebody while no watch was open: no event will ever tell."""
        self._verifying.add(attempt.pod_name)
        try:
            pod = await self._launcher.find(attempt.pod_name)
        finally:
            self._verifying.discard(attempt.pod_name)
        if attempt.phase is not Phase.FOLLOWING or self.reflector.knows(attempt.pod_name):
            return
        if pod is None or pod["metadata"]["uid"] != attempt.pod_uid:
            self._gone(attempt.pod_name, attempt.pod_uid, None)
        else:
            self._guard(attempt, partial(self.observe, attempt, pod))


def _creates(attempt: Attempt) -> bool:
    """Whether it is on its way to a pod that this worker creates; that of an adopted one is looked for."""
    return attempt.phase is Phase.LAUNCHING and first_step(adopted=attempt.claim.adopted) is Start.CREATE

"""The life of every job in this worker's hands, written down once, in the order in which it happens.

    claim      the queue hands over jobs, at most as many as there is room for          `_claim_loop`
    launch     description → policy → pod manifest → created pod                         `_launch`
    follow     each change of the pod is classified: waiting, running, or its end       `_seen`, `_observe`
    log        a container that has started is followed to the end of its log           `LogStreams`
    end        logs complete, then the outcome is committed, then the pod is deleted    `_finish`
    adopt      jobs of workers whose lease has lapsed: same attempt, same pod            `_adopt`
    cancel     a request to stop becomes a graceful deletion of the pod                  `stop_job`
    leave      SIGTERM: stop claiming, release the lease, exit; the pods run on         `leave`

No task lives as long as a job does: between two events an attempt is one object. Decisions are `runner_spec`'s.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec.classify import classify, classify_deleted, only_services_remain
from runner_spec.outcome import Fault, Outcome, Running, Verdict, Waiting
from runner_spec.policy import Policy
from worker.attempt import Attempt, Phase, Pod, has_started, slim
from worker.ending import Ending
from worker.launch import Launcher, QuotaExceededError, RejectedError, pod_name
from worker.log_streams import LogKeeper, LogStreams
from worker.metrics import WorkerMetrics
from worker.orphans import Orphans
from worker.queue import Claim, Command, CommandKind, JobQueue, QueueUnavailable
from worker.reflector import Reflector
from worker.state_board import StateBoard

log = logging.getLogger(__name__)

BATCH: Final = 100
WAIT_S: Final = 2.0
# How often the queue's own clockwork is turned, and how often the patience with waiting pods is looked at.
TICK_S: Final = 1.0
JUDGE_S: Final = 5.0
REDIS_PAUSE_S: Final = 1.0
QUOTA_DELAY_S: Final = 10.0
FINISH_RETRY_S: Final = 5.0
# For services that are still there when all else has ended; the kubelet would give them the pod's whole grace period.
SERVICES_GRACE_S: Final = 10


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
        self._capacity = capacity
        self._lease_seconds = lease_seconds
        self._launcher = Launcher(api, policy, queue.worker, metrics)
        self._ending = Ending(queue, api, policy, metrics)
        self.reflector = Reflector(api, queue.worker, seen=self._seen, gone=self._gone, metrics=metrics)
        self._orphans = Orphans(keeper.connection, self._ending, metrics)
        self._attempts: dict[str, Attempt] = {}  # by pod name
        self._by_job: dict[str, Attempt] = {}
        self._room = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving = False
        self.shutdown = asyncio.Event()  # somebody asked through the queue that this worker leaves
        metrics.capacity.set(capacity)

    @property
    def ready(self) -> bool:
        """Whether the cluster's pods are known, so that jobs can be taken."""
        return self.reflector.synced

    @property
    def in_flight(self) -> int:
        """Jobs held, without those whose end is recorded."""
        return len(self._by_job)

    async def run(self) -> None:
        """Until cancelled, or until the lease is lost (the exception of `JobQueue.renew`)."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reflector.run(), name="reflector")
            group.create_task(self._board.run(), name="state board")
            group.create_task(self._renew_loop(), name="lease")
            group.create_task(self._tick_loop(), name="tick")
            group.create_task(self._command_loop(), name="commands")
            await self.reflector.cover({self._queue.worker})
            group.create_task(self._claim_loop(), name="claim")

    async def leave(self) -> None:
        """Hand everything over: others adopt the jobs at once; no pod is touched, no log byte is lost."""
        self._leaving = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(a.streams.cancel() for a in self._attempts.values() if a.streams is not None))
        await self._board.flush()
        await self._queue.release()

    # claim

    async def _claim_loop(self) -> None:
        while True:
            try:
                await self._claim_once()
            except QueueUnavailable as error:
                log.warning("Redis is away: %s", error, extra={"action": "redis_away"})
                await asyncio.sleep(REDIS_PAUSE_S)

    async def _claim_once(self) -> None:
        room = self._capacity - self.in_flight
        if room <= 0:
            self._room.clear()
            await self._room.wait()
            return
        claims = await self._queue.claim(min(room, BATCH))
        for claim in claims:
            self._metrics.claimed.inc()
            if claim.enqueued_at is not None:
                self._metrics.queue_wait.observe(max(0.0, claim.claimed_at - claim.enqueued_at))
            attempt = self._hold(claim)
            self._start(attempt, self._launch(attempt))
        if not claims:
            await self._queue.wait(WAIT_S)

    def _hold(self, claim: Claim) -> Attempt:
        attempt = Attempt(claim, pod_name(claim), stop=claim.stop_requested or "")
        self._attempts[attempt.pod_name] = self._by_job[claim.job_id] = attempt
        self._metrics.in_flight.set(self.in_flight)
        return attempt

    def _release(self, attempt: Attempt) -> None:
        """The job is out of this worker's hands; the pod may still be going."""
        if self._by_job.get(attempt.claim.job_id) is attempt:
            del self._by_job[attempt.claim.job_id]
        self._metrics.in_flight.set(self.in_flight)
        self._room.set()

    def _forget(self, attempt: Attempt) -> None:
        self._release(attempt)
        if self._attempts.get(attempt.pod_name) is attempt:
            del self._attempts[attempt.pod_name]

    def _start(self, attempt: Attempt, work: Coroutine[Any, Any, None]) -> None:
        """One piece of an attempt's work as a task; what goes wrong in it is logged, and the job stays held."""
        attempt.task = task = asyncio.create_task(work, name=f"{attempt.phase} {attempt.pod_name}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(attempt, done))

    def _done(self, attempt: Attempt, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt's task failed", exc_info=error, extra={"action": "bug", **attempt.log_extra})
            if self._leaving:
                return
            if attempt.phase is Phase.FINISHING and attempt.outcome is not None:
                # Its end must be recorded, whatever stood in the way: a job is never dropped.
                asyncio.get_running_loop().call_later(FINISH_RETRY_S, self._end, attempt, attempt.outcome)
            elif attempt.phase is not Phase.DELETING:
                message = f"The worker could not handle this job: {type(error).__name__}: {error}"
                self._end(attempt, Outcome(Verdict.FAILED, Fault.PLATFORM, "worker", message))

    # launch

    async def _launch(self, attempt: Attempt) -> None:
        claim = attempt.claim
        if attempt.stop:
            self._end(attempt, _canceled(attempt.stop))
            return
        try:
            launch = self._launcher.prepare(claim)
            attempt.description = launch.description
            self._watch_logs(attempt)
            self._show(attempt, "waiting", "the pod is being created")
            pod = await self._launcher.create(launch.manifest, lambda why: self._show(attempt, "waiting", why))
        except RejectedError as error:
            self._end(attempt, error.outcome)
        except QuotaExceededError as error:
            await self._give_back(attempt, QUOTA_DELAY_S, str(error))
        except ApiError as error:
            self._end(attempt, Outcome(Verdict.FAILED, Fault.PLATFORM, "create", f"The pod was not created: {error}"))
        else:
            self._observe(attempt, pod)

    async def _give_back(self, attempt: Attempt, delay: float, why: str) -> None:
        if await self._ending.requeue(attempt, delay, why):
            self._show(attempt, "waiting", why)
        self._forget(attempt)

    def _watch_logs(self, attempt: Attempt) -> None:
        payload = attempt.claim.payload if isinstance(attempt.claim.payload, dict) else {}
        source = payload.get("source")
        has_secrets = bool(payload.get("secrets")) or (isinstance(source, dict) and bool(source.get("credentials")))
        claim = attempt.claim
        attempt.streams = LogStreams(
            self._keeper,
            claim.job_id,
            claim.attempt,
            attempt.pod_name,
            has_secrets=has_secrets,
            limit=self._policy.max_log_bytes,
        )

    # follow

    def _seen(self, pod: Pod) -> None:
        """The reflector saw a pod that is new or has changed."""
        attempt = self._attempts.get(pod["metadata"]["name"])
        if attempt is None:
            self._orphans.seen(pod)
        else:
            self._observe(attempt, pod)

    def _observe(self, attempt: Attempt, pod: Pod) -> None:
        if attempt.phase in (Phase.FINISHING, Phase.DELETING) or _older(pod, attempt.pod):
            return
        attempt.phase = Phase.FOLLOWING
        attempt.pod_uid = pod["metadata"]["uid"]
        attempt.pod = slim(pod)
        if attempt.streams is not None:
            attempt.streams.update(attempt.pod)
        self._judge(attempt)

    def _judge(self, attempt: Attempt) -> None:
        """Classify the pod as last seen, at this time."""
        assert attempt.pod is not None
        observation = classify(attempt.pod, time.time(), policy=self._policy, stop=attempt.stop)
        if not attempt.deletion_sent and not isinstance(observation, Outcome):
            self._hasten(attempt)
        if observation == attempt.observation:
            return
        attempt.observation = observation
        if isinstance(observation, Outcome):
            self._end(attempt, observation)
        elif isinstance(observation, Running):
            self._show(attempt, "canceling" if attempt.stop else observation.stage)
        else:
            self._show(attempt, "waiting", observation.why)

    def _hasten(self, attempt: Attempt) -> None:
        """End a pod early that somebody asked to stop, or in which only services are left that ignore SIGTERM."""
        assert attempt.pod is not None
        if attempt.stop:
            grace = None if has_started(attempt.pod) else 0
        elif only_services_remain(attempt.pod):
            grace = SERVICES_GRACE_S
        else:
            return
        attempt.deletion_sent = True
        self._spawn(self._delete(attempt, grace_seconds=grace))

    async def _delete(self, attempt: Attempt, *, grace_seconds: int | None) -> None:
        """End a pod on request; when that fails, the next look at it tries again."""
        if not await self._ending.delete_pod(attempt, grace_seconds=grace_seconds):
            attempt.deletion_sent = False

    def _gone(self, name: str, uid: str, last: Pod | None) -> None:
        """The reflector saw that a pod is no more."""
        attempt = self._attempts.get(name)
        if attempt is None or uid != attempt.pod_uid:
            self._orphans.gone(name)
        elif attempt.phase is Phase.DELETING:
            self._forget(attempt)
        elif attempt.phase is Phase.FINISHING:
            attempt.pod_gone = True
        elif attempt.phase is Phase.FOLLOWING:
            attempt.pod_gone = True
            if last is not None:
                attempt.pod = slim(last)
                if attempt.streams is not None:
                    attempt.streams.update(attempt.pod)
            self._end(attempt, classify_deleted(attempt.pod, stop=attempt.stop))

    def _show(self, attempt: Attempt, stage: str, why: str = "") -> None:
        pod, containers = "", []
        if attempt.pod is not None:
            pod, spec = attempt.pod_name, attempt.pod["spec"]
            containers = [c["name"] for kind in ("initContainers", "containers") for c in spec[kind]]
        claim = attempt.claim
        self._board.show(claim.job_id, claim.attempt, stage, why, pod=pod, containers=containers)

    # end

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        if self._leaving:
            return
        attempt.phase, attempt.outcome = Phase.FINISHING, outcome
        self._start(attempt, self._finish(attempt, outcome))

    async def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt.streams is not None:
            await attempt.streams.finish()
        recorded = await self._ending.record(attempt, outcome)
        if recorded:
            self._show(attempt, outcome.verdict)
        if not recorded or attempt.pod is None or attempt.pod_gone:
            self._forget(attempt)
            return
        attempt.phase = Phase.DELETING
        self._release(attempt)
        if not attempt.deletion_sent and not await self._ending.delete_pod(attempt, grace_seconds=0):
            self._forget(attempt)
            self._orphans.seen(attempt.pod)  # to be tried again

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # adopt

    async def _renew_loop(self) -> None:
        while True:
            try:
                await self._queue.renew()
                await self._adopt()
            except QueueUnavailable as error:
                log.warning("nothing adopted: %s", error, extra={"action": "redis_away"})
            await asyncio.sleep(self._lease_seconds / 3)

    async def _adopt(self) -> None:
        """Take over the jobs of dead workers, as far as there is room, and own claims whose reply was lost."""
        while (room := self._capacity - self.in_flight) > 0:
            claims = await self._queue.adopt(min(room, BATCH))
            held = [self._hold(claim) for claim in claims]
            for attempt in held:
                if not attempt.claim.adopted:
                    self._start(attempt, self._launch(attempt))
            adopted = [attempt for attempt in held if attempt.claim.adopted]
            for attempt in adopted:
                self._metrics.adopted.inc()
                log.info("adopted", extra={"action": "adopted", **attempt.log_extra})
                attempt.description = self._launcher.describe(attempt.claim)
                self._watch_logs(attempt)
            if adopted:
                # Not awaited here: while Kubernetes is away, the lease must be renewed all the same.
                self._spawn(self._find_pods(adopted))
            if len(claims) < BATCH:
                return

    async def _find_pods(self, adopted: list[Attempt]) -> None:
        """A LIST that covers their creators' pods reports each pod that exists."""
        await self.reflector.cover({attempt.claim.minted_by for attempt in adopted})
        for attempt in adopted:
            if attempt.phase is Phase.LAUNCHING and attempt.task is None:
                self._start(attempt, self._find_or_mint(attempt))

    async def _find_or_mint(self, attempt: Attempt) -> None:
        """The LIST did not report the pod now: it was reported earlier, or there is none.

        Its creator may still be about to create it, so this attempt's pod is never created here: the next attempt is.
        """
        pod = await self._launcher.find(attempt.pod_name)
        if pod is not None:
            self._observe(attempt, pod)
            return
        claim = await self._queue.mint(attempt.claim)
        self._forget(attempt)
        if claim is not None:
            following = self._hold(claim)
            self._start(following, self._launch(following))

    # cancel

    async def _command_loop(self) -> None:
        async for command in self._queue.commands():
            if command.kind is CommandKind.SHUTDOWN:
                log.info("shutdown requested by %s", command.by, extra={"action": "shutdown"})
                self.shutdown.set()
            elif command.job_id is not None:
                self._obey(command, command.job_id)

    def _obey(self, command: Command, job_id: str) -> None:
        attempt = self._by_job.get(job_id)
        if attempt is None or command.execution_id not in (None, attempt.claim.execution_id):
            return
        if command.kind is CommandKind.STOP:
            self.stop_job(job_id, command.by)
        elif command.kind in (CommandKind.GONE, CommandKind.FENCED):
            log.warning("let go: %s", command.by, extra={"action": "let_go", **attempt.log_extra})
            self._spawn(self._let_go(attempt, delete=command.kind is CommandKind.GONE))

    async def _let_go(self, attempt: Attempt, *, delete: bool) -> None:
        """The job is no longer this worker's: record nothing; end the pod only where nobody else will."""
        if attempt.phase in (Phase.FINISHING, Phase.DELETING):
            return  # the commit is fenced, and decides by itself
        attempt.phase = Phase.DELETING
        self._release(attempt)
        if attempt.task is not None:
            attempt.task.cancel()
        if attempt.streams is not None:
            await attempt.streams.cancel()
        if delete and attempt.pod_uid:
            await self._ending.delete_pod(attempt)
        else:
            self._forget(attempt)

    def stop_job(self, job_id: str, by: str) -> None:
        """End a job at somebody's request: gracefully when it runs, at once when it waits."""
        attempt = self._by_job.get(job_id)
        if attempt is None or attempt.stop:
            return
        log.info("stop requested by %s", by, extra={"action": "stop", **attempt.log_extra})
        attempt.stop = by
        if attempt.phase is Phase.FOLLOWING:
            self._judge(attempt)
        elif attempt.phase is Phase.LAUNCHING:
            self._show(attempt, "canceling")

    # clockwork

    async def _tick_loop(self) -> None:
        judge_due = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._queue.tick()
                await self._orphans.sweep()
            except QueueUnavailable as error:
                log.warning("tick: Redis is away: %s", error, extra={"action": "redis_away"})
            if time.monotonic() >= judge_due:
                judge_due = time.monotonic() + JUDGE_S
                self._look_after()

    def _look_after(self) -> None:
        """Patience runs out without an event; and a pod may have gone before the watch knew it."""
        for attempt in list(self._attempts.values()):
            if attempt.phase is not Phase.FOLLOWING:
                continue
            if isinstance(attempt.observation, Waiting):
                self._judge(attempt)
            if not self.reflector.knows(attempt.pod_name) and attempt.phase is Phase.FOLLOWING:
                self._spawn(self._verify(attempt))

    async def _verify(self, attempt: Attempt) -> None:
        """Created, but deleted by somebody while no watch was open: no event will ever tell."""
        pod = await self._launcher.find(attempt.pod_name)
        if attempt.phase is not Phase.FOLLOWING or self.reflector.knows(attempt.pod_name):
            return
        if pod is None:
            self._gone(attempt.pod_name, attempt.pod_uid, None)
        else:
            self._observe(attempt, pod)


def _canceled(by: str) -> Outcome:
    return Outcome(Verdict.CANCELED, Fault.USER, "stop", f"Stopped before it started, by {by}.")


def _older(pod: Pod, known: Pod | None) -> bool:
    """The reply to a create may arrive after newer events of the watch."""
    if known is None or known["metadata"]["uid"] != pod["metadata"]["uid"]:
        return False
    return int(pod["metadata"]["resourceVersion"]) < int(known["metadata"]["resourceVersion"])

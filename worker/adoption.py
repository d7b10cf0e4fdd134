"""Taking over from workers that have died: the same attempts, the same pods.

A worker lives under a lease. When one lapses, its executions are adopted (`JobQueue.adopt`). The pod of each is found
by its creator's label, or there is none, and then the next attempt is minted: only the claim that minted an attempt may
create its pod, since a dead worker's request may still take effect.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

from adapters.redis_outage import Outage
from adapters.redis_server import RedisUnavailable
from runner_spec.anatomy import RUN
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.ownership import Lookup, Start, after_lookup, first_step, is_pod_of
from worker.attempt import Attempt, Phase, Pod
from worker.launch import Launcher
from worker.metrics import WorkerMetrics
from worker.queue import Claim, JobQueue, QueueRefused, QueueUnavailable
from worker.reflector import Reflector
from worker.roster import Roster

log = logging.getLogger(__name__)

# Jobs asked for at a time. Each time, what this worker holds is compared with Redis: more at a time, less to compare.
BATCH: Final = 500
# Seconds that others' leases have ended before they are looked at: their clocks and ours are not the server's.
SOONEST_S: Final = 0.1
# Jobs that a full worker takes over at each turn.
BESIDES_FULL: Final = 10
LOG_LOST: Final = "no pod of this attempt was found any more: what it may have printed is lost"


class Hands(Protocol):
    """What the supervisor does with an attempt that was taken over."""

    def start(self, attempt: Attempt, work: Coroutine[Any, Any, None]) -> None:
        """Run a piece of the attempt's work as a task."""

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run what belongs to no single attempt as a task."""

    async def launch(self, attempt: Attempt) -> None:
        """Create the attempt's pod."""

    def follow_logs(self, attempt: Attempt) -> None:
        """Be ready to follow its containers' logs."""

    def observe(self, attempt: Attempt, pod: Pod) -> None:
        """Take note of its pod."""

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Record how it ended."""

    def bury(self, attempt: Attempt) -> None:
        """End it without a look at it: it kills workers."""


class Adoption:
    """Keeps the own lease and takes over from those who lost theirs."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        roster: Roster,
        reflector: Reflector,
        launcher: Launcher,
        hands: Hands,
        metrics: WorkerMetrics,
        lease_seconds: float,
    ) -> None:
        self._queue = queue
        self._roster = roster
        self._reflector = reflector
        self._launcher = launcher
        self._hands = hands
        self._metrics = metrics
        self._lease_seconds = lease_seconds
        self.refused = Outage("the lease is not renewed, or nothing adopted")
        self._dead: set[str] = set()  # incarnations whose lease has lapsed, as last asked

    async def run(self) -> None:
        """Renew the lease, and look for the jobs of others that have not, until cancelled or until it is lost."""
        while True:
            pause = self._lease_seconds / 3
            try:
                await self._queue.renew()
                dead = await self._queue.lapsed()  # asked first: adoption forgets those who leave nothing
                await self._adopt()
                self._cover(dead)
                # A dead worker's jobs should not wait for the rest of the pause.
                pause = min(pause, SOONEST_S + await self._queue.next_lapse(pause))
            except QueueUnavailable as error:
                # The lease is as good as lapsed where Redis is away for long: be among the first when it is back.
                await self._queue.outage.pause(error)
                continue
            except QueueRefused as error:
                # A right that is missing, say. What is held runs on; without a lease, others take it over.
                self.refused.report(error)
            else:
                self.refused.over()
            await asyncio.sleep(pause)

    def _cover(self, dead: set[str]) -> None:
        """See what pods dead workers left behind: one that died between record and deletion leaves no job to adopt.

        After the adoption, so that one LIST reports the pods of all jobs that were adopted.
        """
        new, self._dead = dead - self._dead, dead
        if new:
            # Not awaited, as in `_adopt`.
            self._hands.spawn(self._reflector.cover(new))

    async def _adopt(self) -> None:
        """Take over the jobs of dead workers, as far as there is room, and own claims whose reply was lost.

        A few even where there is none: their pods exist already, and claims fill every place that becomes free.
        """
        adopted: list[Attempt] = []
        wanted = max(self._roster.room, BESIDES_FULL)
        try:
            while wanted > 0:
                claims = await self._queue.adopt(min(wanted, BATCH))
                adopted += self._take(claims)
                if len(claims) < BATCH:
                    return
                wanted = self._roster.room
        finally:
            if adopted:
                # Not awaited here: while Kubernetes is away, the lease must be renewed all the same.
                self._hands.spawn(self._find_pods(adopted))

    def _take(self, claims: Sequence[Claim]) -> list[Attempt]:
        """Hold what was taken over; returns those whose pods are to be found."""
        adopted = []
        for claim in claims:
            attempt = self._roster.hold(claim)
            if first_step(adopted=claim.adopted) is Start.CREATE:
                self._hands.start(attempt, self._hands.launch(attempt))
                continue
            adopted.append(attempt)
            self._metrics.adopted.inc()
            log.info("adopted", extra={"action": "adopted", **attempt.log_extra})
            attempt.describe(self._launcher.describe(claim))
            self._hands.follow_logs(attempt)
            if claim.workers_lost:
                self._hands.bury(attempt)
        return adopted

    async def _find_pods(self, adopted: list[Attempt]) -> None:
        """A LIST that covers their creators' pods reports each pod that exists."""
        await self._reflector.cover({attempt.claim.minted_by for attempt in adopted})
        for attempt in adopted:
            if attempt.phase is Phase.LAUNCHING and attempt.task is None:
                self._hands.start(attempt, self.find_or_mint(attempt))

    async def find_or_mint(self, attempt: Attempt, outcome: Outcome | None = None) -> None:
        """No LIST has reported the attempt's pod just now: it was reported earlier, or there is none.

        Its creation may still take effect, so this attempt's pod is never created here: the next attempt's is.
        `outcome` is this attempt's end then; None for that of one whose worker has ended.
        """
        pod = await self._launcher.find(attempt.pod_name)
        if attempt.phase is not Phase.LAUNCHING:
            return  # it was seen meanwhile
        job_id, number = attempt.claim.job_id, attempt.claim.attempt
        if pod is not None and not is_pod_of(pod["metadata"], job_id, number, work=attempt.work):
            pod = None  # it only has the name
        if after_lookup(found=pod is not None) is Lookup.FOLLOW:
            assert pod is not None
            self._hands.observe(attempt, pod)
            return
        await self._declare_logs(attempt)
        if self._was_seen(attempt):
            return  # it has come up while Redis was waited for: late, but it is the attempt's pod
        if attempt.stop:
            self._end_stopped(attempt)
            return
        claim = await self._mint(attempt, outcome)
        if attempt.streams is not None:  # the pod may have come up meanwhile: too late, the attempt is superseded
            await attempt.streams.cancel()
        self._roster.leave_behind(attempt)
        if claim is not None:
            following = self._roster.hold(claim)
            following.stop = following.stop or attempt.stop
            following.unanswered = attempt.unanswered
            self._hands.start(following, self._hands.launch(following))

    def _was_seen(self, attempt: Attempt) -> bool:
        return attempt.phase is not Phase.LAUNCHING

    def _end_stopped(self, attempt: Attempt) -> None:
        """Not to be started again; and a pod that appears all the same is deleted, as that of an ended attempt."""
        if attempt.phase is Phase.LAUNCHING:  # else its pod has come up meanwhile: that one's end is the attempt's
            message = f"Stopped by {attempt.stop}; no pod of it was found."
            self._hands.end(attempt, Outcome(Verdict.CANCELED, Fault.USER, "stop", message))

    async def _declare_logs(self, attempt: Attempt) -> None:
        """There may have been a pod, deleted by a stranger say, of which nobody has read all."""
        assert attempt.streams is not None
        attempt.streams.forsake(LOG_LOST)
        attempt.streams.owe(RUN, LOG_LOST)
        while True:
            try:
                await attempt.streams.finish(pod_gone=True)
            except RedisUnavailable as error:
                await self._queue.outage.pause(error)
            else:
                return

    async def _mint(self, attempt: Attempt, outcome: Outcome | None) -> Claim | None:
        while True:
            try:
                return await self._queue.mint(attempt.claim, outcome)
            except QueueUnavailable as error:
                await self._queue.outage.pause(error)

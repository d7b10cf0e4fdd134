"""The attempts that a worker holds, and the jobs and pods they are found by."""

import asyncio
from contextlib import suppress
from typing import Final

from worker.attempt import Attempt
from worker.launch import pod_name
from worker.metrics import WorkerMetrics
from worker.orphans import Orphans
from worker.queue import Claim

# Jobs on their way to a pod at once: as many as there are connections to create them. Who claims more only keeps them
# from other workers, in memory that is not given back.
LAUNCHES: Final = 64
# Where so many do not get on, how long until one more is tried, in seconds: their trouble may be their own.
TRIAL_S: Final = 10.0


class Roster:
    """Which attempts this worker holds, at most `capacity` jobs. A recorded one stays until its pod is gone."""

    def __init__(self, capacity: int, orphans: Orphans, metrics: WorkerMetrics) -> None:
        self.capacity = capacity
        self._orphans = orphans
        self._metrics = metrics
        self._by_pod: dict[str, Attempt] = {}
        self._by_job: dict[str, Attempt] = {}
        self._launches: dict[asyncio.Task[None], Attempt] = {}
        self._news = asyncio.Event()  # a job was released, or a launch is over
        metrics.capacity.set(capacity)

    @property
    def in_flight(self) -> int:
        """Jobs held, without those whose end is recorded."""
        return len(self._by_job)

    @property
    def room(self) -> int:
        """How many more jobs may be taken; not above zero when it is full."""
        return self.capacity - self.in_flight

    async def room_to_claim(self) -> int:
        """Wait until it makes sense to claim jobs, then how many: one at least.

        In batches, for the sake of round trips: when half of the launches are over, as many again. Launches that wait
        for Kubernetes count: while it is away, other workers may reach it. But not for ever: see `_launched`.
        """
        while self.room <= 0 or len(self._launches) > LAUNCHES // 2:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(TRIAL_S):
                    await self._news.wait()
                continue
            if self.room > 0:
                return 1
        return min(self.room, LAUNCHES - len(self._launches))

    def launching(self, attempt: Attempt, task: "asyncio.Task[None]") -> None:
        """Until this task has ended, in whatever way, the attempt is on its way to a pod."""
        self._launches[task] = attempt
        task.add_done_callback(self._launched)

    def _launched(self, task: "asyncio.Task[None]") -> None:
        attempt = self._launches.pop(task, None)
        if attempt is not None and attempt.pod_uid:
            # Kubernetes creates pods: those that still wait for theirs must not keep others from being claimed.
            self._launches = {t: a for t, a in self._launches.items() if not a.creation_waits}
        self._news.set()

    def attempts(self) -> list[Attempt]:
        """All of them, also those whose pod is only being deleted."""
        return list(self._by_pod.values())

    def of_pod(self, name: str) -> Attempt | None:
        """The attempt whose pod has this name."""
        return self._by_pod.get(name)

    def of_job(self, job_id: str, execution_id: str | None = None) -> Attempt | None:
        """The job's newest attempt, or the one of this execution."""
        newest = self._by_job.get(job_id)
        if newest is not None and execution_id in (None, newest.claim.execution_id):
            return newest
        # The id was enqueued again while it ran, and this very worker has claimed it: the older attempt is meant.
        return next((a for a in self._by_pod.values() if a.claim.execution_id == execution_id), None)

    def hold(self, claim: Claim) -> Attempt:
        """Take an attempt in hand."""
        attempt = Attempt(claim, pod_name(claim), stop=claim.stop_requested or "")
        self._orphans.gone(attempt.pod_name)  # this worker sees to it itself
        self._by_pod[attempt.pod_name] = self._by_job[claim.job_id] = attempt
        self._metrics.in_flight.set(self.in_flight)
        return attempt

    def release(self, attempt: Attempt) -> None:
        """The job is out of this worker's hands; the pod may still be going."""
        if self._by_job.get(attempt.claim.job_id) is attempt:
            del self._by_job[attempt.claim.job_id]
        self._metrics.in_flight.set(self.in_flight)
        self._news.set()

    def forget(self, attempt: Attempt) -> None:
        """Job and pod are over, or somebody else's."""
        self.release(attempt)
        if self._by_pod.get(attempt.pod_name) is attempt:
            del self._by_pod[attempt.pod_name]

    def leave_behind(self, attempt: Attempt) -> None:
        """Forget the attempt; if it has a pod, somebody must see to its deletion once Redis says that it is over."""
        self.forget(attempt)
        if attempt.pod is not None and not attempt.pod_gone:
            self._orphans.seen(attempt.pod)

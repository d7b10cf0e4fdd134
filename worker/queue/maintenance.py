"""What rq's workers and scheduler do now and then, done so that it harms nobody: no running job is ever failed here."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from rq import Queue
from rq.defaults import DEFAULT_RESULT_TTL
from rq.group import Group
from rq.job import Job
from rq.rate_limit import RateLimitRegistry
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ReadyJobRegistry, ScheduledJobRegistry
from rq.worker_registration import clean_worker_registry

from adapters.redis_server import Connections, RedisError, RedisUnavailable, WatchConflict, translated
from runner_spec import wire
from worker.cancellation import end_tasks
from worker.queue import keys
from worker.queue.census import Census
from worker.queue.claim import text
from worker.queue.script import load

logger = logging.getLogger(__name__)

SCHEDULE_BATCH: Final = 500
# Seconds; as rq's scheduler with its interval of 1 s.
SCHEDULER_LOCK_TTL: Final = 61
# rq's Queue.DEFAULT_TIMEOUT, which rq writes where a producer left it out; nothing of ours reads it.
DEFAULT_TIMEOUT: Final = 180
# Seconds after which an entry of rq's intermediate list is taken for lost, as in rq (IntermediateQueue).
STALE_SECONDS: Final = 60
LOCK_KEY: Final = wire.PREFIX + "maintenance"
CENSUS_LOCK_KEY: Final = LOCK_KEY + ":census"
# Seconds between two walks over all keys: what they mend is rare, and nobody waits for it in the second.
CENSUS_SECONDS: Final = 600.0


class Maintenance:
    """Scheduling and cleaning for a worker's queues; any number of workers may do it at once."""

    def __init__(self, connections: Connections, queues: Sequence[str], date: Callable[[], str]) -> None:
        self._connections = connections
        self._queues = tuple(queues)
        self._date = date
        self._census = Census(connections.control, self._queues, date)
        self._walk: asyncio.Task[None] | None = None
        # Redis went away: to be done as soon as it is back, for nobody else does it before the interval is over.
        self.cut_short = False
        # Whoever comes first does it for the same queues only: others serve others.
        self._scope = ":" + ",".join(sorted(self._queues))

    async def schedule(self) -> int:
        """Move due jobs (`enqueue_in`, `enqueue_at`, retries and repeats with an interval) to their queues.

        Returns how many were moved.
        """
        moved = 0
        for queue in self._queues:
            more = True
            while more:
                count, limited, more = await self._schedule_batch(queue)
                moved += count
                if limited:
                    await asyncio.to_thread(self._schedule_rate_limited, queue, limited)
        return moved

    async def clean(self, interval: float) -> None:
        """Tidy rq's registries; one worker does it each `interval` seconds, whoever comes first."""
        walking = self._walk is not None and not self._walk.done()
        if not walking and await self._is_mine(CENSUS_LOCK_KEY + self._scope, CENSUS_SECONDS):
            # Beside the rest: half a minute, where there are some 100,000 jobs.
            self._walk = asyncio.create_task(self._take_census(), name="census")
        if self.cut_short or await self._is_mine(LOCK_KEY + self._scope, interval):
            try:
                await self._sweep()
            except RedisUnavailable:
                self.cut_short = True
                raise
            self.cut_short = False

    async def aclose(self) -> None:
        """End a walk that is under way."""
        await end_tasks([self._walk] if self._walk is not None else [])

    async def _take_census(self) -> None:
        try:
            await self._census.take()
        except RedisError:  # a key of a foreign type, say; the next walk begins anew
            logger.exception("not all keys were looked at", extra={"action": "census-failed"})

    async def _is_mine(self, lock: str, interval: float) -> bool:
        with translated():
            # A little less than the interval, so that the next pass finds the lock gone.
            lifetime = max(int(interval * 900), 1)
            return bool(await self._connections.control.set(lock, "1", nx=True, px=lifetime))

    async def _sweep(self) -> None:
        for queue in self._queues:
            names = [keys.intermediate_list(queue), keys.queue_list(queue), keys.started_registry(queue)]
            reply: Any = await load("sweep").run(self._connections.control, names, [self._date(), STALE_SECONDS])
            for job_id in map(text, reply):
                logger.warning("job was left behind by a stock rq worker and is requeued",
                               extra={"action": "job-rescued", "job": job_id})  # fmt: skip
        await asyncio.to_thread(self._clean_registries)

    async def _schedule_batch(self, queue: str) -> tuple[int, list[str], bool]:
        names = [keys.scheduled_registry(queue), keys.queue_list(queue), keys.scheduler_lock(queue), keys.QUEUES]
        arguments: list[str | bytes | int | float] = [
            queue,
            self._date(),
            SCHEDULE_BATCH,
            SCHEDULER_LOCK_TTL,
            DEFAULT_TIMEOUT,
        ]
        reply: Any = await load("schedule").run(self._connections.control, names, arguments)
        limited = [text(job_id) for job_id in reply[1]]
        return int(reply[0]), limited, bool(reply[2]) and not limited

    def _schedule_rate_limited(self, queue_name: str, job_ids: Sequence[str]) -> None:
        """As rq does it for jobs that wait for a slot; watched, since a colleague may be doing the same."""
        sync = self._connections.sync
        queue = Queue(queue_name, connection=sync, serializer="json")
        registry = ScheduledJobRegistry(queue=queue)
        for job_id in job_ids:
            pipeline: Any
            with translated(), sync.pipeline() as pipeline:
                try:
                    pipeline.watch(registry.key, Job.key_for(job_id))
                    job = Job.fetch(job_id, connection=sync, serializer="json")
                    pipeline.multi()
                    registry.remove(job.id, pipeline=pipeline)
                    queue._enqueue_rate_limited_job(job, pipeline=pipeline, at_front=job.should_enqueue_at_front())  # noqa: SLF001 - as rq's scheduler
                    pipeline.execute()
                except WatchConflict:
                    logger.debug("job %s is being scheduled by a colleague", job_id)

    def _clean_registries(self) -> None:
        """rq.registry.clean_registries without its StartedJobRegistry.cleanup, which fails jobs."""
        sync = self._connections.sync
        with translated():
            for name in self._queues:
                queue = Queue(name, connection=sync, serializer="json")
                FinishedJobRegistry(queue=queue).cleanup()
                FailedJobRegistry(queue=queue).cleanup()
                ReadyJobRegistry(queue=queue).cleanup()
                clean_worker_registry(queue)
            for limits in RateLimitRegistry.all(sync):
                limits.cleanup()
            if Group.acquire_maintenance_lock(sync, DEFAULT_RESULT_TTL):
                Group.clean_registries(connection=sync)

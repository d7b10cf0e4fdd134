"""Deletes logs, artifacts and caches from the object store once nobody is promised them any more (policy `retention`).

A pass looks at a bounded number of jobs, from where the last one of any worker stopped (a cursor in Redis). A job goes
as a whole, when its newest object is too old and Redis knows of no attempt to come. Its manifests go first: without one
a job whose artifacts are half deleted does not look complete. The next round finds the rest, which is just as old.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from adapters.object_store import ObjectMeta, ObjectStore, StoreError
from adapters.redis_server import AsyncClient, RedisError, translated
from runner_spec import ownership, storage, wire
from runner_spec.policy import Policy
from worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

# Seconds between two rounds, of all workers together, and how long one may last: the next one goes on.
INTERVAL_S: Final = 3600.0
ROUND_S: Final = 1800.0
LOCK_KEY: Final = wire.PREFIX + "maintenance:retention"
# A hash of folder → the name after which the next pass begins; it expires, and then that is the first one.
CURSOR_KEY: Final = wire.PREFIX + "retention"
CURSOR_TTL_S: Final = 7 * 24 * 3600
# Jobs or cache entries that a pass looks at, and holds in memory.
PASS_FOLDERS: Final = 500
# S3 deletes as many with one request.
DELETE_BATCH: Final = 1000
SCAN_COUNT: Final = 1000
# In every other status there may be another attempt.
ENDED: Final = frozenset(status.encode() for status in ownership.ENDED)


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is deleted together: `folder_of` gives its name, whose order is that of the objects' names."""

    root: str
    seconds: int
    folder_of: Callable[[str], str | None]


class Retention:
    """Runs beside the jobs. Any number of workers may: what two of them delete at once is deleted once."""

    def __init__(
        self,
        store: ObjectStore,
        connection: AsyncClient,
        policy: Policy,
        metrics: WorkerMetrics,
        *,
        now: Callable[[], datetime] | None = None,
        pass_folders: int = PASS_FOLDERS,
    ) -> None:
        self._store = store
        self._redis: Any = connection
        self._metrics = metrics
        self._now = now
        self._pass_folders = pass_folders
        kinds = (
            _Kind(storage.JOBS, policy.retention, storage.job_folder),
            _Kind(storage.CACHES, policy.cache_retention, lambda path: path),
        )
        self._kinds = tuple(kind for kind in kinds if kind.seconds)

    async def run(self) -> None:
        """Until cancelled; one worker does a round in each interval, whoever comes first."""
        while True:
            await asyncio.sleep(INTERVAL_S * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
            try:
                with translated():
                    lifetime = int(INTERVAL_S * 900)  # a little less than the interval, in milliseconds
                    mine = await self._redis.set(LOCK_KEY, "1", nx=True, px=lifetime)
                if mine:
                    await self.round()
            except (StoreError, RedisError) as error:
                self._failed(error)

    async def round(self) -> None:
        """Pass after pass, until the last object was looked at or the time is over.

        Raises:
            StoreError: the store does not answer, or refuses everything.
            RedisError: Redis does not answer.
        """
        end = time.monotonic() + ROUND_S
        for kind in self._kinds:
            while await self._pass(kind) and time.monotonic() < end:
                pass

    async def _pass(self, kind: _Kind) -> bool:
        """Look at the next folders; whether there are more behind them."""
        with translated():
            cursor = ((await self._redis.hget(CURSOR_KEY, kind.root)) or b"").decode()
        newest, more = await self._folders(kind, cursor)
        limit = await self._time() - timedelta(seconds=kind.seconds)
        old = {folder for folder, last in newest.items() if last < limit}
        if kind.root == storage.JOBS:
            old -= await self._live(old)
        refused: StoreError | None = None
        for folder in sorted(old):
            try:
                await self._delete(kind, folder, limit)
            except StoreError as error:
                if error.temporary:
                    raise
                self._failed(error)  # of this folder alone: the others must not wait for it
                refused = error
                old.discard(folder)
        if refused is not None and not old:
            raise refused
        with translated():
            await self._redis.hset(CURSOR_KEY, kind.root, max(newest) if more else "")
            await self._redis.expire(CURSOR_KEY, CURSOR_TTL_S)
        return more

    async def _time(self) -> datetime:
        """The earlier of two clocks, the server's and ours: a wrong one must not make everything old."""
        if self._now is not None:
            return self._now()
        with translated():
            seconds, _ = await self._redis.time()
        return min(utc_now(), datetime.fromtimestamp(int(seconds), UTC))

    async def _folders(self, kind: _Kind, cursor: str) -> tuple[dict[str, datetime], bool]:
        """The first folders after the cursor, each with the age of its newest object; whether there are more.

        A local folder lists in no order: there it is walked to its end, with no more than these in memory.
        """
        newest: dict[str, datetime] = {}
        beyond: str | None = None
        # `0` follows the slash: the first name after everything in the folder.
        after = cursor[:-1] + "0" if cursor.endswith("/") else cursor
        async for found in self._store.list(kind.root, after=after):
            folder = kind.folder_of(found.path)
            if folder is None or (beyond is not None and folder >= beyond):
                continue
            newest[folder] = max(found.last_modified, newest.get(folder, found.last_modified))
            if len(newest) > self._pass_folders:
                beyond = max(newest)
                del newest[beyond]
                if self._store.lists_in_order:
                    break
        return newest, beyond is not None

    async def _live(self, folders: Collection[str]) -> set[str]:
        """Those of jobs that have not ended. The names do not tell their jobs, so all jobs are asked for theirs."""
        live: set[str] = set()
        cursor = 0
        with translated():
            while folders:
                cursor, found = await self._redis.scan(cursor=cursor, match="rq:job:*", count=SCAN_COUNT)
                for key in found:
                    job_id = key.decode("utf-8", "surrogateescape").removeprefix("rq:job:")
                    folder = storage.job_prefix(job_id) + "/"
                    if folder in folders and await self._redis.hget(key, "status") not in ENDED:
                        live.add(folder)
                if cursor == 0:
                    break
        return live

    async def _delete(self, kind: _Kind, folder: str, limit: datetime) -> None:
        if not folder.endswith("/"):
            await self._delete_all(kind, [folder])
            return
        manifests = []
        async for found in self._store.list(folder[:-1]):
            if found.last_modified >= limit:
                return  # a new attempt has begun since it was looked at
            if storage.is_manifest(found.path):
                manifests.append(found.path)
        await self._delete_all(kind, manifests)
        async for batch in _batches(self._store.list(folder[:-1])):
            await self._delete_all(kind, [found.path for found in batch if found.last_modified < limit])
        log.info("retention: deleted %s", folder, extra={"action": "retention", "folder": folder})

    async def _delete_all(self, kind: _Kind, paths: list[str]) -> None:
        if paths:
            await self._store.delete_all(paths)
            self._metrics.objects_deleted.labels(kind.root).inc(len(paths))

    def _failed(self, error: Exception) -> None:
        self._metrics.maintenance_failures.labels("retention").inc()
        log.warning("retention: %s", error, extra={"action": "retention_failed"})


async def _batches(found: AsyncIterator[ObjectMeta]) -> AsyncIterator[list[ObjectMeta]]:
    batch: list[ObjectMeta] = []
    async for one in found:
        batch.append(one)
        if len(batch) == DELETE_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

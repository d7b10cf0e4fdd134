"""What each job does right now, for `status` and the web: written to Redis in batches, the newest state only."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Final

from adapters.redis_server import AsyncClient, RedisRefused, RedisUnavailable, translated
from runner_spec import wire

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.1
# While Redis is away, which the heartbeat finds out and says.
AWAY_S: Final = 1.0
RETENTION_S: Final = 7 * 24 * 3600


class StateBoard:
    """Collects states; `run` writes them, a round trip per tenth of a second however many jobs there are."""

    def __init__(self, connection: AsyncClient) -> None:
        self._redis = connection
        self._dirty: dict[str, dict[str, str | int]] = {}
        self._wake = asyncio.Event()

    def show(
        self, job_id: str, attempt: int, stage: str, why: str = "", *, pod: str = "", containers: Sequence[str] = ()
    ) -> None:
        """The job's present stage and, while it waits, why."""
        state: dict[str, str | int] = {
            "attempt": attempt,
            "stage": stage,
            "why": why,
            "pod": pod,
            "since": f"{time.time():.3f}",
        }
        if containers:
            state["containers"] = json.dumps(list(containers))
        self._dirty[job_id] = {**self._dirty.get(job_id, {}), **state}
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(FLUSH_S if await self.flush() else AWAY_S)

    async def flush(self) -> bool:
        """Write what has changed. False: Redis is away; states are kept unless newer ones arrive."""
        batch, self._dirty = self._dirty, {}
        if not batch:
            return True
        pipeline = self._redis.pipeline(transaction=False)
        for job_id, state in batch.items():
            pipeline.hset(wire.state_key(job_id), mapping=state)  # type: ignore[arg-type]  # invariant dict keys
            pipeline.expire(wire.state_key(job_id), RETENTION_S)
        try:
            with translated():
                await pipeline.execute()
        except RedisUnavailable as error:
            log.debug("states not written: %s", error, extra={"action": "states_kept", "jobs": len(batch)})
            self._dirty = {
                job_id: {**batch.get(job_id, {}), **self._dirty.get(job_id, {})} for job_id in {**batch, **self._dirty}
            }
            self._wake.set()
            return False
        except RedisRefused:  # a key of another type, say: what is shown must not end the worker
            log.exception("states refused", extra={"action": "states_refused", "jobs": len(batch)})
        return True

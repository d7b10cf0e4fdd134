"""Many waiting jobs at once: one is submitted as every producer does it, and the server copies it under other ids."""

import uuid
from collections.abc import Iterator
from typing import Any, Final

from adapters.redis_server import AsyncClient
from worker.client import QUEUES_KEY, JobClient
from worker.queue.keys import job_hash, queue_list

# Copies of one command: a second of the server's time at most.
AT_ONCE: Final = 20_000
_ASIDE: Final = "aside"
# KEYS: the job to copy, the queue's list. ARGV: beginning of the ids, number of the first one, how many.
_COPY: Final = """
for n = tonumber(ARGV[2]), ARGV[2] + ARGV[3] - 1 do
    local id = ARGV[1] .. string.format('%08x', n)
    redis.call('COPY', KEYS[1], 'rq:job:' .. id)
    redis.call('RPUSH', KEYS[2], id)
end
"""


async def enqueue(redis: AsyncClient, description: dict[str, Any], count: int, *, queue: str = "jobs") -> None:
    """Put `count` jobs of this description on a queue, in the very form in which `JobClient.submit` leaves them.

    They differ in their ids alone, which are as long as its own.
    """
    # Where no worker looks, or it would be claimed before it is copied; then made a job of the wanted queue.
    sample = job_hash(await JobClient(redis).submit(description, queue=_ASIDE))
    stem = str(uuid.uuid4())[:-8]
    pipeline: Any = redis.pipeline(transaction=True)
    pipeline.sadd(QUEUES_KEY, queue_list(queue))
    pipeline.hset(sample, "origin", queue)
    await pipeline.execute()
    for first, size in _slices(count):
        script: Any = redis.eval(_COPY, 2, sample, queue_list(queue), stem, str(first), str(size))
        await script
    pipeline = redis.pipeline(transaction=True)
    pipeline.delete(sample, queue_list(_ASIDE))
    pipeline.srem(QUEUES_KEY, queue_list(_ASIDE))
    await pipeline.execute()


def _slices(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, AT_ONCE):
        yield first, min(AT_ONCE, count - first)

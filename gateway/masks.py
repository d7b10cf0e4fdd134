"""Where the values go that the worker must mask in an attempt's logs."""

import base64
import json
from collections.abc import Sequence
from typing import Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runner_spec.wire import masks_key

# Longer than any attempt and the time in which its last log lines are fetched; then the values must be gone.
MASKS_TTL_S: Final = 7 * 24 * 3600


class MasksUnavailableError(Exception):
    """The values could not be stored: the job must not start before they are."""


class MaskSink(Protocol):
    """Keeps the values for the worker."""

    async def put(self, job_id: str, attempt: int, values: Sequence[bytes]) -> None:
        """Store the values of an attempt, replacing earlier ones.

        Raises:
            MasksUnavailableError: they may not be stored.
        """


class RedisMasks:
    """The sink in Redis: `wire.masks_key`, a JSON list of base64, for seven days."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, job_id: str, attempt: int, values: Sequence[bytes]) -> None:
        """See `MaskSink`."""
        encoded = json.dumps([base64.b64encode(value).decode("ascii") for value in values])
        try:
            await self._redis.set(masks_key(job_id, attempt), encoded, ex=MASKS_TTL_S)
        except (RedisError, OSError) as error:
            raise MasksUnavailableError(f"Redis did not take the values to mask: {error}") from error

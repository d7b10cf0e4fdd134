"""How often round trips are made while there is much to do: the first at once, then many requests in one."""

import asyncio
import time


class Pace:
    """At most one in `interval` seconds. Not for concurrent use."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due = 0.0

    async def keep(self) -> None:
        """Until the next one may go; at once when the last one is longer ago than the interval."""
        await asyncio.sleep(self._due - time.monotonic())
        self._due = time.monotonic() + self._interval

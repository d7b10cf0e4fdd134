"""How long to wait for a Redis that is away, and how often to say so.

Many loops of one process find out at about the same time: the heartbeat, the claims, a watcher per queue, the logs.
They share one outage: each tries again once per step of the back-off, the first of them says so, and the first to
succeed wakes the others.
"""

import asyncio
import logging
import random
import time
from typing import Final

log = logging.getLogger(__name__)

# Seconds. The cap is a third of the usual lease, so that it is renewed soon after Redis is back; the first pause is
# about the time in which a server restarts.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
# Of a pause, added at random: a hundred workers must not come back in the same moment.
JITTER: Final = 0.3
# Seconds between two lines of log, at most: an outage of a night is told in some hundred lines, not in thousands.
LONGEST_SILENCE: Final = 60.0


class Outage:
    """`subject` is what is lost meanwhile, for people: "Redis is away"."""

    def __init__(self, subject: str = "Redis is away") -> None:
        self._subject = subject
        self._over = asyncio.Event()
        self._began = 0.0  # on the monotonic clock; 0 while all is well
        self._step_ends = 0.0
        self._pause = 0.0
        self._say_at = 0.0
        self._silence = FIRST_PAUSE
        self.why = ""

    def report(self, error: Exception) -> float:
        """Take note of a failed try; returns for how many seconds not to try again. A line of log once per step."""
        now = time.monotonic()
        if not self.why:
            self._began, self._pause, self._silence, self._say_at = now, 0.0, FIRST_PAUSE, now
            self._over.clear()
        self.why = f"{self._subject}: {error}"
        if now >= self._step_ends or not self._pause:
            self._pause = min(self._pause * 2, LONGEST_PAUSE) if self._pause else FIRST_PAUSE
            self._step_ends = now + self._pause
        if now >= self._say_at:
            self._silence = min(self._silence * 2, LONGEST_SILENCE)
            self._say_at = now + self._silence
            facts = {"action": "redis_away", "seconds": round(now - self._began, 1)}
            log.warning("%s (tried again every %.1f s)", self.why, self._pause, extra=facts)
        return max(self._step_ends - now, 0.0) + self._pause * JITTER * random.random()  # noqa: S311 - not a secret

    async def pause(self, error: Exception) -> None:
        """Take note of a failed try, and wait until the next one is due, or another's has succeeded."""
        seconds = self.report(error)
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return
        # All loops wake at once; the server may have come up this instant.
        await asyncio.sleep(FIRST_PAUSE * JITTER * random.random())  # noqa: S311 - as above

    def over(self) -> None:
        """A try has succeeded."""
        if self.why:
            seconds = time.monotonic() - self._began
            log.warning("over after %.1f s: %s", seconds, self._subject, extra={"action": "redis_back"})
            self.why = ""
            self._over.set()

"""When to try again: a value, so that git, the gateway's client and the tests share one rule."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: `base` seconds, doubled up to `cap`, with up to half of it added at random.

    The random part keeps a thousand pods that lost the same server from coming back in step.
    """

    base: float
    attempts: int
    cap: float = 30.0

    def delays(self) -> Iterator[float]:
        """Seconds to wait after the first failure, the second, …; one fewer than `attempts`."""
        for number in range(self.attempts - 1):
            delay = min(self.cap, self.base * 2.0 ** min(number, 30))
            yield delay * (1 + random.random() / 2)  # noqa: S311 - spreads load, guards nothing

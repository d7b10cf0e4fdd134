"""What processes use: CPU time and memory, as the kernel counts them."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of some processes together, their ended children included: seconds of CPU since their start, resident bytes.

    `resident` counts pages that processes share once for each of them; `unique` counts what only they have.
    """

    user: float
    system: float
    resident: int
    unique: int

    @property
    def cpu(self) -> float:
        """Seconds."""
        return self.user + self.system

    @classmethod
    def of(cls, pids: Iterable[int], *, children: bool = False) -> "Usage":
        """At this moment; with `children`, those that run now, too."""
        workers = [psutil.Process(pid) for pid in pids]
        accounts = [_account(worker) for worker in workers]
        if children:
            for child in [child for worker in workers for child in worker.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):  # it has just ended: from now on it is in its parent's account
                    accounts.append(_account(child))
        return cls(*(sum(amounts) for amounts in zip(*accounts, strict=True))) if accounts else cls(0, 0, 0, 0)


def _account(process: psutil.Process) -> tuple[float, float, int, int]:
    times, memory = process.cpu_times(), process.memory_full_info()
    return times.user + times.children_user, times.system + times.children_system, memory.rss, memory.uss

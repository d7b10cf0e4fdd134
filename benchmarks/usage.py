"""What processes use: CPU time and memory, as the kernel counts them."""

from collections.abc import Iterable
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
        processes = [psutil.Process(pid) for pid in pids]
        if children:
            processes += [child for process in processes for child in process.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        memory = [process.memory_full_info() for process in processes]
        return cls(
            sum(t.user + t.children_user for t in times),
            sum(t.system + t.children_system for t in times),
            sum(m.rss for m in memory),
            sum(m.uss for m in memory),
        )

"""What jobs cost: requests to the API server, commands and time of Redis, CPU time of the workers.

Each is asked of whoever served: the API server's own metrics, Redis' own statistics, the kernel's accounts.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.redis_connections import SyncClient
from benchmarks.usage import Usage
from tests.chaos_cluster.cluster_api import ClusterApi

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
_REQUEST: Final = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)
_NOT_FOUND: Final = "404"
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Costs:
    """From one moment to another. `requests` counts those for pods by verb (`subresource` ones as `VERB subresource`).

    `reads` are what Redis took from sockets: a pipeline of many commands is one. `commands` counts those in scripts,
    too. `redis_ms` is the CPU time of the server, `cpu` and `user` are seconds of the workers.
    """

    requests: Counter[str]
    commands: float
    reads: float
    redis_ms: float
    cpu: float
    user: float

    def __sub__(self, earlier: "Costs") -> "Costs":
        return Costs(
            self.requests - earlier.requests,
            self.commands - earlier.commands,
            self.reads - earlier.reads,
            self.redis_ms - earlier.redis_ms,
            self.cpu - earlier.cpu,
            self.user - earlier.user,
        )

    @property
    def writes(self) -> int:
        """To pods themselves: a scheduler binds, a kubelet writes the status, only workers do the rest."""
        return sum(count for verb, count in self.requests.items() if verb in WRITES)

    @property
    def lookups(self) -> int:
        """Single pods that were asked for, and lists."""
        return self.requests["GET"] + self.requests["LIST"]


@dataclass(frozen=True, slots=True)
class CostMeter:
    """Reads the meters; `pids` are the workers'."""

    api: ClusterApi
    redis: SyncClient
    pids: Sequence[int]

    async def read(self) -> Costs:
        """At this moment."""
        stats: Any = self.redis.info("stats")
        commands: Any = self.redis.info("commandstats")
        # Not the commands' own times: those of a script's commands are in the script's, too.
        cpu: Any = self.redis.info("cpu")
        usage = Usage.of(self.pids)
        return Costs(
            pod_requests(await self.api.text("/metrics")),
            sum(facts["calls"] for facts in commands.values()),
            stats["total_reads_processed"],
            (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1000,
            usage.cpu,
            usage.user,
        )


def pod_requests(metrics: str) -> Counter[str]:
    """Requests for pods by verb, from the API server's metrics."""
    found: Counter[str] = Counter()
    for match in _REQUEST.finditer(metrics):
        labels = dict(_LABEL.findall(match["labels"]))
        if labels.get("code") == _NOT_FOUND:
            continue  # a fake node deletes, too, what a worker has deleted a moment before
        if labels.get("resource") == "pods" and labels.get("group") == "":
            subresource = labels.get("subresource", "")
            found[f"{labels['verb']} {subresource}".strip()] += int(float(match["count"]))
    return found

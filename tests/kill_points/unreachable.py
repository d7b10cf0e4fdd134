"""Await points that no worker process ever comes to: by function or by point, and why. The aim is none.

One that is passed all the same fails the campaign, as does a name that is no longer in the sources.
"""

from collections.abc import Iterable
from typing import Final

from tests.kill_points.points import Point

_GATEWAY: Final = "the gateway's and the command line's: a worker stores nothing in streams and lists nothing so"
_READERS: Final = "those who read logs (command line, gateway) call it; a worker reads last lines only"
_EMBEDDED: Final = "for the embedded Redis or cluster, which end with their process"

REASONS: Final = {
    "adapters.kubernetes_api:KubernetesApi.connect#1": _EMBEDDED,
    "adapters.object_store:ObjectStore.put_stream": _GATEWAY,
    "adapters.object_store:ObjectStore._is_folder": _GATEWAY,
    "adapters.object_store:ObjectStore.open_file": _GATEWAY,
    "adapters.object_store:ObjectStore.put_if_absent": _GATEWAY,
    "adapters.object_store:ObjectStore.get": _GATEWAY,
    "adapters.object_store:ObjectStore.delete": _GATEWAY,
    "adapters.object_store:ObjectStore.delete_all#2": "when two workers delete the same objects in one moment",
    "adapters.object_store:ObjectStore.probe": _GATEWAY,
    "adapters.object_store:_WatchedSource.__anext__": _GATEWAY,
    "adapters.redis_connections:Connections.aclose#2": "with Sentinel only, after all else has ended",
    "worker.earlier_logs:EarlierLogs.catch_up#2": "a container started twice within one round trip to the kubelet",
    "worker.log_store:LogReader.read": _READERS,
    "worker.log_store:LogReader._merged": _READERS,
    "worker.log_store:LogReader._follow": _READERS,
    "worker.log_store:LogReader._has_ended": _READERS,
    "worker.log_store:LogReader._wait": _READERS,
    "worker.log_store:_in_turn": _READERS,
    "worker.queue.job_queue:JobQueue.__aenter__": "for producers of tests; the worker calls `start`",
    "worker.queue.job_queue:JobQueue.__aexit__": "for producers of tests; the worker calls `aclose`",
    "worker.queue.watcher:Watcher._poll": _EMBEDDED,
}


def reason(point: str) -> str | None:
    """Why it cannot be reached, if it is listed: by its own name, or with the whole function."""
    return REASONS.get(point.removesuffix(".exit")) or REASONS.get(point.partition("#")[0])


def stale(points: Iterable[Point]) -> list[str]:
    """Entries that name nothing in the sources."""
    names = {name for point in points for name in (point.id.removesuffix(".exit"), point.id.partition("#")[0])}
    return sorted(set(REASONS) - names)

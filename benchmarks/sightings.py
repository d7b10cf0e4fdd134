"""What a watch of a namespace's pods has seen, and when: the same onlooker for every way in which pods are started."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.kubernetes_api import KubernetesApi
from runner_spec import anatomy

Pod = dict[str, Any]

WATCH_S: Final = 3600


@dataclass(slots=True)
class Sighting:
    """One pod; times in unix seconds, None for what has not been seen."""

    created: float
    pod: Pod
    running: float | None = None
    gone: bool = False

    @property
    def ended(self) -> bool:
        """Whether its phase is terminal."""
        return self.pod["status"].get("phase") in {"Succeeded", "Failed"}


@dataclass(slots=True)
class Sightings:
    """Watches all pods of the API's namespace while `watch` runs."""

    api: KubernetesApi
    _pods: dict[str, Sighting] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def watch(self) -> None:
        """Until cancelled.

        Raises:
            ApiError: the watch broke; what was missed then is not known.
        """
        _, version = await self.api.list_pods("")
        while True:
            async with aclosing(self.api.watch_pods("", version, seconds=WATCH_S)) as events:
                async for event in events:
                    version = event.object["metadata"]["resourceVersion"]
                    if event.kind != "BOOKMARK":
                        self._see(event.object, time.time(), gone=event.kind == "DELETED")
                        async with self._news:
                            self._news.notify_all()

    def _see(self, pod: Pod, now: float, *, gone: bool) -> None:
        sighting = self._pods.setdefault(pod["metadata"]["name"], Sighting(now, pod))
        sighting.pod, sighting.gone = pod, gone
        if sighting.running is None and _has_run(pod):
            sighting.running = now

    async def until(self, name: str, reached: Callable[[Sighting], object]) -> Sighting:
        """The pod's first sighting of which `reached` holds."""

        def found() -> bool:
            return name in self._pods and bool(reached(self._pods[name]))

        async with self._news:
            await self._news.wait_for(found)
        return self._pods[name]

    def in_words(self, name: str) -> str:
        """What is known of a pod, for an error message."""
        if name not in self._pods:
            return "no such pod was seen"
        status = self._pods[name].pod["status"]
        statuses = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        return f"{status.get('phase')}: " + "; ".join(f"{c['name']} {c['state']}" for c in statuses)


def _has_run(pod: Pod) -> bool:
    for status in pod["status"].get("containerStatuses", ()):
        if status["name"] == anatomy.RUN:
            return bool({"running", "terminated"} & status["state"].keys())
    return False

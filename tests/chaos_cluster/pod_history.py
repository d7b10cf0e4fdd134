"""Every pod that a namespace ever had, as the API server showed it to a watch of our own: the kubelet's word.

It is needed where a pod cannot speak for itself: for exit codes of containers that were killed, for pods of the fake
node, and for creations that a killed API server had no time to write to its audit log.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import aiohttp

from runner_spec import anatomy
from tests.chaos_cluster.cluster_api import ClusterApi, RefusedError

Json = dict[str, Any]
WATCH_S: Final = 300.0
PAUSE_S: Final = 0.05
GONE: Final = 410


@dataclass(slots=True)
class SeenPod:
    """One pod, by its uid; times are Unix seconds, those of `run` as its status has them."""

    name: str
    path: str  # in the API
    uid: str
    job: str
    attempt: int
    seen: float
    node: str = ""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    deleted: float | None = None
    restarts: int = 0


class PodHistory:
    """Of one namespace. `gaps` counts how often the server could not say what had happened meanwhile."""

    def __init__(self, api: ClusterApi, namespace: str) -> None:
        self.pods: dict[str, SeenPod] = {}
        self.gaps = 0
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._version = ""

    @property
    def there(self) -> list[SeenPod]:
        """Those that are there, as far as is known."""
        return [pod for pod in self.pods.values() if pod.deleted is None]

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                async for event in self._api.watch(self._path, self._version, WATCH_S):
                    self._take(event)
                    if not self._version:
                        break
            except RefusedError as refused:
                if refused.status == GONE:
                    self._forget_version()
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # the API server is away: it is asked again until it is back
            await asyncio.sleep(PAUSE_S)

    async def _list(self) -> None:
        found = await self._api.call("GET", self._path)
        uids = {self._note(item).uid for item in found["items"]}
        for uid, pod in self.pods.items():
            if uid not in uids and pod.deleted is None:
                pod.deleted = time.time()
        self._version = found["metadata"]["resourceVersion"]

    def _take(self, event: Json) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            self._forget_version()
            return
        self._version = item["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            pod = self._note(item)
            if kind == "DELETED":
                pod.deleted = time.time()

    def _forget_version(self) -> None:
        self._version = ""
        self.gaps += 1

    def _note(self, item: Json) -> SeenPod:
        metadata = item["metadata"]
        uid = metadata["uid"]
        pod = self.pods.get(uid)
        if pod is None:
            annotations, labels = metadata.get("annotations", {}), metadata.get("labels", {})
            job, attempt = annotations.get(anatomy.ANNOTATION_JOB, ""), int(labels.get(anatomy.LABEL_ATTEMPT, "0"))
            name = metadata["name"]
            pod = self.pods[uid] = SeenPod(name, f"{self._path}/{name}", uid, job, attempt, time.time())
        pod.node = item["spec"].get("nodeName", "")
        note_run(pod, item.get("status", {}).get("containerStatuses", ()))
        return pod


def note_run(pod: SeenPod, containers: Iterable[Json]) -> None:
    """Take what a status says of `run`."""
    for container in containers:
        if container["name"] != anatomy.RUN:
            continue
        state = container.get("state", {})
        pod.restarts = max(pod.restarts, container.get("restartCount", 0))
        if "running" in state:
            pod.started = moment(state["running"].get("startedAt")) or pod.started
        if "terminated" in state:
            terminated = state["terminated"]
            pod.exit_code = terminated["exitCode"]
            pod.started = moment(terminated.get("startedAt")) or pod.started
            pod.ended = moment(terminated.get("finishedAt")) or time.time()


def moment(text: str | None) -> float | None:
    """A time of Kubernetes in Unix seconds."""
    return None if text is None else datetime.fromisoformat(text).timestamp()

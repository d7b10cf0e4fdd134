"""Somebody else with rights on the cluster: deletes pods, evicts them, drains the node they run on."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

import aiohttp

from tests.chaos_cluster.cluster_api import ClusterApi, Json, RefusedError
from tests.chaos_cluster.pod_history import PodHistory, SeenPod

TRIES: Final = 40
PAUSE_S: Final = 0.5
# What the API server may answer to a stranger who comes too late, or too early.
EXPECTED: Final = frozenset({404, 409, 429})


class Stranger:
    """Knows the pods of some namespaces, and chooses among them."""

    def __init__(self, api: ClusterApi, histories: Sequence[PodHistory], dice: random.Random) -> None:
        self._api = api
        self._histories = histories
        self._dice = dice

    async def delete(self, *, force: bool) -> bool:
        """Delete a random pod; whether there was one."""
        return await self._at(self._random(), "DELETE", {"gracePeriodSeconds": "0"} if force else {})

    async def evict(self) -> bool:
        """Evict a random pod, as `kubectl drain` does (policy/v1); whether there was one."""
        return await self._evict(self._random())

    async def drain(self, node: str, seconds: float) -> int:
        """Cordon a node, evict our pods from it, wait, uncordon it; how many were evicted."""
        await self.cordon(node, cordoned=True)
        try:
            pods = [pod for history in self._histories for pod in history.there if pod.node == node]
            evicted = [await self._evict(pod) for pod in pods]
            await asyncio.sleep(seconds)
            return sum(evicted)
        finally:
            await self.cordon(node, cordoned=False)

    async def cordon(self, node: str, *, cordoned: bool) -> None:
        """Until the API server has said yes."""
        for attempt in range(TRIES):
            try:
                await self._api.call("PATCH", f"/api/v1/nodes/{node}", {"spec": {"unschedulable": cordoned or None}})
            except (RefusedError, aiohttp.ClientError, TimeoutError, OSError):
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def remind(self, pods: Sequence[SeenPod]) -> None:
        """Touch pods of a fake node: what plays its kubelet forgets pods whose status it could not write."""
        for pod in pods:
            await self._at(
                pod, "PATCH", {}, {"metadata": {"annotations": {"chaos.example/reminded": str(time.time())}}}
            )

    def _random(self) -> SeenPod | None:
        """Of a random namespace, so that the few real pods are met as often as the many others."""
        there = [pods for history in self._histories if (pods := history.there)]
        return self._dice.choice(self._dice.choice(there)) if there else None

    async def _evict(self, pod: SeenPod | None) -> bool:
        if pod is None:
            return False
        eviction: Json = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name}}
        return await self._at(pod, "POST", {}, eviction, "/eviction")

    async def _at(
        self,
        pod: SeenPod | None,
        method: str,
        query: dict[str, str],
        body: Json | None = None,
        subresource: str = "",
    ) -> bool:
        if pod is None:
            return False
        try:
            await self._api.call(method, f"{pod.path}{subresource}", body, **query)
        except RefusedError as refused:
            if refused.status not in EXPECTED and refused.status < 500:
                raise
            return False
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False  # the API server is away just now
        return True

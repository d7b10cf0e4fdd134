"""Every pod that a namespace ever had: a watch that is resumed where it broke off, so that it misses none."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec import anatomy
from tests.cluster.site import kubernetes

WATCH_S = 60
PAUSE_S = 1.0
PATIENCE_S = 120.0


class PodRecorder:
    """What was seen of the jobs' pods, by job: their uids, and the worker that had created the last one."""

    def __init__(self) -> None:
        self.uids: dict[str, set[str]] = defaultdict(set)
        self.creators: dict[str, str] = {}
        self._news = asyncio.Condition()

    async def wait_for(self, jobs: int) -> None:
        """Until so many jobs have, or had, a pod.

        Raises:
            TimeoutError: they have not after `PATIENCE_S` seconds.
        """
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: len(self.uids) >= jobs)

    def _note(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        job = metadata["annotations"][anatomy.ANNOTATION_JOB]
        self.uids[job].add(metadata["uid"])
        self.creators[job] = metadata["labels"][anatomy.LABEL_WORKER]

    async def _follow(self, api: KubernetesApi, version: str) -> None:
        while True:
            try:
                # The server ends a watch when it likes.
                async for event in api.watch_pods("", version, seconds=WATCH_S):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.kind != "BOOKMARK":
                        self._note(event.object)
                        async with self._news:
                            self._news.notify_all()
            except ApiError as error:
                if not error.temporary:  # such as a version that has expired: a record with a gap would prove nothing
                    raise
                await asyncio.sleep(PAUSE_S)


@asynccontextmanager
async def recorded_pods(namespace: str) -> AsyncIterator[PodRecorder]:
    """Records while the block runs.

    Raises:
        ApiError: the record has a gap.
    """
    recorder = PodRecorder()
    async with kubernetes(namespace) as api:
        pods, version = await api.list_pods("")
        assert not pods, f"{namespace} is not empty"
        following = asyncio.create_task(recorder._follow(api, version))
        try:
            yield recorder
            if following.done():
                following.result()
        finally:
            following.cancel()
            await asyncio.wait([following])

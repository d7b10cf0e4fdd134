"""The one LIST and one WATCH of a worker, whatever ends them: nothing that happened meanwhile goes unheard."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import ApiError, WatchEvent
from runner_spec import anatomy
from worker.metrics import WorkerMetrics
from worker.reflector import Reflector

PATIENCE_S = 10.0
EXPIRED = ApiError(410, "Expired", "too old resource version")
Pod = dict[str, Any]


def pod(name: str, version: int, *, worker: str = "me") -> Pod:
    labels = {anatomy.LABEL_WORKER: worker}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "labels": labels}}


class Source:
    """An API server whose lists are given; each watch waits until the test says what comes next."""

    def __init__(self, *lists: tuple[list[Pod], str]) -> None:
        self.lists = list(lists)
        self.selectors: list[str] = []
        self.watched: asyncio.Queue[str] = asyncio.Queue()  # the version that each watch began at
        self.says: asyncio.Queue[WatchEvent | ApiError | None] = asyncio.Queue()  # None: the watch's end

    async def list_pods(self, label_selector: str) -> tuple[list[Pod], str]:
        self.selectors.append(label_selector)
        return self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]

    async def watch_pods(
        self, label_selector: str, resource_version: str, *, seconds: int
    ) -> AsyncGenerator[WatchEvent, None]:
        del label_selector, seconds
        self.watched.put_nowait(resource_version)
        while (said := await self.says.get()) is not None:
            if isinstance(said, ApiError):
                raise said
            yield said


class Heard:
    """What the reflector reported, in its order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.gone: list[tuple[str, str, Pod | None]] = []

    def see(self, found: Pod) -> None:
        self.seen.append((found["metadata"]["name"], found["metadata"]["resourceVersion"]))

    def lose(self, name: str, uid: str, last: Pod | None) -> None:
        self.gone.append((name, uid, last))


def play(source: Source, test: Callable[[Reflector, Heard], Awaitable[None]]) -> None:
    async def main() -> None:
        heard = Heard()
        reflector = Reflector(source, "me", seen=heard.see, gone=heard.lose, metrics=WorkerMetrics(CollectorRegistry()))
        running = asyncio.create_task(reflector.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await test(reflector, heard)
        finally:
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(main())


def test_after_an_expired_watch_a_list_finds_what_was_missed() -> None:
    source = Source(([pod("a", 3), pod("b", 4)], "5"), ([pod("b", 7), pod("c", 8)], "9"))

    async def test(reflector: Reflector, heard: Heard) -> None:
        assert await source.watched.get() == "5"
        source.says.put_nowait(EXPIRED)
        assert await source.watched.get() == "9"
        assert heard.seen == [("a", "3"), ("b", "4"), ("b", "7"), ("c", "8")]
        assert heard.gone == [("a", "uid-a", None)]
        assert [reflector.knows(name) for name in "abc"] == [False, True, True]

    play(source, test)


def test_a_watch_that_ends_by_itself_goes_on_where_it_was_without_another_list() -> None:
    source = Source(([], "5"))

    async def test(_: Reflector, heard: Heard) -> None:
        assert await source.watched.get() == "5"
        source.says.put_nowait(WatchEvent("ADDED", pod("a", 6)))
        source.says.put_nowait(WatchEvent("BOOKMARK", pod("", 8)))
        source.says.put_nowait(None)
        assert await source.watched.get() == "8"
        assert heard.seen == [("a", "6")]
        assert len(source.selectors) == 1

    play(source, test)


def test_the_last_status_of_a_deleted_pod_is_handed_on() -> None:
    source = Source(([pod("a", 3)], "5"))

    async def test(reflector: Reflector, heard: Heard) -> None:
        await source.watched.get()
        source.says.put_nowait(WatchEvent("DELETED", pod("a", 6)))
        source.says.put_nowait(None)
        await source.watched.get()
        assert heard.gone == [("a", "uid-a", pod("a", 6))]
        assert not reflector.knows("a")

    play(source, test)


def test_covering_a_dead_worker_waits_for_a_list_of_its_pods() -> None:
    source = Source(([], "5"), ([pod("theirs", 6, worker="dead")], "7"))

    async def test(reflector: Reflector, heard: Heard) -> None:
        await source.watched.get()
        await reflector.cover({"dead"})
        assert heard.seen == [("theirs", "6")]
        assert source.selectors[1].endswith("in (dead,me)")
        assert await source.watched.get() == "7"

    play(source, test)

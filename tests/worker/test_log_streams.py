"""What is kept of logs that are complete: little, but enough to read them anew."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from adapters import redis_server
from adapters.kubernetes_api import ApiError
from adapters.object_store import ObjectStore
from runner_spec import wire
from worker.log_streams import LogKeeper, LogStreams
from worker.metrics import WorkerMetrics

RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
OVER = {"terminated": {"startedAt": "2026-01-01T00:00:00Z", "exitCode": 0}}
INDEX = wire.log_index_key("j", 1)


class Kubelet:
    """Two containers; the stream of one that runs ends with it."""

    def __init__(self) -> None:
        self.run_ends = asyncio.Event()
        self.asked: list[str] = []
        self.is_gone = False

    async def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        del pod, since_time, previous
        self.asked.append(container)
        if self.is_gone:
            raise ApiError(404, "NotFound", "no such pod")
        yield b"2026-01-01T00:00:01.000000000Z of %s\n" % container.encode()
        if container == "run" and follow:
            await self.run_ends.wait()


class World:
    def __init__(self, redis: Any) -> None:
        self.redis, self.kubelet = redis, Kubelet()
        store, metrics = ObjectStore.from_url("memory://"), WorkerMetrics(CollectorRegistry())
        self.keeper = LogKeeper(self.kubelet, redis, store, metrics)
        self.streams = LogStreams(self.keeper, "j", 1, "pod", has_secrets=False, limit=10**9, begun=False)

    def update(self, checkout: dict[str, Any], run: dict[str, Any]) -> None:
        statuses = {
            "initContainerStatuses": [{"name": "checkout", "restartCount": 0, "state": checkout}],
            "containerStatuses": [{"name": "run", "restartCount": 0, "state": run}],
        }
        self.streams.update({"metadata": {"uid": "u"}, "spec": {}, "status": statuses})

    async def checked_out(self) -> None:
        """`checkout` has ended and its log is complete, while `run` runs."""
        self.update(OVER, RUNS)
        await asyncio.wait([self.streams._tasks["checkout"]])

    async def entry(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.redis.hget(INDEX, container))
        return found

    async def change(self, container: str, **fields: object) -> None:
        entry = json.dumps({**await self.entry(container), **fields}, separators=(",", ":"))
        await self.redis.hset(INDEX, container, entry)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with redis_server.embed() as connections:
        yield World(connections.control)


def play(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), world() as here:
            await test(here)

    asyncio.run(main())


def test_a_complete_log_keeps_no_follower_and_is_not_read_again_but_is_named() -> None:
    async def test(here: World) -> None:
        await here.checked_out()
        assert list(here.streams._followers) == list(here.streams._tasks) == ["run"]
        here.update(OVER, RUNS)
        here.kubelet.run_ends.set()
        here.update(OVER, OVER)
        await here.streams.finish()
        assert here.kubelet.asked.count("checkout") == 1
        assert sorted(here.streams.names) == ["checkout", "run"]
        assert here.streams._followers == {}

    play(test)


def test_a_complete_log_that_redis_has_forgotten_is_read_anew() -> None:
    async def test(here: World) -> None:
        await here.checked_out()
        here.kubelet.run_ends.set()
        await here.streams.finish()
        await here.redis.flushall()
        await here.streams.finish_again()
        for container in ("checkout", "run"):
            entry = await here.entry(container)
            assert (entry["complete"], entry["size"] > 0, entry["gaps"]) == (True, True, [])
        assert sorted(here.streams.names) == ["checkout", "run"]

    play(test)


def test_of_a_gone_pod_only_what_redis_has_forgotten_is_declared_missing() -> None:
    """`run`'s log is all there, but for the word that it is complete; of `checkout`'s, nothing is left."""

    async def test(here: World) -> None:
        await here.checked_out()
        here.kubelet.run_ends.set()
        here.update(OVER, OVER)
        await here.streams.finish()
        await here.change("run", complete=False)
        await here.redis.hdel(INDEX, "checkout")
        here.kubelet.is_gone = True
        await here.streams.finish_again(pod_gone=True)
        run_entry, checkout_entry = await here.entry("run"), await here.entry("checkout")
        assert (run_entry["complete"], run_entry["gaps"]) == (True, [])
        assert checkout_entry["complete"]
        assert len(checkout_entry["gaps"]) == 1

    play(test)

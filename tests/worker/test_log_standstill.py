"""Logs at a standstill: streams that never end, stores that never answer. Each costs its own job some time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore, StoreUnavailable
from adapters.redis_server import AsyncClient
from runner_spec.log_cursor import LogCursor
from worker import log_streams, log_writer
from worker.cancellation import end_tasks
from worker.log_store import LogEntry
from worker.log_streams import LogKeeper, LogStreams
from worker.metrics import WorkerMetrics

LINE = b"2026-01-01T00:00:01.000000000Z hello\n"
RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
OVER = {"terminated": {"startedAt": "2026-01-01T00:00:00Z", "exitCode": 0}}


class SilentStore:
    """An object store behind a connection that somebody cut without a word."""

    def __init__(self) -> None:
        self.asked = 0

    async def put(self, path: str, data: bytes) -> None:
        del path, data
        self.asked += 1
        await asyncio.Event().wait()


class AwayStore:
    def __init__(self) -> None:
        self.refused = asyncio.Event()

    async def put(self, path: str, data: bytes) -> None:
        del path, data
        self.refused.set()
        raise StoreUnavailable("away")


class World:
    """A kubelet whose pods are called after what their logs do, and streams that follow them."""

    def __init__(self, redis: AsyncClient, api: KubernetesApi) -> None:
        self.redis, self.api = redis, api
        self.reading = asyncio.Event()  # some stream has sent its first line

    def streams(self, pod: str, store: Any = None) -> LogStreams:
        keeper = LogKeeper(
            self.api, self.redis, store or ObjectStore.from_url("memory://"), WorkerMetrics(CollectorRegistry())
        )
        return LogStreams(keeper, pod, 1, pod, has_secrets=False, limit=2**28)

    async def index(self, pod: str) -> dict[str, Any]:
        entries = await self.streams(pod)._keeper.reader().entries(pod, 1)
        return dict(entries)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(LINE)
        self.reading.set()
        pod = request.match_info["pod"]
        while pod == "trickles":
            await asyncio.sleep(0.01)  # the pace of the stream under test
            await response.write(LINE)
        if pod == "stuck":
            await asyncio.Event().wait()
        return response


def play(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), redis_server.embed() as connections, kubelet() as here:
            here.redis = connections.control
            await test(here)

    asyncio.run(main())


@asynccontextmanager
async def kubelet() -> AsyncIterator[World]:
    app = web.Application()
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    here = World(None, None)  # type: ignore[arg-type]  # both follow
    app.router.add_get("/api/v1/namespaces/default/pods/{pod}/log", here.serve)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    here.api = await KubernetesApi.connect("default", kubeconfig=config)
    try:
        yield here
    finally:
        await here.api.close()
        await runner.cleanup()


def pod(state: dict[str, Any], *containers: str) -> dict[str, Any]:
    statuses = [{"name": name, "state": state} for name in containers or ("run",)]
    return {"metadata": {"uid": "u"}, "status": {"containerStatuses": statuses}}


@pytest.mark.parametrize("name", ["stuck", "trickles"])
def test_a_stream_that_never_ends_is_given_up_declared_and_holds_up_nobody_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_streams, "IDLE_LIMIT_S", 0.5)
    monkeypatch.setattr(log_streams, "READ_LIMIT_S", 1.0)

    async def test(here: World) -> None:
        stuck, others = here.streams(name), [here.streams(f"quick-{n}") for n in range(20)]
        stuck.update(pod(RUNS))
        await here.reading.wait()
        for streams in (stuck, *others):
            streams.update(pod(OVER))
        begun = time.monotonic()
        ending = asyncio.create_task(stuck.finish())
        await asyncio.gather(*(streams.finish() for streams in others))
        assert not ending.done()
        await ending
        assert time.monotonic() - begun < 5
        entry = (await here.index(name))["run"]
        assert entry.complete
        assert [gap.why for gap in entry.gaps] == ["the end of this log could not be read from Kubernetes"]
        for n in range(20):
            assert (await here.index(f"quick-{n}"))["run"].gaps == ()

    play(test)


def test_the_log_of_a_container_that_its_node_lost_is_declared_by_whoever_adopts_its_pod() -> None:
    lost = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None}}

    async def test(here: World) -> None:
        first, heir = here.streams("stuck"), here.streams("stuck")
        first.update(pod(RUNS))
        while not (await here.index("stuck")).get("run", LogEntry()).size:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        await first.cancel()
        heir.update(pod(lost))
        await heir.finish()
        entry = (await here.index("stuck"))["run"]
        assert entry.complete
        assert [gap.why for gap in entry.gaps] == ["the node lost this container, and its log"]

    play(test)


def test_an_idle_stream_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_streams, "IDLE_LIMIT_S", 1.0)

    async def test(here: World) -> None:
        stuck = here.streams("stuck")
        stuck.update(pod(RUNS))
        while not (await here.index("stuck")).get("run", LogEntry()).size:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        await stuck.finish(pod_gone=True)
        assert time.monotonic() - begun < 1.9

    play(test)


def test_an_object_store_that_never_answers_costs_one_patience_however_many_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_streams, "IDLE_LIMIT_S", 0.2)
    monkeypatch.setattr(log_writer, "STORE_PATIENCE_S", 0.5)
    names = [f"c{n}" for n in range(20)]

    async def test(here: World) -> None:
        store = SilentStore()
        streams = here.streams("quick", store)
        streams.update(pod(OVER, *names))
        begun = time.monotonic()
        await streams.finish()
        assert time.monotonic() - begun < 4
        assert store.asked >= len(names)
        entries = await here.index("quick")
        assert all(entries[name].complete and entries[name].size >= len(LINE) for name in names)

    play(test)


def test_all_logs_of_a_worker_share_one_bound_while_the_object_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "BACKLOG_BYTES", 2 * 2**20)

    async def test(here: World) -> None:
        store = AwayStore()
        streams = here.streams("quick", store)
        writers = [streams._keeper.writer("job", 1, f"c{n}", "uid") for n in range(20)]

        async def fill(writer: log_writer.LogWriter) -> None:
            await writer.open()
            for _ in range(64):
                await writer.append(LINE * 2000, LogCursor("2026-01-01T00:00:01Z", 1))

        filling = [asyncio.create_task(fill(writer)) for writer in writers]
        await store.refused.wait()
        await asyncio.wait(filling, timeout=2)  # without the bound, they all come to their end
        batch = writers[0]._batch
        held = sum(len(writer._pending) for writer in writers)
        assert batch.backlog == held
        most = log_writer.BACKLOG_BYTES + len(writers) * (log_writer.SMALL_PIECE_BYTES + len(LINE) * 2000)
        assert held <= most < 20 * log_writer.PIECE_BYTES
        assert not any(task.done() for task in filling)
        await end_tasks(filling)
        for writer in writers:
            writer.let_go()
        assert batch.backlog == 0

    play(test)

import asyncio
import json
import time
from collections.abc import AsyncIterator
from itertools import pairwise, repeat
from statistics import mean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from adapters.kubernetes_api import KubernetesApi
from adapters.redis_server import connect
from benchmarks.clocked_worker import Notes
from benchmarks.fake_nodes import FakeNodes
from benchmarks.latency import Delays, arrivals, delays_of, figures
from benchmarks.onlooker import onlooker
from benchmarks.suite import BenchmarkError
from runner_spec.anatomy import LABEL_JOB
from runner_spec.wire import EVENTS_KEY

if TYPE_CHECKING:
    from tests.chaos_cluster.cluster_api import ClusterApi

POD = {"kind": "Pod", "metadata": {"name": "dp-j-1", "resourceVersion": "1", "labels": {LABEL_JOB: "j"}}}


def kubeconfig(server: str) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": server.rstrip("/")}}],
        "users": [{"name": "u", "user": {"token": "none"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def test_a_job_is_timed_from_its_enqueueing_to_its_creation_and_from_its_pods_end_to_its_result() -> None:
    delays = delays_of({"j": 10.0}, {"sent": {"j": 10.004}, "ended": {"j": 12.0}}, {"j": 12.5}, {"j": 12.01})
    assert delays.create == pytest.approx([4.0])
    assert delays.result == pytest.approx([10.0])


def test_a_pod_has_finished_when_the_first_of_both_watches_knows_it() -> None:
    notes = {"sent": {"j": 1.0}, "ended": {"j": 2.5}}
    assert delays_of({"j": 1.0}, notes, {"j": 2.0}, {"j": 3.0}).result == pytest.approx([1000.0])
    assert delays_of({"j": 1.0}, notes, {}, {"j": 3.0}).result == pytest.approx([500.0])


@pytest.mark.parametrize("missing", ["sent", "ended", "readable"])
def test_a_job_of_which_a_moment_was_missed_is_named_and_gives_no_figure(missing: str) -> None:
    known = {name: {"j": 1.0} for name in ("sent", "ended", "readable") if name != missing}
    notes = {"sent": known.get("sent", {}), "ended": known.get("ended", {})}
    with pytest.raises(BenchmarkError, match="job j"):
        delays_of({"j": 1.0}, notes, {}, known.get("readable", {}))


def test_arrivals_come_at_the_rate_that_is_asked_for_and_at_uneven_moments() -> None:
    moments = list(arrivals(50.0, 5000))
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert moments == sorted(moments)
    # The mean of 5,000 gaps is off by more than a tenth once in 10^11 times.
    assert mean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert max(gaps) > 3 * mean(gaps) > 30 * min(gaps)


def test_what_is_promised_is_the_99th_percentile_of_both_ways_idle_and_loaded() -> None:
    slow = Delays([*repeat(1.0, 98), 30.0, 200.0], [*repeat(1.0, 98), 10.0, 500.0])
    found = {figure.name: figure for figure in figures([slow], [slow], [40.0])}
    missed = {name: figure.missed for name, figure in found.items() if figure.target is not None}
    assert missed == {
        "idle: enqueue → create sent, p99": True,
        "idle: pod finished → result, p99": False,
        "at 80%: enqueue → create sent, p99": False,
        "at 80%: pod finished → result, p99": False,
    }
    assert found["at 80%: pod finished → result, p99.9"].value == 500.0
    assert found["rate carried"].value == 40.0


def test_only_creations_of_pods_are_noted_and_the_first_sending_counts() -> None:
    notes = Notes()

    async def send(method: str, path: str, body: bytes) -> None:
        params = aiohttp.TraceRequestChunkSentParams(method, URL(f"https://api{path}"), body)
        await notes._sending(None, SimpleNamespace(), params)  # type: ignore[arg-type]  # no session takes part

    async def worker() -> None:
        pods, body = "/api/v1/namespaces/jobs/pods", b'{"metadata": {"labels": {"dynapod.dev/job": "j"}}}'
        await send("DELETE", f"{pods}/dp-j-1", b"{}")
        await send("POST", pods, body)
        await send("POST", pods, body)

    asyncio.run(worker())
    first, _ = (moment for moment, _ in notes._sent)
    assert notes.as_dict() == {"sent": {"j": first}, "ended": {}}


def test_a_worker_notes_when_a_creation_leaves_it_and_when_the_pods_end_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for method in ("__init__", "watch_pods"):  # put back after the test
        monkeypatch.setattr(KubernetesApi, method, getattr(KubernetesApi, method))
    notes, arrived = Notes(), []
    notes.attach()

    async def create(request: web.Request) -> web.Response:
        arrived.append(time.monotonic())
        return web.json_response(await request.json())

    async def watch(_: web.Request) -> web.Response:
        phases = ("Running", "Succeeded")
        events = [{"type": "MODIFIED", "object": {**POD, "status": {"phase": phase}}} for phase in phases]
        return web.Response(text="".join(json.dumps(event) + "\n" for event in events))

    async def worker() -> float:
        app = web.Application()
        app.add_routes(
            [web.post("/api/v1/namespaces/jobs/pods", create), web.get("/api/v1/namespaces/jobs/pods", watch)]
        )
        async with TestServer(app) as server:
            api = await KubernetesApi.connect("jobs", kubeconfig=kubeconfig(str(server.make_url("/"))))
            began = time.monotonic()
            await api.create_pod(POD)
            async for event in api.watch_pods("", "0", seconds=1):
                assert ("j" in notes.as_dict()["ended"]) == (event.object["status"]["phase"] == "Succeeded")
            await api.close()
            return began

    began = asyncio.run(worker())
    found = notes.as_dict()
    assert began < found["sent"]["j"] < arrived[0] < found["ended"]["j"]


class Interrupted:
    """Pods' ends, in two watches: the server closes the first one, and the version of the second has expired."""

    def __init__(self) -> None:
        self.since: list[str] = []
        self.over = asyncio.Event()

    async def call(self, _: str, __: str) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": f"{100 * (1 + len(self.since))}"}}

    async def watch(self, _: str, since: str, __: float) -> AsyncIterator[dict[str, Any]]:
        self.since.append(since)
        if len(self.since) == 1:
            yield ended_pod("first", "101")
        elif len(self.since) == 2:
            yield {"type": "ERROR", "object": {"kind": "Status", "metadata": {}, "status": "Failure", "code": 410}}
        else:
            yield ended_pod("second", "301")
            self.over.set()
            await asyncio.Event().wait()


def ended_pod(job: str, version: str) -> dict[str, Any]:
    metadata = {"labels": {LABEL_JOB: job}, "resourceVersion": version}
    return {"type": "MODIFIED", "object": {"kind": "Pod", "metadata": metadata, "status": {"phase": "Succeeded"}}}


@pytest.mark.redis
def test_the_onlooker_goes_on_when_watches_end_and_has_an_end_as_soon_as_redis_has_its_event(redis_url: str) -> None:
    async def look_on() -> None:
        api = Interrupted()
        nodes = FakeNodes("", "jobs", {}, "", cast("ClusterApi", api))
        async with connect(redis_url) as connections, onlooker(nodes, connections) as seen:
            await api.over.wait()
            assert api.since == ["100", "101", "300"]
            assert seen.finished.keys() == {"first", "second"}
            with pytest.raises(BenchmarkError, match="1 of 1 jobs have not ended"):
                await seen.until_readable(["first"], 0.01)
            await connections.control.xadd(EVENTS_KEY, {"job": "first"})
            await seen.until_readable(["first"], 10)
            assert seen.readable["first"] > seen.finished["first"]

    asyncio.run(look_on())


@pytest.mark.redis
def test_an_onlooker_that_cannot_look_on_says_why(redis_url: str) -> None:
    async def look_on() -> None:
        nodes = FakeNodes("", "jobs", {}, "", cast("ClusterApi", None))
        async with connect(redis_url) as connections, onlooker(nodes, connections):
            await asyncio.sleep(0)  # the watch begins, and finds nobody to ask

    with pytest.raises(BenchmarkError, match="has failed: AttributeError"):
        asyncio.run(look_on())

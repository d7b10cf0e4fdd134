"""Each fault does exactly what it says, between the real adapter and a devcluster; without a plan nothing happens."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapters.kubernetes_api import ApiError, KubernetesApi, WatchEvent
from devcluster.cluster import DevCluster
from devcluster.process_runtime import ProcessRuntime
from devcluster.runtime import Runtime
from devcluster.sleep_runtime import SleepRuntime
from tests.chaos.faults import (
    Close,
    Cut,
    DelayReply,
    DelayRequest,
    DropReply,
    DropRequest,
    Duplicate,
    Expire,
    HalfOpen,
    KubernetesFault,
    Refuse,
    Replay,
    Reset,
    Rewind,
)
from tests.chaos.kubernetes_proxy import KubernetesPlan, KubernetesProxy, RequestFacts
from tests.devcluster.local_cluster import local_cluster

PATIENCE_S = 20.0
POD_S = 60.0


class Script:
    """A plan: the faults of a verb one after the other, then none."""

    def __init__(self, **faults: list[KubernetesFault]) -> None:
        self.faults = faults
        self.asked: list[RequestFacts] = []

    def __call__(self, facts: RequestFacts) -> KubernetesFault | None:
        self.asked.append(facts)
        left = self.faults.get(facts.verb)
        return left.pop(0) if left else None


@dataclass
class Place:
    cluster: DevCluster
    proxy: KubernetesProxy
    api: KubernetesApi  # through the proxy, nothing retried
    direct: KubernetesApi

    async def exists(self, name: str = "one") -> bool:
        return await self.direct.get_pod(name) is not None

    async def version(self) -> str:
        return (await self.direct.list_pods(""))[1]

    def creations(self) -> list[int]:
        return [entry.code for entry in self.cluster.audit if entry.verb == "create" and entry.resource == "pods"]

    async def watched(self, until: Callable[[list[WatchEvent]], bool], version: str) -> list[WatchEvent]:
        """Events through the proxy, until they satisfy or the watch ends."""
        seen: list[WatchEvent] = []
        async with asyncio.timeout(PATIENCE_S), aclosing(self.api.watch_pods("", version, seconds=60)) as events:
            async for event in events:
                seen.append(event)
                if until(seen):
                    break
        return seen


@asynccontextmanager
async def place(root: Path, plan: KubernetesPlan | None = None, runtime: Runtime | None = None) -> AsyncIterator[Place]:
    async with local_cluster(root, runtime or SleepRuntime(POD_S)) as (cluster, _):
        original = cluster.kubeconfig()
        async with KubernetesProxy.in_front_of(original, plan) as proxy:
            apis = [
                await KubernetesApi.connect("default", kubeconfig=kubeconfig, retry_seconds=0.0)
                for kubeconfig in (proxy.kubeconfig(original), original)
            ]
            try:
                yield Place(cluster, proxy, *apis)
            finally:
                for api in apis:
                    await api.close()


def pod(name: str = "one", *command: str) -> dict[str, Any]:
    container = {"name": "run", "image": "busybox", "command": list(command or ["true"])}
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"job": name}}, "spec": spec}


def run(root: Path, test: Callable[[Place], Any], runtime: Runtime | None = None, **faults: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), place(root, Script(**faults), runtime) as here:
            await test(here)

    asyncio.run(main())


def names(events: list[WatchEvent], kind: str) -> list[str]:
    return [event.object["metadata"]["name"] for event in events if event.kind == kind]


async def refused(call: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


def test_without_a_plan_two_hundred_pods_come_and_go_through_it(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        version = await here.version()
        watch = asyncio.create_task(here.watched(lambda seen: len(names(seen, "DELETED")) == 200, version))
        made = await asyncio.gather(*(here.api.create_pod(pod(f"p-{number}")) for number in range(200)))
        await asyncio.gather(*(here.api.delete_pod(each["metadata"]["name"], each["metadata"]["uid"]) for each in made))
        seen = await watch
        expected = {f"p-{number}" for number in range(200)}
        assert set(names(seen, "ADDED")) == set(names(seen, "DELETED")) == expected
        assert here.cluster.pods == 0
        assert not here.proxy.counts
        assert not here.proxy.upstream_failures

    run(tmp_path, test)


def test_lists_objects_and_errors_are_equal_byte_for_byte(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        headers = {"Authorization": f"Bearer {here.cluster.token}", "Accept-Encoding": "identity"}
        await here.direct.create_pod({**pod(), "spec": {**pod()["spec"], "nodeSelector": {"no": "such"}}})
        async with aiohttp.ClientSession(headers=headers) as session:
            for path in (
                "pods",
                "pods/none",
                "pods/one",
                "nothing?a=b%2Fc&d=e+f",
                "pods?labelSelector=job+in+%28one%29",
            ):
                answers = []
                for base in (here.proxy.url, here.cluster.url):
                    async with session.get(f"{base}/api/v1/namespaces/default/{path}") as answer:
                        answers.append((answer.status, answer.content_type, await answer.read()))
                assert answers[0] == answers[1], path

    run(tmp_path, test)


def test_a_followed_log_arrives_line_by_line(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        go = tmp_path / "go"
        script = f"echo first; until test -e {go}; do sleep 0.05; done; echo last"
        await here.api.create_pod(pod("one", "sh", "-c", script))
        await until_running(here)
        text = b""
        async with aclosing(here.api.stream_log("one", "run")) as chunks:
            async for chunk in chunks:
                text += chunk
                if b"first" in text:
                    go.touch()  # only now: the first line has come while the log was open
        assert [line.split(b" ", 1)[1] for line in text.splitlines()] == [b"first", b"last"]

    run(tmp_path, test, ProcessRuntime())


async def until_running(here: Place) -> None:
    async with aclosing(here.direct.watch_pods("", "0", seconds=30)) as events:
        async for event in events:
            if event.object.get("status", {}).get("phase") in {"Running", "Succeeded"}:
                return


def test_the_plan_is_told_what_each_request_is_about(tmp_path: Path) -> None:
    async def main() -> None:
        script = Script()
        async with place(tmp_path, script, SleepRuntime(0.0)) as here:
            made = await here.api.create_pod(pod())
            await here.api.get_pod("one")
            await here.api.list_pods("job=one")
            await here.watched(lambda _: True, "0")
            await until_running(here)
            async with aclosing(here.api.stream_log("one", "run")) as chunks:
                async for _ in chunks:
                    pass
            await here.api.delete_pod("one", made["metadata"]["uid"])
        agent = script.asked[0].user_agent
        assert agent.startswith("dynapod/")
        assert [(facts.verb, facts.resource, facts.name) for facts in script.asked] == [
            ("create", "pods", "one"),
            ("get", "pods", "one"),
            ("list", "pods", ""),
            ("watch", "pods", ""),
            ("log", "pods/log", "one"),
            ("delete", "pods", "one"),
        ]
        assert {(facts.namespace, facts.user_agent) for facts in script.asked} == {("default", agent)}

    asyncio.run(main())


def test_a_dropped_request_has_no_effect(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        assert (await refused(here.api.create_pod(pod()))).status == 0
        assert not await here.exists()
        assert here.creations() == []
        assert here.proxy.counts == {"DropRequest": 1}

    run(tmp_path, test, create=[DropRequest()])


def test_a_dropped_reply_is_an_error_to_the_client_after_the_pod_was_created(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        assert (await refused(here.api.create_pod(pod()))).status == 0
        assert await here.exists()
        assert here.creations() == [201]

    run(tmp_path, test, create=[DropReply()])


def test_a_delayed_request_takes_effect_although_its_client_has_gone(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        asked = asyncio.Event()
        here.proxy._plan = lambda _: asked.set() or DelayRequest(0.5)  # type: ignore[func-returns-value]
        version = await here.version()
        creation = asyncio.create_task(here.api.create_pod(pod()))
        await asked.wait()
        creation.cancel()
        await asyncio.wait([creation])
        assert not await here.exists()
        async with aclosing(here.direct.watch_pods("", version, seconds=30)) as events:
            assert (await anext(events)).object["metadata"]["name"] == "one"

    run(tmp_path, test)


def test_a_delayed_reply_comes_after_the_effect(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        version = await here.version()
        creation = asyncio.create_task(here.api.create_pod(pod()))
        async with aclosing(here.direct.watch_pods("", version, seconds=30)) as events:
            await anext(events)
        assert not creation.done()
        assert (await creation)["metadata"]["name"] == "one"

    run(tmp_path, test, create=[DelayReply(0.7)])


@pytest.mark.parametrize(("answer", "status"), [("first", 201), ("second", 409)])
def test_a_duplicate_reaches_the_server_twice(tmp_path: Path, answer: Any, status: int) -> None:
    async def test(here: Place) -> None:
        headers = {"Authorization": f"Bearer {here.cluster.token}"}
        url = f"{here.proxy.url}/api/v1/namespaces/default/pods"
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=pod()) as response:
            assert response.status == status
        assert here.creations() == [201, 409]

    run(tmp_path, test, create=[Duplicate(answer)])


def test_refusals_are_status_objects_and_have_no_effect(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        found = [await refused(here.api.create_pod(pod())) for _ in range(6)]
        assert [(error.status, error.reason, error.retry_after) for error in found] == [
            (429, "TooManyRequests", 3.0),
            (429, "TooManyRequests", None),
            (500, "InternalError", None),
            (503, "ServiceUnavailable", None),
            (504, "Timeout", None),
            (409, "Conflict", None),
        ]
        assert found[5].message.startswith("Operation cannot be fulfilled on resourcequotas")
        assert here.creations() == []

    codes: list[Any] = [500, 503, 504, 409]
    run(tmp_path, test, create=[Refuse(429, 3), Refuse(429), *(Refuse(code) for code in codes)])


def test_an_answer_is_reset_before_its_end(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        for _ in range(2):
            assert (await refused(here.api.create_pod(pod()))).status == 0
        assert here.creations() == [201, 409]

    run(tmp_path, test, create=[Reset(100), Reset(10**9)])


def test_a_watch_is_reset_in_the_middle_of_a_line(tmp_path: Path) -> None:
    async def main() -> None:
        script = Script()
        async with asyncio.timeout(60), place(tmp_path, script, SleepRuntime(0.0)) as here:
            await here.direct.create_pod(pod())
            await until_running(here)
            url = f"{here.proxy.url}/api/v1/namespaces/default/pods?watch=true&resourceVersion=0"
            headers = {"Authorization": f"Bearer {here.cluster.token}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                async with session.get(url) as response:
                    event = await response.content.readuntil(b"\n")
                for size, expected in ((500, 500), (len(event), len(event) - 1)):
                    script.faults = {"watch": [Reset(size)]}
                    async with session.get(url) as response:
                        assert await before_the_break(response) == event[:expected]

    asyncio.run(main())


async def before_the_break(response: aiohttp.ClientResponse) -> bytes:
    text = b""
    try:
        async for chunk in response.content.iter_any():
            text += chunk
    except aiohttp.ClientError:
        return text
    pytest.fail(f"it ended as if all were said, with {text[-100:]!r}")


def test_a_cut_watch_breaks_and_a_closed_one_ends_as_if_all_were_said(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        await here.direct.create_pod(pod())
        version = await here.version()
        assert (await refused(here.watched(lambda _: False, version))).status == 0
        await here.watched(lambda _: False, version)

    run(tmp_path, test, watch=[Cut(0.2), Close(0.2)])


def test_a_log_that_is_closed_ends_cleanly_before_its_container(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        await here.api.create_pod(pod("one", "sh", "-c", "echo first; sleep 60"))
        await until_running(here)
        text = b"".join([chunk async for chunk in here.api.stream_log("one", "run")])
        assert text.endswith(b" first\n")

    run(tmp_path, test, ProcessRuntime(), log=[Close(1.0)])


def test_gone_comes_as_an_answer_or_in_the_middle_of_a_watch(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        version = await here.version()
        assert (await refused(here.watched(lambda _: False, version))).expired
        await here.direct.create_pod(pod())
        seen: list[WatchEvent] = []
        with pytest.raises(ApiError) as caught:
            await here.watched(lambda events: bool(seen.extend(events[-1:])), version)  # type: ignore[func-returns-value]
        assert caught.value.expired
        assert names(seen, "ADDED") == ["one"]

    run(tmp_path, test, watch=[Expire(), Expire(0.5)])


def test_replayed_events_show_a_pod_that_is_gone_and_the_watch_goes_on(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        version = await here.version()
        made = await here.direct.create_pod(pod("old"))
        first = asyncio.create_task(here.watched(lambda seen: names(seen, "DELETED") == ["old"], version))
        await here.direct.delete_pod("old", made["metadata"]["uid"], grace_seconds=0)
        before = [event.object for event in await first if event.kind != "DELETED"]
        now = await here.version()
        second = asyncio.create_task(here.watched(lambda seen: "new" in names(seen, "ADDED"), now))
        await here.direct.create_pod(pod("new"))
        assert names(await second, "ADDED") == ["new"]  # the same query, without the fault
        third = asyncio.create_task(here.watched(lambda seen: "newer" in names(seen, "ADDED"), await here.version()))
        while here.proxy.counts["Replay"] == 0:  # noqa: ASYNC110 - the watch has begun: a state without an event
            await asyncio.sleep(0.01)
        await here.direct.create_pod(pod("newer"))
        seen = await third
        replayed = [event.object for event in seen if event.object["metadata"]["name"] == "old"]
        assert replayed == before
        assert "DELETED" not in {event.kind for event in seen}

    run(tmp_path, test, watch=[Close(PATIENCE_S), Close(PATIENCE_S), Replay(1000)])


def test_a_replay_may_hold_the_deletions_too(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        version = await here.version()
        made = await here.direct.create_pod(pod("old"))
        first = asyncio.create_task(here.watched(lambda seen: names(seen, "DELETED") == ["old"], version))
        await here.direct.delete_pod("old", made["metadata"]["uid"], grace_seconds=0)
        await first
        seen = await here.watched(lambda seen: names(seen, "DELETED") == ["old"], await here.version())
        assert [event.kind for event in seen] == ["DELETED"]

    run(tmp_path, test, watch=[Close(PATIENCE_S), Replay(1, deletions=True)])


def test_events_of_another_query_are_not_replayed(tmp_path: Path) -> None:
    async def main() -> None:
        script = Script()
        async with asyncio.timeout(60), place(tmp_path, script) as here:
            await here.direct.create_pod(pod())
            await here.watched(lambda seen: names(seen, "ADDED") == ["one"], "0")
            script.faults = {"watch": [Replay(1000)]}
            async with aclosing(here.api.watch_pods("job=two", await here.version(), seconds=60)) as events:
                first = asyncio.create_task(anext(events))
                while here.proxy.counts["Replay"] == 0:  # noqa: ASYNC110 - the watch has begun: a state without an event
                    await asyncio.sleep(0.01)
                await here.direct.create_pod(pod("two"))
                assert (await first).object["metadata"]["name"] == "two"

    asyncio.run(main())


def test_a_rewound_watch_begins_before_what_was_asked_or_where_the_server_has_forgotten(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        made = await here.direct.create_pod(pod("old"))
        await here.direct.delete_pod("old", made["metadata"]["uid"], grace_seconds=0)
        version = await here.version()
        assert names(await here.watched(lambda _: True, version), "DELETED") == ["old"]
        assert (await refused(here.watched(lambda _: False, version))).expired

    run(tmp_path, test, watch=[Rewind(1), Rewind(10**6)])


def test_a_half_open_watch_is_silent_and_then_breaks(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        version = await here.version()
        watch = asyncio.create_task(here.watched(lambda _: True, version))
        while here.proxy.counts["HalfOpen"] == 0:  # noqa: ASYNC110 - the watch has begun: a state without an event
            await asyncio.sleep(0.01)
        await here.direct.create_pod(pod())
        error = await refused(watch)
        assert error.status == 0

    run(tmp_path, test, watch=[HalfOpen(0.5)])


def test_a_server_that_is_away_resets_all_and_comes_back_on_the_same_port(tmp_path: Path) -> None:
    async def main() -> None:
        script = Script(create=[DelayRequest(PATIENCE_S)])
        async with asyncio.timeout(60), place(tmp_path, script) as here:
            watch = asyncio.create_task(here.watched(lambda _: False, await here.version()))
            late = asyncio.create_task(here.api.create_pod(pod("late")))
            while len(script.asked) < 2:  # noqa: ASYNC110 - both requests have arrived: a state without an event
                await asyncio.sleep(0.01)
            await here.proxy.down()
            for call in (watch, late, here.api.create_pod(pod())):
                assert (await refused(call)).status == 0
            assert here.creations() == []
            await here.proxy.up()
            await here.api.create_pod(pod())
            assert here.creations() == [201]

    asyncio.run(main())


def test_what_did_not_happen_is_not_counted(tmp_path: Path) -> None:
    async def test(here: Place) -> None:
        await here.direct.create_pod(pod())
        for _ in range(2):
            await here.watched(lambda _: True, "0")
        assert not here.proxy.counts

    run(tmp_path, test, watch=[Cut(PATIENCE_S), Reset(10**9)])


def test_a_plan_that_fails_or_asks_for_the_impossible_is_told_at_the_end(tmp_path: Path) -> None:
    def test_of(*faults: KubernetesFault) -> None:
        async def test(here: Place) -> None:
            await here.api.create_pod(pod())
            assert await here.exists()

        run(tmp_path, test, create=list(faults))

    for fault in (Close(1.0), Replay(3), HalfOpen(1.0)):
        with pytest.raises(ExceptionGroup) as caught:
            test_of(fault)
        assert "cannot happen to a create of pods" in str(caught.value.exceptions[0])


def test_an_upstream_with_tls_is_shown_the_client_certificate_of_the_kubeconfig(tmp_path: Path) -> None:
    async def main() -> None:
        certificate, key = certificate_of(tmp_path)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(certificate, key)

        async def answer(request: web.BaseRequest) -> web.Response:
            assert request.transport is not None
            return web.json_response({"subject": request.transport.get_extra_info("peercert")["subject"]})

        server = web.ServerRunner(web.Server(answer))
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0, ssl_context=tls).start()
        original = kubeconfig_with(f"https://127.0.0.1:{server.addresses[0][1]}", certificate, key)
        async with KubernetesProxy.in_front_of(original) as proxy, aiohttp.ClientSession() as session:
            async with session.get(f"{proxy.url}/api/v1/namespaces/default/pods") as response:
                assert (await response.json())["subject"] == [[["commonName", "127.0.0.1"]]]
            assert proxy.kubeconfig(original)["users"] == [{"name": "proxy", "user": {}}]
        await server.cleanup()

    asyncio.run(main())


def certificate_of(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "tls.crt", folder / "tls.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    words += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(["openssl", *words.split()], check=True, stderr=subprocess.DEVNULL)
    return certificate, key


def kubeconfig_with(server: str, certificate: Path, key: Path) -> dict[str, Any]:
    return {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "jobs"}}],
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(certificate)}}],
        "users": [
            {
                "name": "test",
                "user": {
                    "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
                    "client-key-data": base64.b64encode(key.read_bytes()).decode(),
                },
            }
        ],
    }

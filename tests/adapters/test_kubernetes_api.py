"""The adapter against a scripted API server: what it does when answers are late, lost or unkind."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from adapters.kubernetes_api import ApiError, KubernetesApi

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MANIFEST: dict[str, Any] = {"metadata": {"name": "p", "labels": {"a": "1"}}}


def status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)


class Server:
    """Answers each request with the next handler of the script, the last one for ever."""

    def __init__(self, *script: Handler) -> None:
        self.script = list(script)
        self.requests: list[tuple[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        handler = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await handler(request)


@asynccontextmanager
async def serving(server: Server, retry_seconds: float = 5.0) -> AsyncIterator[KubernetesApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    api = await KubernetesApi.connect("jobs", kubeconfig=kubeconfig, retry_seconds=retry_seconds)
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


def answer(body: object, code: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=code)

    return handler


def refuse(code: int, reason: str, message: str = "no", headers: dict[str, str] | None = None) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return status(code, reason, message, headers)

    return handler


async def drop(request: web.Request) -> web.StreamResponse:
    """Take the request and close the connection without a reply."""
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def test_a_creation_is_sent_once_even_when_its_reply_is_lost() -> None:
    async def test() -> None:
        server = Server(drop)
        async with serving(server) as api:
            with pytest.raises(ApiError) as raised:
                await api.create_pod(MANIFEST)
        assert [method for method, _ in server.requests] == ["POST"]
        assert (raised.value.status, raised.value.sent) == (0, True)

    asyncio.run(test())


def test_a_creation_that_found_nobody_to_be_sent_to_was_not_sent() -> None:
    async def test() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            configuration = {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{reserved.getsockname()[1]}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
            api = await KubernetesApi.connect("jobs", kubeconfig=configuration)
            with pytest.raises(ApiError) as raised:
                await api.create_pod(MANIFEST)
            await api.close()
        assert (raised.value.status, raised.value.sent) == (0, False)

    asyncio.run(test())


def test_a_creation_that_a_proxy_has_repeated_ends_with_our_own_pod() -> None:
    existing = {**MANIFEST, "metadata": {**MANIFEST["metadata"], "uid": "u1"}}

    async def test() -> None:
        server = Server(refuse(409, "AlreadyExists"), answer(existing))
        async with serving(server) as api:
            assert (await api.create_pod(MANIFEST))["metadata"]["uid"] == "u1"
        assert [method for method, _ in server.requests] == ["POST", "GET"]

    asyncio.run(test())


def test_a_creation_that_a_proxy_repeated_ends_with_our_own_pod() -> None:
    existing = {**MANIFEST, "metadata": {**MANIFEST["metadata"], "uid": "u1"}}

    async def test() -> None:
        for refusal in (refuse(409, "AlreadyExists"), refuse(403, "Forbidden", "exceeded quota: q, used: pods=1")):
            async with serving(Server(refusal, answer(existing))) as api:
                assert (await api.create_pod(MANIFEST))["metadata"]["uid"] == "u1"

    asyncio.run(test())


def test_a_foreign_pod_of_the_same_name_is_no_success() -> None:
    foreign = {"metadata": {"name": "p", "labels": {"a": "other"}}}

    async def test() -> None:
        async with serving(Server(refuse(409, "AlreadyExists"), answer(foreign))) as api:
            with pytest.raises(ApiError, match="AlreadyExists"):
                await api.create_pod(MANIFEST)

    asyncio.run(test())


def test_overload_is_retried_after_the_time_the_server_names() -> None:
    async def test() -> None:
        server = Server(
            refuse(429, "TooManyRequests", headers={"Retry-After": "0"}), refuse(503, "x"), answer({"a": 1})
        )
        async with serving(server) as api:
            assert await api.call("GET", "/x") == {"a": 1}
        assert len(server.requests) == 3

    asyncio.run(test())


def test_a_refusal_is_not_retried_and_keeps_the_servers_words() -> None:
    async def test() -> None:
        server = Server(refuse(422, "Invalid", "spec.containers: Required value"))
        async with serving(server) as api:
            with pytest.raises(ApiError) as caught:
                await api.create_pod(MANIFEST)
        assert (caught.value.status, caught.value.message) == (422, "spec.containers: Required value")
        assert not caught.value.temporary
        assert len(server.requests) == 1

    asyncio.run(test())


def test_a_used_up_quota_is_told_from_other_refusals() -> None:
    async def test() -> None:
        words = 'pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5'
        for message, expected in ((words, True), ('pods "p" is forbidden: violates PodSecurity', False)):
            async with serving(Server(refuse(403, "Forbidden", message))) as api:
                with pytest.raises(ApiError) as caught:
                    await api.create_pod(MANIFEST)
            assert caught.value.over_quota is expected

    asyncio.run(test())


def test_a_server_that_is_not_there_is_a_temporary_error_in_the_end() -> None:
    async def test() -> None:
        async with serving(Server(drop), retry_seconds=0.3) as api:
            with pytest.raises(ApiError) as caught:
                await api.call("GET", "/x")
        assert caught.value.temporary
        assert caught.value.status == 0

    asyncio.run(test())


def test_an_answer_that_is_no_status_object_is_quoted() -> None:
    async def proxy(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="<html>nothing here</html>")

    async def test() -> None:
        async with serving(Server(proxy)) as api:
            with pytest.raises(ApiError, match="nothing here"):
                await api.call("GET", "/x")

    asyncio.run(test())


def test_lists_are_read_page_by_page() -> None:
    pages = [
        {"items": [{"metadata": {"name": "a"}}], "metadata": {"resourceVersion": "5", "continue": "more"}},
        {"items": [{"metadata": {"name": "b"}}], "metadata": {"resourceVersion": "5"}},
    ]

    async def test() -> None:
        server = Server(*map(answer, pages))
        async with serving(server) as api:
            found = [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]
            assert await api.list_pods("a in (b,c)") == (found, "5")
        assert "continue=more" in server.requests[1][1]

    asyncio.run(test())


def test_a_list_of_metadata_that_is_empty_is_null() -> None:
    async def scenario() -> None:
        page = {"kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "7"}, "items": None}
        async with serving(Server(answer(page))) as api:
            assert [metadata async for metadata in api.pod_metadata("a=b")] == []

    asyncio.run(scenario())


def test_deleting_a_pod_that_is_gone_or_replaced_is_no_error() -> None:
    async def test() -> None:
        for refusal in (refuse(404, "NotFound"), refuse(409, "Conflict")):
            async with serving(Server(refusal)) as api:
                assert await api.delete_pod("p", "u") is False

    asyncio.run(test())


def test_a_deletion_says_which_pod_of_the_name_it_means() -> None:
    asked: list[Any] = []

    async def delete(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, await request.json()))
        return web.json_response({"kind": "Pod"})

    async def test() -> None:
        async with serving(Server(delete)) as api:
            assert await api.delete_pod("p", "u", grace_seconds=3)

    asyncio.run(test())
    ((method, options),) = asked
    assert (method, options["preconditions"], options["gracePeriodSeconds"]) == ("DELETE", {"uid": "u"}, 3)


def test_watch_events_come_whole_however_they_are_cut() -> None:
    pod = {"metadata": {"name": "p", "resourceVersion": "7", "annotations": {"x": "é" * 50_000}}}
    lines = b"".join(
        json.dumps({"type": kind, "object": pod}, ensure_ascii=False).encode() + b"\n" for kind in ("ADDED", "DELETED")
    )

    async def watch(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(lines), 7001):
            await response.write(lines[at : at + 7001])
        return response

    async def test() -> None:
        async with serving(Server(watch)) as api:
            events = [event async for event in api.watch_pods("a=b", "1", seconds=5)]
        assert [(event.kind, event.object) for event in events] == [("ADDED", pod), ("DELETED", pod)]

    asyncio.run(test())


def test_an_expired_version_is_recognised_in_the_answer_and_in_the_stream() -> None:
    async def in_stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        error = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        await response.write(json.dumps({"type": "ERROR", "object": error}).encode() + b"\n")
        return response

    async def test() -> None:
        for script in (in_stream, refuse(410, "Expired")):
            async with serving(Server(script)) as api:
                with pytest.raises(ApiError) as caught:
                    [event async for event in api.watch_pods("a=b", "1", seconds=5)]
            assert caught.value.expired

    asyncio.run(test())


def test_a_log_stream_that_is_cut_is_an_error_not_an_end() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"2026-01-01T00:00:00Z half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def test() -> None:
        got = b""
        async with serving(Server(cut)) as api:
            with pytest.raises(ApiError) as caught:  # noqa: PT012 - what came before the cut counts too
                async for chunk in api.stream_log("p", "run"):
                    got += chunk
        assert got == b"2026-01-01T00:00:00Z half"
        assert caught.value.temporary

    asyncio.run(test())


def test_a_log_is_asked_for_from_where_it_was_left() -> None:
    async def log(_: web.Request) -> web.StreamResponse:
        return web.Response(text="2026-01-01T00:00:07Z x\n")

    async def test() -> None:
        server = Server(log)
        async with serving(server) as api:
            for since in (None, "2026-01-01T00:00:07.5Z"):
                assert [chunk async for chunk in api.stream_log("p", "run", since_time=since)]
        queries = [parse_qs(urlsplit(path).query) for _, path in server.requests]
        assert [query.get("sinceTime") for query in queries] == [None, ["2026-01-01T00:00:07.5Z"]]

    asyncio.run(test())


def test_no_configuration_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def test() -> None:
        with pytest.raises(ApiError, match="set KUBECONFIG"):
            await KubernetesApi.connect("jobs")

    asyncio.run(test())

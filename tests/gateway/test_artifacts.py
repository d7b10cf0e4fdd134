import asyncio
import hashlib
import http.client
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.settings import Limits
from runner_spec import storage
from runner_spec.transfer import ARTIFACTS_PATH, MANIFEST_PATH
from tests.gateway.running import ANONYMOUS, JOB, TOKEN, entries, gateway, sealed

WHEEL = storage.artifact_path(JOB, 2, "wheel", "dist/a b.whl")


async def _send_and_hang_up(port: int, framing: bytes, body: bytes) -> None:
    """Send a part of a request, more than the sockets' buffers hold, and close the connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"PUT /runner/v1/artifacts/wheel/a HTTP/1.1\r\nHost: x\r\n" + framing
    writer.write(head + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_an_artifact_is_stored_without_its_seal(tmp_path: Path) -> None:
    content = os.urandom(1_000_000)

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            url = f"{running.url}{ARTIFACTS_PATH}/wheel/dist/a%20b.whl"
            async with running.client.put(url, data=sealed(content)) as answer:
                assert answer.status == 201
                assert await answer.json() == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                assert len(answer.headers["Dynapod-Request-Id"]) == 32
            assert await running.store.get(WHEEL) == content
            route = ARTIFACTS_PATH + "/{artifact}/{path}"
            assert running.count("dynapod_gateway_received_bytes_total", route=route) == len(content) + 32
            assert running.count("dynapod_gateway_requests_total", route=route, method="PUT", code="201") == 1

    asyncio.run(scenario())


def test_an_empty_file_and_a_repeated_upload_are_stored(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            url = f"{running.url}{ARTIFACTS_PATH}/wheel/dist/a%20b.whl"
            for content in (b"", b"first", b"second"):
                async with running.client.put(url, data=sealed(content)) as answer:
                    assert answer.status == 201
                assert await running.store.get(WHEEL) == content

    asyncio.run(scenario())


def test_a_chunked_body_is_as_good_as_one_with_a_length(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in sealed(b"abc"):
            yield bytes([byte])

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            url = f"{running.url}{ARTIFACTS_PATH}/wheel/dist/a%20b.whl"
            async with running.client.put(url, data=pieces()) as answer:
                assert answer.status == 201
            assert await running.store.get(WHEEL) == b"abc"

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"short", b"x" * 32, sealed(b"abc")[:-1], sealed(b"abc") + b"x"])
def test_a_wrong_seal_stores_nothing_and_asks_for_a_retry(tmp_path: Path, body: bytes) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            async with running.client.put(f"{running.url}{ARTIFACTS_PATH}/wheel/a", data=body) as answer:
                assert answer.status == 422
                problem = await answer.json()
                assert set(problem) == {"error", "remedy", "reason"}
            assert running.files == []
            assert running.count("dynapod_gateway_refusals_total", reason="seal") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 20000000\r\n", b"x" * 12_000_000),
        (b"Transfer-Encoding: chunked\r\n", b"b71b00\r\n" + b"x" * 12_000_000 + b"\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_a_client_that_hangs_up_leaves_nothing_behind(tmp_path: Path, framing: bytes, body: bytes) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            await _send_and_hang_up(running.port, framing, body)
        # Stopped by now, and so has the upload.
        assert running.count("dynapod_gateway_refusals_total", reason="disconnect") == 1
        assert running.files == []

    asyncio.run(scenario())


def test_a_client_that_stalls_is_cut_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(stall_seconds=0.1)) as running:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            head = f"PUT /runner/v1/artifacts/w/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            writer.write(head.encode() + b"Content-Length: 99\r\n\r\nabc")
            status = await reader.readline()
            writer.close()
            assert b"408" in status
            assert running.files == []

    asyncio.run(scenario())


def test_over_quota_is_refused_before_the_body_when_its_length_is_known(tmp_path: Path) -> None:
    def send(port: int) -> tuple[int, bytes, int]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.putrequest("PUT", f"{ARTIFACTS_PATH}/wheel/a")
        for name, value in (("Authorization", f"Bearer {TOKEN}"), ("Content-Length", str(10**12))):
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()  # no byte of the body was sent
        status, text = answer.status, answer.read()
        connection.close()
        return status, text, len(text)

    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(max_artifact_bytes=1000)) as running:
            status, text, _ = await asyncio.to_thread(send, running.port)
            assert status == 413
            assert "max_artifact_bytes" in json.loads(text)["remedy"]
            assert running.files == []

    asyncio.run(scenario())


def test_over_quota_without_a_length_stores_nothing(tmp_path: Path) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        body = sealed(b"x" * size)
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(max_artifact_bytes=5000)) as running:
            for size, status in ((5001, 413), (5000, 201)):
                async with running.client.put(f"{running.url}{ARTIFACTS_PATH}/w/{size}", data=pieces(size)) as answer:
                    assert answer.status == status
            assert running.files == [storage.artifact_path(JOB, 2, "w", "5000")]

    asyncio.run(scenario())


def test_a_client_that_expects_100_continue_is_told_to_go_on_or_refused_first(tmp_path: Path) -> None:
    def exchange(port: int, length: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"PUT {ARTIFACTS_PATH}/w/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            connection.sendall(f"{head}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n".encode())
            first = connection.recv(1000)
            if b"100 Continue" in first:
                connection.sendall(sealed(b"abc"))
                first += connection.recv(1000)
            return first

    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(max_artifact_bytes=1000)) as running:
            answer = await asyncio.to_thread(exchange, running.port, 35)
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201")
            refusal = await asyncio.to_thread(exchange, running.port, 2000)
            assert refusal.startswith(b"HTTP/1.1 413")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "path",
    [
        "wheel/..", "wheel/../../x", "wheel/%2e%2e/x", "wheel/a/%2E%2E/%2E%2E/b", "wheel/a%2F..%2Fb", "../wheel/x",
        "wheel/a//b", "wheel/a/", "wheel/%00", "wheel/a%0Ab", "wheel/%7f", "%2E%2E/x", "a%2Fb/x", "wheel/./x",
        "wheel/" + "x" * 1025, "wheel/" + "/".join(["x" * 1000] * 5), "./x", "..%2f..%2fetc/passwd",
    ],
)  # fmt: skip
def test_hostile_paths_are_refused(tmp_path: Path, path: str) -> None:
    def send(port: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.putrequest("PUT", f"{ARTIFACTS_PATH}/{path}")
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.putheader("Content-Length", "35")
        connection.endheaders(sealed(b"abc"))
        status = connection.getresponse().status
        connection.close()
        return status

    async def scenario() -> None:
        async with gateway(tmp_path / "store") as running:
            assert await asyncio.to_thread(send, running.port) in {400, 404}
            assert running.files == []
            assert entries(tmp_path) == ["store"]

    asyncio.run(scenario())


def test_names_of_all_kinds_keep_their_own_objects(tmp_path: Path) -> None:
    raw = ["a", "a%20b", "%FF", "%25FF", "%C3%A4", ".hidden", "a%23" + "1", "a%3Fb", "x" * 1024, "%E4%BD%A0" * 300]

    def send(port: int) -> list[int]:
        statuses = []
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for name in raw:
            body = sealed(name.encode())
            headers = {"Authorization": f"Bearer {TOKEN}"}
            connection.request("PUT", f"{ARTIFACTS_PATH}/w/{name}", body=body, headers=headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        return statuses

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            assert await asyncio.to_thread(send, running.port) == [201] * len(raw)
            found = [item async for item in running.store.list(storage.artifacts_prefix(JOB, 2))]
            assert {await running.store.get(item.path) for item in found} == {name.encode() for name in raw}

    asyncio.run(scenario())


def test_a_name_cannot_be_a_file_and_a_folder(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            for path, status in (("a", 201), ("a/b", 409)):
                url = f"{running.url}{ARTIFACTS_PATH}/w/{path}"
                async with running.client.put(url, data=sealed(b"x")) as answer:
                    assert answer.status == status

    asyncio.run(scenario())


def test_the_manifest_is_stored_as_given(tmp_path: Path) -> None:
    text = '{"reason": "ok",  "artifacts": []}'

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            async with running.client.put(running.url + MANIFEST_PATH, data=text) as answer:
                assert answer.status == 204
            assert await running.store.get(storage.manifest_path(JOB, 2)) == text.encode()

    asyncio.run(scenario())


def test_the_manifest_closes_the_attempt(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            file, manifest = f"{running.url}{ARTIFACTS_PATH}/wheel/dist/a%20b.whl", running.url + MANIFEST_PATH
            puts = [(file, sealed(b"good"), 201), (manifest, b"{}", 204), (manifest, b"{}", 204)]
            puts += [(manifest, b'{"other": 1}', 409), (file, sealed(b"evil"), 409), (f"{file}2", sealed(b"new"), 409)]
            for url, body, status in puts:
                async with running.client.put(url, data=body) as answer:
                    assert answer.status == status, await answer.text()
            assert await running.store.get(WHEEL) == b"good"
            assert await running.store.get(storage.manifest_path(JOB, 2)) == b"{}"
            assert running.count("dynapod_gateway_refusals_total", reason="closed") == 3
            assert len(running.files) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            async with running.client.put(running.url + MANIFEST_PATH, data=body) as answer:
                assert answer.status == 400
            assert running.files == []

    asyncio.run(scenario())


def test_a_manifest_over_quota_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(max_manifest_bytes=10)) as running:
            answer = await running.client.put(running.url + MANIFEST_PATH, data=b'{"a": "bcdefgh"}')
            assert answer.status == 413
            assert running.files == []

    asyncio.run(scenario())


def test_a_compressed_body_is_refused_not_expanded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            url, headers = f"{running.url}{ARTIFACTS_PATH}/w/a", {"Content-Encoding": "gzip"}
            async with running.client.put(url, data=b"x", headers=headers) as answer:
                assert answer.status == 415

    asyncio.run(scenario())


def test_unknown_routes_and_methods_answer_as_json(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            for method, path, status in (("GET", "/", 404), ("DELETE", MANIFEST_PATH, 405)):
                async with running.client.request(method, running.url + path, headers=ANONYMOUS) as answer:
                    assert answer.status == status
                    assert "remedy" in await answer.json()

    asyncio.run(scenario())

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from aiohttp import ClientError

from adapters.object_store import ObjectStore
from gateway.settings import Limits
from runner_spec import storage
from runner_spec.transfer import ARCHIVE_FORMAT_HEADER, CACHE_KEY_HEADER, CACHES_PATH, SEALED_TYPE
from tests.gateway.running import TOKEN, Running, entries, gateway, sealed

ZSTD = {ARCHIVE_FORMAT_HEADER: "tar.zst"}


async def _put(running: Running, key: str, content: bytes, archive: str = "tar.zst") -> int:
    url = f"{running.url}{CACHES_PATH}/{quote(key, safe='')}"
    headers = {ARCHIVE_FORMAT_HEADER: archive}
    async with running.client.put(url, data=io.BytesIO(sealed(content)), headers=headers) as answer:
        assert await answer.json() == {"stored": answer.status == 201}
        return answer.status


async def _get(running: Running, key: str, *fallback: str) -> tuple[str, str, bytes] | None:
    query = urlencode([("key", key), *(("fallback", prefix) for prefix in fallback)])
    async with running.client.get(f"{running.url}{CACHES_PATH}?{query}") as answer:
        if answer.status == 404:
            return None
        assert answer.status == 200
        assert answer.headers["Content-Type"] == SEALED_TYPE
        body = await answer.read()
        assert body[-32:] == hashlib.sha256(body[:-32]).digest()
        return answer.headers[CACHE_KEY_HEADER], answer.headers[ARCHIVE_FORMAT_HEADER], body[:-32]


async def _head(running: Running, key: str) -> int:
    async with running.client.head(f"{running.url}{CACHES_PATH}/{quote(key, safe='')}") as answer:
        return answer.status


def _age(running: Running, scope: str, key: str, seconds: float, archive: str = "tar.zst") -> None:
    path = running.folder / storage.cache_entry_path(scope, key, archive)
    when = path.stat().st_mtime - seconds
    os.utime(path, (when, when))


def test_an_entry_comes_back_with_its_seal_key_and_format(tmp_path: Path) -> None:
    content = os.urandom(1_000_000)

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            assert await _head(running, "pip-1") == 404
            assert await _get(running, "pip-1") is None
            assert await _put(running, "pip-1", content) == 201
            assert await _head(running, "pip-1") == 200
            assert await _get(running, "pip-1") == ("pip-1", "tar.zst", content)
        # Counted after the last byte is out, so read when the gateway has stopped.
        assert running.count("dynapod_gateway_sent_bytes_total", route=CACHES_PATH) == len(content) + 32

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["folder", "memory://"])
def test_a_large_entry_comes_whole_and_the_connection_serves_on(tmp_path: Path, url: str) -> None:
    async def scenario() -> None:
        store = ObjectStore.from_url(str(tmp_path) if url == "folder" else url)
        async with gateway(tmp_path, store=store) as running:
            content = os.urandom(5_000_000)
            assert await _put(running, "k", content) == 201
            for _ in range(2):
                assert await _get(running, "k") == ("k", "tar.zst", content)
            assert await _put(running, "k", b"") == 200

    asyncio.run(scenario())


def test_an_entry_is_written_once_whatever_its_format(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            assert await _put(running, "k", b"first") == 201
            assert await _put(running, "k", b"second") == 200
            assert await _put(running, "k", b"third", "tar.gz") == 200
            assert await _get(running, "k") == ("k", "tar.zst", b"first")
            assert len(running.files) == 1

    asyncio.run(scenario())


def test_the_newest_entry_of_the_first_prefix_that_has_one_wins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            for index, key in enumerate(["pip-b", "pip-a", "pip-c", "pi", "npm-new"]):
                assert await _put(running, key, key.encode(), "tar.gz" if index % 2 else "tar.zst") == 201
            _age(running, "scope", "pip-b", 20)
            _age(running, "scope", "pip-c", 10)
            found = await _get(running, "pip-x", "none-", "pip-", "npm-")
            assert found == ("pip-a", "tar.gz", b"pip-a")
            assert await _get(running, "pip-c", "pip-") == ("pip-c", "tar.zst", b"pip-c")
            assert await _get(running, "pip-") is None

    asyncio.run(scenario())


def test_scopes_do_not_see_each_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            running.api.add("other", "other job", 1, scope="other")
            assert await _put(running, "k", b"x") == 201
            running.client.headers["Authorization"] = "Bearer other"
            assert await _get(running, "k", "k") is None
            assert await _put(running, "k", b"y") == 201

    asyncio.run(scenario())


def test_a_job_without_a_cache_scope_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            running.api.add("bare", "bare job", 1, scope=None)
            running.client.headers["Authorization"] = "Bearer bare"
            assert await _head(running, "k") == 403

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["a/b", "a b", "a%2Fb", "ä-你", "../x", ".hidden", "a=b", "x" * 900, "#1", "+&?"])
def test_any_text_can_be_a_key(tmp_path: Path, key: str) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path / "store") as running:
            assert await _put(running, key, b"content") == 201
            assert await _head(running, key) == 200
            found = await _get(running, key)
            assert found is not None
            assert found[2] == b"content"
            assert await _get(running, "other", key[:1]) == found
            assert entries(tmp_path) == ["store"]

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["..", ".", "a\nb", "\0", "x" * 1025, "ä" * 500])
def test_impossible_keys_are_refused(tmp_path: Path, key: str) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            assert await _head(running, key) in {400, 404}
            async with running.client.get(f"{running.url}{CACHES_PATH}?{urlencode({'key': key})}") as answer:
                assert answer.status == 400

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "query", ["", "fallback=a", "key=a&key=b", "key=a&fallback=", "key=a&x=1", "key=" + "&a=b" * 200]
)
def test_malformed_lookups_are_refused(tmp_path: Path, query: str) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running, running.client.get(f"{running.url}{CACHES_PATH}?{query}") as answer:
            assert answer.status == 400

    asyncio.run(scenario())


@pytest.mark.parametrize("archive", ["", "zip", "tar.zst/../x"])
def test_an_unknown_archive_format_is_refused(tmp_path: Path, archive: str) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            headers = {ARCHIVE_FORMAT_HEADER: archive}
            async with running.client.put(f"{running.url}{CACHES_PATH}/k", data=sealed(b""), headers=headers) as answer:
                assert answer.status == 400
            assert running.files == []

    asyncio.run(scenario())


def test_an_altered_entry_is_never_visible(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            body = sealed(b"content") + b"x"
            async with running.client.put(f"{running.url}{CACHES_PATH}/k", data=body, headers=ZSTD) as answer:
                assert answer.status == 422
            assert running.files == []
            assert await _put(running, "k", b"content") == 201  # the failed one holds no reservation

    asyncio.run(scenario())


def test_of_concurrent_savers_one_stores_and_all_are_answered(tmp_path: Path) -> None:
    content = os.urandom(900_000)

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            statuses = await asyncio.gather(*(_put(running, "k", content) for _ in range(20)))
            assert sorted(statuses) == [200] * 19 + [201]
            assert await _get(running, "k") == ("k", "tar.zst", content)
            assert len(running.files) == 1

    asyncio.run(scenario())


def test_a_second_saver_is_answered_while_the_first_still_sends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            started, go_on = asyncio.Event(), asyncio.Event()

            async def slowly() -> AsyncIterator[bytes]:
                yield b"con"
                started.set()
                await go_on.wait()
                yield sealed(b"content")[3:]

            async def save_slowly() -> int:
                url = f"{running.url}{CACHES_PATH}/k"
                async with running.client.put(url, data=slowly(), headers=ZSTD) as answer:
                    return answer.status

            first = asyncio.create_task(save_slowly())
            await started.wait()
            assert await _put(running, "warm up", b"") == 201  # by now the first request's handler runs
            assert await _put(running, "k", b"other") == 200
            go_on.set()
            assert await first == 201
            assert await _get(running, "k") == ("k", "tar.zst", b"content")

    asyncio.run(scenario())


def test_over_quota_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(max_cache_bytes=1000)) as running:
            for size, status in ((969, 413), (968, 201)):
                url = f"{running.url}{CACHES_PATH}/{size}"
                async with running.client.put(url, data=sealed(b"x" * size), headers=ZSTD) as answer:
                    assert answer.status == status
            assert len(running.files) == 1

    asyncio.run(scenario())


def test_a_reader_that_hangs_up_frees_its_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(transfers=1)) as running:
            path = running.folder / storage.cache_entry_path("scope", "big", "tar.zst")
            path.parent.mkdir(parents=True)
            with path.open("wb") as file:
                file.truncate(200_000_000)
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
            head = f"GET {CACHES_PATH}?key=big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            writer.write(head.encode())
            assert b"200" in await reader.readline()
            writer.transport.abort()
            assert await _put(running, "k", b"x") == 201

    asyncio.run(scenario())


def test_an_entry_that_becomes_shorter_while_it_is_sent_cuts_the_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            path = running.folder / storage.cache_entry_path("scope", "big", "tar.zst")
            path.parent.mkdir(parents=True)
            with path.open("wb") as file:
                file.truncate(200_000_000)  # more than the sockets hold: it cannot all have been sent
            async with running.client.get(f"{running.url}{CACHES_PATH}?key=big") as answer:
                assert (answer.status, answer.content_length) == (200, 200_000_000)
                os.truncate(path, 1)
                with pytest.raises(ClientError):
                    await answer.read()
            assert await _put(running, "k", b"x") == 201

    asyncio.run(scenario())

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from adapters.object_store import (
    UPLOAD_CHUNK_BYTES,
    AlreadyExists,
    InvalidName,
    NameConflict,
    NotFound,
    ObjectStore,
    StoreConfigError,
    StoreError,
    StoreUnavailable,
)

MEBI = 1024 * 1024


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """The promises hold for every store; s3:// is verified by hand against a server (docs of the adapter)."""
    return ObjectStore.from_url("memory://" if request.param == "memory" else str(tmp_path / "store"))


async def _pieces(count: int, failure: Exception | None = None) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * MEBI
    if failure:
        raise failure


async def _names(store: ObjectStore, folder: str = "", starting_with: str = "") -> list[str]:
    return sorted([item.path async for item in store.list(folder, starting_with=starting_with)])


@pytest.mark.parametrize("count", [0, 1, 12])
def test_a_stream_is_stored_and_comes_back(store: ObjectStore, count: int) -> None:
    async def scenario() -> None:
        assert await store.put_stream("a/b", _pieces(count)) == count * MEBI
        meta, chunks = await store.open("a/b")
        assert (meta.path, meta.size) == ("a/b", count * MEBI)
        assert meta.last_modified.tzinfo is not None
        content = b"".join([chunk async for chunk in chunks])
        assert content == b"".join([piece async for piece in _pieces(count)])
        assert (await store.head("a/b")).size == count * MEBI

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["a/b", "ä é/%20~", "a?b[*]"])
def test_a_folder_gives_its_objects_as_files(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        store = ObjectStore.from_url(str(tmp_path / "store"))
        await store.put_stream(name, _pieces(2))
        opened = await store.open_file(name)
        assert opened is not None
        meta, file = opened
        with file:
            assert file.read() == b"".join([piece async for piece in _pieces(2)])
        found = await store.head(name)
        assert (meta.path, meta.size) == (found.path, found.size)
        assert abs(meta.last_modified - found.last_modified) < timedelta(milliseconds=1)

    asyncio.run(scenario())


def test_what_is_no_object_of_the_folder_is_not_opened(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = ObjectStore.from_url(str(tmp_path / "store"))
        (tmp_path / "outside").write_bytes(b"x")
        await store.put("a/b", b"x")
        for name in ("a", "a/b/c", "c"):
            with pytest.raises(NotFound):
                await store.open_file(name)
        for name in ("../outside", "a/../../outside", str(tmp_path / "outside"), "a/b#1"):
            with pytest.raises(InvalidName):
                await store.open_file(name)
        memory = ObjectStore.from_url("memory://")
        await memory.put("a", b"x")
        assert await memory.open_file("a") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, 1, 12])
def test_a_failing_source_passes_its_own_error_on_and_stores_nothing(store: ObjectStore, count: int) -> None:
    class SourceError(Exception):
        pass

    async def scenario() -> None:
        failure = SourceError("mid-way")
        with pytest.raises(SourceError) as caught:
            await store.put_stream("a", _pieces(count, failure))
        assert caught.value is failure
        assert await _names(store) == []
        await store.put("a", b"old")
        with pytest.raises(SourceError):
            await store.put_stream("a", _pieces(count, SourceError()))
        assert await store.get("a") == b"old"

    asyncio.run(scenario())


def test_a_cancelled_upload_stores_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = ObjectStore.from_url(str(tmp_path))
        started = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield bytes(UPLOAD_CHUNK_BYTES)
            started.set()
            await asyncio.Event().wait()

        upload = asyncio.create_task(store.put_stream("a", endless()))
        await started.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert await _names(store) == []

    asyncio.run(scenario())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_ranges_end_where_the_object_ends(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("a", b"0123456789")
        assert await store.get("a", start=3, length=4) == b"3456"
        assert await store.get("a", start=8) == b"89"
        assert await store.get("a", start=8, length=100) == b"89"
        assert await store.get("a", start=10) == b""
        assert await store.get("a", start=10**12) == b""
        assert await store.get("a", length=0) == b""
        with pytest.raises(ValueError, match="negative"):
            await store.get("a", start=-1)

    asyncio.run(scenario())


def test_of_concurrent_creators_exactly_one_succeeds(store: ObjectStore) -> None:
    async def scenario() -> None:
        results = await asyncio.gather(
            *(store.put_if_absent("a", str(number).encode()) for number in range(20)), return_exceptions=True
        )
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 19
        assert await store.get("a") == str(winners[0]).encode()

    asyncio.run(scenario())


def test_listing_knows_folders_from_prefixes(store: ObjectStore) -> None:
    async def scenario() -> None:
        for name in ("logs/run/1", "logs/run/2", "logs/run2/1", "logs/run/deep/er", "other"):
            await store.put(name, b"x")
        assert await _names(store, "logs/run") == ["logs/run/1", "logs/run/2", "logs/run/deep/er"]
        assert await _names(store, "logs", "logs/run2") == ["logs/run2/1"]
        assert await _names(store, "logs/run", "logs/run/d") == ["logs/run/deep/er"]
        assert await _names(store, "nothing/here") == []
        assert len(await _names(store)) == 5

    asyncio.run(scenario())


def test_listing_goes_beyond_one_page(store: ObjectStore) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(store.put(f"many/{number}", b"") for number in range(1100)))
        assert len(await _names(store, "many")) == 1100

    asyncio.run(scenario())


def test_what_is_not_there_is_not_found_and_may_be_deleted(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("a", b"x")
        for name in ("b", "a/b", "c/d/e"):
            for reading in (store.get(name), store.head(name), store.open(name)):
                with pytest.raises(NotFound):
                    await reading
            await store.delete(name)
        await store.delete("a")
        assert await _names(store) == []
        await store.probe()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", ".", "a/../b", "../a", "a\0b", "a\nb", "a#1", "x" * 256, "ä" * 128, "a#12/b"]
)
def test_names_that_some_store_cannot_take_are_refused_by_all(store: ObjectStore, name: str) -> None:
    async def scenario() -> None:
        for refused in (store.put(name, b""), store.get(name), store.delete(name), store.put_stream(name, _pieces(1))):
            with pytest.raises(InvalidName):
                await refused

    asyncio.run(scenario())


def test_a_file_and_a_folder_of_one_name_exclude_each_other_in_a_folder(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = ObjectStore.from_url(str(tmp_path))
        await store.put("a", b"x")
        await store.put("b/c", b"x")
        for name in ("a/b", "b"):
            with pytest.raises(NameConflict):
                await store.put(name, b"x")
            with pytest.raises(NameConflict):
                await store.put_stream(name, _pieces(1))

    asyncio.run(scenario())


def test_folders_are_named_by_path_or_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (str(tmp_path / "one"), (tmp_path / "a b").as_uri(), "relative/folder"):
        asyncio.run(ObjectStore.from_url(url).put("x", b"1"))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("x")) == [
        "a b/x",
        "one/x",
        "relative/folder/x",
    ]


@pytest.mark.parametrize("url", ["", "ftp://x/y", "s3://", "file://host/x", "file:relative", "az://"])
def test_a_wrong_url_is_a_clear_error(url: str) -> None:
    with pytest.raises(StoreConfigError, match="object store") as caught:
        ObjectStore.from_url(url)
    assert not caught.value.temporary


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreConfigError, match="cannot be used"):
        ObjectStore.from_url(str(tmp_path / "file" / "store"))


def _s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> ObjectStore:
    settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv("AWS_" + name, value)
    return ObjectStore.from_url("s3://bucket/prefix", client_retries=0)


def test_a_store_that_is_away_is_a_temporary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = _s3(monkeypatch, "http://127.0.0.1:1")
        for call in (store.get("a"), store.put("a", b""), store.put_stream("a", _pieces(1)), store.delete("a")):
            with pytest.raises(StoreUnavailable) as caught:
                await call
            assert caught.value.temporary
            assert caught.value.__cause__ is not None
        with pytest.raises(StoreUnavailable):
            await _names(store)

    asyncio.run(scenario())


@pytest.mark.parametrize(("failures", "calls"), [(2, 3), (9, 3)])
def test_reads_are_retried_and_writes_are_not(monkeypatch: pytest.MonkeyPatch, failures: int, calls: int) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.method)
        if len(seen) <= failures:
            return web.Response(status=503)
        return web.Response(body=b"content", headers={"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT", "ETag": '"1"'})

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/bucket/prefix/a", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        store = _s3(monkeypatch, f"http://127.0.0.1:{runner.addresses[0][1]}")
        try:
            if failures < calls:
                assert await store.get("a") == b"content"
            else:
                with pytest.raises(StoreUnavailable):
                    await store.get("a")
            assert seen == ["GET"] * calls
            seen.clear()
            with pytest.raises(StoreError):
                await store.put("a", b"x")
            assert seen == ["PUT"]
        finally:
            await runner.cleanup()

    asyncio.run(scenario())


def test_a_process_that_used_the_store_ends_with_its_own_exit_status(tmp_path: Path) -> None:
    # Without the pause at exit two of three such processes died of SIGABRT in the interpreter's teardown.
    script = (
        "import asyncio, sys\n"
        "from adapters.object_store import ObjectStore\n"
        "async def scenario():\n"
        "    store = ObjectStore.from_url(sys.argv[1])\n"
        "    await store.put('a', bytes(5_000_000))\n"
        "    _, chunks = await store.open('a')\n"
        "    return sum([len(chunk) async for chunk in chunks])\n"
        "sys.exit(asyncio.run(scenario()) != 5_000_000)\n"
    )
    for _ in range(8):
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)


def test_objects_are_deleted_together_and_missing_ones_are_no_error(store: ObjectStore) -> None:
    async def scenario() -> None:
        for name in ("a/1", "a/2", "b/1"):
            await store.put(name, b"x")
        await store.delete_all(["a/1", "a/missing", "missing/too", "a/2"])
        assert await _names(store) == ["b/1"]
        await store.delete_all([])
        with pytest.raises(InvalidName):
            await store.delete_all(["b/1", "../up"])
        assert await _names(store) == ["b/1"]

    asyncio.run(scenario())


def test_a_listing_may_begin_after_a_name(store: ObjectStore) -> None:
    async def scenario() -> None:
        for name in ("a/1", "a/2/x", "a/3", "b/1"):
            await store.put(name, b"x")
        assert sorted([item.path async for item in store.list("a", after="a/2")]) == ["a/2/x", "a/3"]
        assert [item.path async for item in store.list("a", after="a/3")] == []

    asyncio.run(scenario())

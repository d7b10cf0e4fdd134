"""Following a log over a real Redis: a reader that has nothing to read is woken, it does not look again and again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adapters import redis_server
from adapters.object_store import ObjectStore
from adapters.redis_server import AsyncClient
from runner_spec import anatomy, wire
from runner_spec.log_cursor import LogCursor
from worker import log_store, log_writer
from worker.cancellation import end_tasks
from worker.log_batch import LogBatch
from worker.log_store import LogReader
from worker.log_writer import LogWriter

pytestmark = pytest.mark.redis

JOB, ATTEMPT = "job", 1


class World:
    def __init__(self, connection: AsyncClient) -> None:
        self.redis = connection
        self.store = ObjectStore.from_url("memory://")

    async def writer(self, container: str) -> LogWriter:
        writer = LogWriter(LogBatch(self.redis), self.store, JOB, ATTEMPT, container)
        await writer.open()
        return writer

    async def until_a_reader_is_blocked(self) -> None:
        while True:
            clients: Any = await self.redis.client_list()
            if any(client["cmd"] == "xread" and "b" in client["flags"] for client in clients):
                return

    @asynccontextmanager
    async def follower(self, container: str | None = None) -> AsyncIterator["asyncio.Queue[bytes]"]:
        """Lines as they are shown."""
        shown: asyncio.Queue[bytes] = asyncio.Queue()

        async def follow() -> None:
            reader = LogReader(self.redis, self.store)
            async for line in reader.read(JOB, ATTEMPT, container=container, follow=True):
                shown.put_nowait(line.text)

        following = asyncio.create_task(follow())
        try:
            yield shown
        finally:
            await end_tasks([following])


@pytest.fixture(autouse=True)
def only_news_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the tests' patience: the look that a reader takes now and then without being woken."""
    monkeypatch.setattr(log_store, "FOLLOW_BLOCK_MS", 60_000)


def run(url: str, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), redis_server.connect(url) as connections:
            await test(World(connections.control))

    asyncio.run(main())


def line(text: bytes) -> bytes:
    return b"2026-01-01T00:00:00.000000000Z " + text + b"\n"


@pytest.mark.parametrize("container", [anatomy.CHECKOUT, anatomy.RUN, anatomy.UPLOAD])
def test_the_first_line_of_a_container_wakes_a_follower(redis_url: str, container: str) -> None:
    async def test(here: World) -> None:
        async with here.follower() as shown:
            await here.until_a_reader_is_blocked()
            if container == anatomy.UPLOAD:
                await (await here.writer(anatomy.RUN)).close()
            await (await here.writer(container)).append(line(b"first"), LogCursor())
            assert await shown.get() == b"first"

    run(redis_url, test)


def test_what_upload_tells_is_shown_after_all_that_run_has_printed(redis_url: str) -> None:
    async def test(here: World) -> None:
        job, upload = await here.writer(anatomy.RUN), await here.writer(anatomy.UPLOAD)
        async with here.follower() as shown:
            await upload.append(line(b"stored before"), LogCursor())
            await here.until_a_reader_is_blocked()
            await job.append(line(b"printed before"), LogCursor())
            assert await shown.get() == b"printed before"
            await job.close()
            await upload.append(line(b"and more"), LogCursor())
            assert [await shown.get(), await shown.get()] == [b"stored before", b"and more"]

    run(redis_url, test)


def test_a_follower_of_one_container_waits_for_its_first_line_and_shows_no_other(redis_url: str) -> None:
    async def test(here: World) -> None:
        async with here.follower("db") as shown:
            await here.until_a_reader_is_blocked()
            await (await here.writer(anatomy.RUN)).append(line(b"not this"), LogCursor())
            await (await here.writer("db")).append(line(b"this"), LogCursor())
            assert await shown.get() == b"this"

    run(redis_url, test)


def test_a_follower_rests_when_all_was_read_from_the_object_store(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "PIECE_BYTES", 1)

    async def test(here: World) -> None:
        writer = await here.writer(anatomy.RUN)
        await writer.append(line(b"durable"), LogCursor())
        assert writer.entry.durable == writer.entry.size > 0
        # Redis keeps the entry for slower followers: to this one it is no news.
        assert await here.redis.xlen(wire.log_stream_key(JOB, ATTEMPT, anatomy.RUN)) == 1
        async with here.follower() as shown:
            assert await shown.get() == b"durable"
            await here.until_a_reader_is_blocked()
            await writer.append(line(b"live"), LogCursor())
            assert await shown.get() == b"live"

    run(redis_url, test)

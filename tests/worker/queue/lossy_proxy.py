"""A TCP proxy in front of Redis that executes a command and then loses its reply, as a dying connection does."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class LossyProxy:
    """Forwards to the server of `url`. `lose_reply_of(word)` arms it once: the next request that holds the word is
    delivered, its reply is thrown away and the connection is closed.
    """

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._host, self._port = target.hostname or "127.0.0.1", target.port or 6379
        self._word: bytes | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lose_reply_of(self, word: str | bytes) -> None:
        self._word = word.encode() if isinstance(word, str) else word

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream, downstream = await asyncio.open_connection(self._host, self._port)
        replies = asyncio.create_task(self._copy(upstream, writer))
        try:
            while request := await reader.read(1 << 16):
                if self._word is not None and self._word in request:
                    self._word = None
                    replies.cancel()
                    with suppress(asyncio.CancelledError):
                        await replies
                    downstream.write(request)
                    await upstream.read(1)  # it has been executed
                    self.lost += 1
                    return
                downstream.write(request)
        except (ConnectionError, asyncio.CancelledError):
            return  # the client or the test is done with this connection
        finally:
            replies.cancel()
            with suppress(asyncio.CancelledError):
                await replies
            writer.close()
            downstream.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while reply := await reader.read(1 << 16):
                writer.write(reply)

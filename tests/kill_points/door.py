"""A door between the workers and Redis: shut, everything is cut off and nobody comes in, as when Redis is away."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Door:
    """Forwards to the server of `url`."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._host, self._port = target.hostname or "127.0.0.1", target.port or 6379
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shut = False
        self._lost: list[bytes] = []
        self._after = b""
        self._then_shut = False
        self._hold: list[bytes] = []
        self._holding = False
        self._let_go = asyncio.Event()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def shut(self) -> None:
        """Cut every connection; new ones are closed at once."""
        self._shut = True
        for writer in list(self._writers):
            writer.transport.abort()

    def lose_reply_of(self, *words: bytes, after: bytes = b"", then_shut: bool = False) -> None:
        """Of the next request that holds all of the words: it is executed, then its connection is cut.

        `after` has come over the same connection from now on: a long transaction comes in pieces, `EXEC` alone.
        `then_shut`: the door is shut at once.
        """
        self._lost, self._after, self._then_shut = list(words), after, then_shut

    @property
    def has_lost(self) -> bool:
        """Whether that has happened."""
        return not self._lost

    def hold(self, *words: bytes) -> None:
        """The next request that holds all of the words waits at the door, until `let_go`."""
        self._hold, self._holding = list(words), False
        self._let_go.clear()

    @property
    def holding(self) -> bool:
        """Whether such a request has come."""
        return self._holding

    def let_go(self) -> None:
        """What waits may pass, and nothing else will have to wait."""
        self._hold = []
        self._let_go.set()

    def open(self) -> None:
        """Let everybody in again."""
        self._shut = False
        self._lost = []
        self.let_go()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.shut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._shut:
            writer.transport.abort()
            return
        upstream, downstream = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, downstream}
        replies = asyncio.create_task(_copy(upstream, writer))
        recent = b""
        try:
            while request := await reader.read(1 << 16):
                if self._hold and all(word in request for word in self._hold):
                    self._hold, self._holding = [], True
                    await self._let_go.wait()
                recent = recent + request if self._lost else b""
                if self._lost and self._after in recent and all(word in request for word in self._lost):
                    self._lost = []
                    replies.cancel()
                    with suppress(asyncio.CancelledError):
                        await replies
                    downstream.write(request)
                    downstream.write_eof()
                    await upstream.read()  # to the end: it has been executed
                    if self._then_shut:
                        self.shut()
                    return
                downstream.write(request)
        except (ConnectionError, asyncio.CancelledError):
            return  # the worker, the door or the test is done with this connection
        finally:
            self._writers -= {writer, downstream}
            replies.cancel()
            with suppress(asyncio.CancelledError):
                await replies
            writer.transport.abort()
            downstream.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while reply := await reader.read(1 << 16):
            writer.write(reply)
    writer.close()

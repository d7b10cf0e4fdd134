"""A point in a job's script where it waits for the test: no sleep, and no guess about how far it has come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Rendezvous:
    """`script` is what a job waits with (it needs python3); `arrived` returns when it does, `release` lets it go on."""

    def __init__(self) -> None:
        self.address: tuple[str, int] = ("", 0)
        self._here = asyncio.Event()
        self._go = asyncio.Event()

    @property
    def script(self) -> str:
        return f'python3 -c "import socket; socket.create_connection({self.address}).recv(1)"'

    async def arrived(self) -> None:
        await self._here.wait()

    def release(self) -> None:
        self._go.set()

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._here.set()
        try:
            await self._go.wait()
            writer.write(b".")
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def rendezvous(host: str) -> AsyncIterator[Rendezvous]:
    """Listens on `host`, an address that pods reach; whoever still waits at the end is let go."""
    meeting = Rendezvous()
    server = await asyncio.start_server(meeting.serve, host, 0)
    meeting.address = (host, server.sockets[0].getsockname()[1])
    async with server:
        try:
            yield meeting
        finally:
            meeting.release()

"""A TCP port of a proxy that can go away and come back, and connections that end in a reset."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

HOST: Final = "127.0.0.1"
_BACKLOG: Final = 1024
# struct linger: on, 0 seconds. Closing such a socket discards what is unsent and sends RST instead of FIN.
_LINGER_0: Final = struct.pack("ii", 1, 0)


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close a connection with RST, as a crashed peer or a firewall does; what was sent before still arrives."""
    if transport is None:
        return
    assert isinstance(transport, asyncio.Transport)
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    transport.abort()


class Listener:
    """A port of 127.0.0.1, taken until `release`, also while nobody listens: connections are refused then.

    A second socket is bound to it all the time. Without that, the kernel could give the port to an outgoing
    connection of anybody's while the proxy is down, and it could not come back.
    """

    def __init__(self) -> None:
        self._reservation = _bound(0)
        self.port: int = self._reservation.getsockname()[1]
        self._server: asyncio.Server | None = None

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None

    async def open(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accept connections; nothing happens if it does already."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(factory, sock=_bound(self.port), backlog=_BACKLOG)

    def close(self) -> None:
        """Refuse connections; those that were accepted are not touched."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def release(self) -> None:
        """Give the port back."""
        self.close()
        self._reservation.close()


def _bound(port: int) -> socket.socket:
    # Only of a socket that is TCP by name does asyncio know that its connections want TCP_NODELAY.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((HOST, port))
    return made

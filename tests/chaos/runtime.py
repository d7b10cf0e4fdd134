"""Containers that follow a script: no process, one timer, real log files, and a line in the outside ledger.

The script is in the job's own environment (`env` of its description):

- `CHAOS_SECONDS`: how long `run` lasts; `CHAOS_EXIT`: its exit code (0).
- `CHAOS_LINES`: how many lines it writes (`scripted_log`), evenly over `CHAOS_LOG_SECONDS` (its whole life).
- `CHAOS_DEAF=1`: it ignores SIGTERM; else it dies of it (143).
"""

import asyncio
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from devcluster.container_log import ContainerLog
from devcluster.pod_fields import Role
from devcluster.resources import Object
from devcluster.runtime import Container, ContainerExit, ContainerRequest
from devcluster.sleep_runtime import SleepContainer
from runner_spec import anatomy
from tests.chaos.ledger import LedgerWriter, Start
from tests.chaos.scripted_log import log_lines

_SIGNAL_BASE: Final = 128
BOUND_POLL_S: Final = 0.01
# A container runtime cuts longer lines into records of the log file (containerd's max_container_log_line_size).
_RECORD_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Script:
    """What a container does; times in seconds."""

    seconds: float = 0.0
    exit_code: int = 0
    lines: int = 0
    log_seconds: float = 0.0
    deaf: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables.

        Raises:
            ValueError: one of them is no number, or out of range.
        """
        seconds = _number(environment, "CHAOS_SECONDS", 0.0)
        return cls(
            seconds=seconds,
            exit_code=int(_number(environment, "CHAOS_EXIT", 0.0)),
            lines=int(_number(environment, "CHAOS_LINES", 0.0)),
            log_seconds=min(_number(environment, "CHAOS_LOG_SECONDS", seconds), seconds),
            deaf=environment.get("CHAOS_DEAF") == "1",
        )


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}={text}: expected a number, 0 or more")
    return number


class ScriptedRuntime:
    """Runs `run` by its script; init containers succeed at once, sidecars wait for their signal.

    `bound` says whether a pod is on its node as the API shows it. devcluster writes that some time after the first
    containers have started; a pod that is deleted before then goes at once, and on a real cluster none of it ever runs.
    """

    def __init__(self, ledger: LedgerWriter) -> None:
        self.bound: Callable[[Object], bool] = lambda _: True
        self._ledger = ledger
        self._numbers = itertools.count()
        self._running: set[Container] = set()

    def uses_files(self, pod: Object) -> bool:  # noqa: ARG002 - of no pod
        """See `devcluster.runtime.Runtime`."""
        return False

    async def start(self, request: ContainerRequest) -> Container:
        """Start the timer, once the pod is on its node; cancelled when the pod goes before."""
        while not self.bound(request.pod):  # noqa: ASYNC110 - what the cluster stores has no event
            await asyncio.sleep(BOUND_POLL_S)
        identity = f"chaos://{next(self._numbers):064x}"
        start = start_of(request)
        container: Container
        if start is None:
            container = SleepContainer(identity, None if request.role is Role.SIDECAR else 0.0)
        else:
            container = ScriptedContainer(
                identity, start, Script.of(_environment(request)), request.folder, self._ledger
            )
        self._running.add(container)
        container.exited.add_done_callback(lambda _: self._running.discard(container))
        return container

    async def close(self) -> None:
        """Kill whatever still runs."""
        for container in list(self._running):
            container.signal(signal.SIGKILL)


def _environment(request: ContainerRequest) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in request.container.get("env", ()) if "value" in entry}


def is_scripted(pod: Object) -> bool:
    """Whether the environment of the pod's `run` holds a script."""
    runs = [container for container in pod["spec"]["containers"] if container["name"] == anatomy.RUN]
    return any(entry["name"].startswith("CHAOS_") for run in runs for entry in run.get("env", ()))


def start_of(request: ContainerRequest) -> Start | None:
    """Who starts; None for a container that is not a job's `run`."""
    metadata: dict[str, Any] = request.pod["metadata"]
    job = metadata.get("annotations", {}).get(anatomy.ANNOTATION_JOB)
    if job is None or request.container["name"] != anatomy.RUN:
        return None
    attempt = int(metadata["labels"][anatomy.LABEL_ATTEMPT])
    lines = Script.of(_environment(request)).lines  # 0 without a script
    return Start(job, attempt, metadata["name"], metadata["uid"], anatomy.RUN, lines)


class ScriptedContainer:
    """One `run`."""

    def __init__(self, identity: str, start: Start, script: Script, folder: Path, ledger: LedgerWriter) -> None:
        self._loop = asyncio.get_running_loop()
        self.identity = identity
        self.started_at = time.time()
        self.exited: asyncio.Future[ContainerExit] = self._loop.create_future()
        self._start, self._script, self._ledger = start, script, ledger
        self._lines = log_lines(start.uid, start.container, start.lines)
        self._due = self._loop.time() + script.seconds
        self._written = 0
        self._stamp = 0
        self.log = ContainerLog(folder / "log")
        if script.lines:
            folder.mkdir(parents=True, exist_ok=True)
        ledger.started(start, self.started_at)
        self._last = self._loop.call_at(self._due, self._finish)
        self._next: asyncio.TimerHandle | None = None
        if script.lines and script.log_seconds:
            self._say(0)

    def signal(self, number: int) -> None:
        """SIGKILL ends it; every other signal, too, unless it is deaf."""
        if number == signal.SIGKILL or not self._script.deaf:
            self._end(_SIGNAL_BASE + number)

    def _say(self, number: int) -> None:
        """Write line `number`; the next one comes at its time, the last ones with the end."""
        if number >= self._script.lines:
            return
        self._write([next(self._lines)])
        begun = self._due - self._script.seconds
        following = begun + (number + 1) * self._script.log_seconds / self._script.lines
        self._next = self._loop.call_at(following, self._say, number + 1)

    def _finish(self) -> None:
        self._write(list(self._lines))
        self._end(self._script.exit_code)

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            with self.log.path.open("ab") as file:
                file.writelines(self._records(lines))
            self._written += sum(map(len, lines))
            self.log.grew()

    def _records(self, lines: list[bytes]) -> Iterator[bytes]:
        """As a container runtime writes them (see `devcluster.container_init`); times never go back."""
        self._stamp = max(self._stamp, time.time_ns())
        moment = datetime.fromtimestamp(self._stamp // 10**9, UTC)
        stamp = b"%s.%09dZ stdout " % (moment.strftime("%Y-%m-%dT%H:%M:%S").encode(), self._stamp % 10**9)
        for line in lines:
            content = line.removesuffix(b"\n")
            while len(content) > _RECORD_BYTES:
                yield stamp + b"P " + content[:_RECORD_BYTES] + b"\n"
                content = content[_RECORD_BYTES:]
            yield stamp + (b"F " if line.endswith(b"\n") else b"P ") + content + b"\n"

    def _end(self, code: int) -> None:
        if self.exited.done():
            return
        self._last.cancel()
        if self._next is not None:
            self._next.cancel()
        ended_at = time.time()
        self._ledger.ended(self._start.uid, self._start.container, code, self._written, ended_at)
        self.log.finish()
        self.exited.set_result(ContainerExit(code, self.started_at, ended_at))

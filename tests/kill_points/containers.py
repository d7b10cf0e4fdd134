"""Containers that print, end and crash as a script says, without a process; and a ledger of what they did."""

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from devcluster.container_log import ContainerLog
from devcluster.pod_fields import Role
from devcluster.resources import Object
from devcluster.runtime import Container, ContainerExit, ContainerRequest
from runner_spec import anatomy

_SIGNAL_BASE: Final = 128


@dataclass(slots=True)
class Start:
    """One start of a container: it prints `lines`, lasts, prints `last`, and exits; None: it lasts until it is told."""

    lines: tuple[str, ...] = ()
    seconds: float | None = 0.0
    exit_code: int = 0
    last: tuple[str, ...] = ()
    held: bool = False  # lasts until `ScriptedRuntime.release`, too
    unfinished: str = ""  # begun at the start, and never ended by a line's end


@dataclass(slots=True)
class Script:
    """What the containers of a job do. `run`: one start per attempt, the last one stands for all that follow.

    `services`: by name, one start after the other of each pod.
    """

    run: tuple[Start, ...] = (Start(("hello", "world"), 0.1),)
    services: Mapping[str, tuple[Start, ...]] = field(default_factory=dict)
    canceled: bool = False  # somebody asks to stop it
    deleted: bool = False  # its record is deleted: nothing is left of it
    masks: tuple[str, ...] = ()
    may_have_gaps: bool = False  # its log may declare that something is missing
    excuses: tuple[str, ...] = ()  # reasons for which it may fail although `run` ended well


@dataclass(slots=True)
class Ran:
    """One start of one container, as it happened. `exit_code` is None while it lasts."""

    job: str
    attempt: int
    container: str
    lines: list[str] = field(default_factory=list)
    exit_code: int | None = None


_BOUND_POLL_S: Final = 0.005

# Told of the job and the attempt: what checkout and upload do beside the worker.
Deed = Callable[[str, int], Awaitable[None]]


class ScriptedRuntime:
    """Looks up each job's script by its id; `checked_out` and `uploaded` are what these containers do at their end.

    `bound` says whether a pod is on its node as the API shows it. `DevCluster` writes that some time after the first
    containers have started; a pod that is deleted before then goes at once, and on a real cluster none of it ever runs.
    """

    def __init__(self, folder: Path, *, bound: Callable[[Object], bool], checked_out: Deed, uploaded: Deed) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._bound, self._checked_out, self._uploaded = bound, checked_out, uploaded
        self._numbers = itertools.count()
        self._running: set[ScriptedContainer] = set()
        self.scripts: dict[str, Script] = {}
        self.ledger: list[Ran] = []

    def uses_files(self, pod: Object) -> bool:  # noqa: ARG002 - of no pod
        """See `devcluster.runtime.Runtime`."""
        return False

    async def start(self, request: ContainerRequest) -> Container:
        """Start it, once its pod is on its node; cancelled when the pod goes before."""
        while not self._bound(request.pod):  # noqa: ASYNC110 - what the cluster stores has no event
            await asyncio.sleep(_BOUND_POLL_S)
        metadata, name = request.pod["metadata"], request.container["name"]
        job = metadata["annotations"][anatomy.ANNOTATION_JOB]
        attempt = int(metadata["labels"][anatomy.LABEL_ATTEMPT])
        ran = Ran(job, attempt, name)
        self.ledger.append(ran)
        script = self.scripts.get(job, Script())
        container = ScriptedContainer(self._folder / f"{next(self._numbers)}", ran, request.role)
        self._running.add(container)
        container.exited.add_done_callback(lambda _: self._running.discard(container))
        if name == anatomy.CHECKOUT:
            container.live(Start(("checked out",)), self._checked_out)
        elif name == anatomy.UPLOAD:
            container.live(Start(seconds=None), self._uploaded)
        elif request.role is Role.SIDECAR:
            starts = script.services.get(name, (Start(seconds=None),))
            container.live(starts[min(request.attempt, len(starts) - 1)])
        else:
            container.live(script.run[min(attempt, len(script.run)) - 1])
        return container

    def release(self, job: str = "") -> None:
        """Held containers go on: of one job, or all."""
        for container in list(self._running):
            if job in {"", container.ran.job}:
                container.released.set()

    def of(self, job: str, container: str = anatomy.RUN) -> list["ScriptedContainer"]:
        """The running containers of this name."""
        return [c for c in self._running if (c.ran.job, c.ran.container) == (job, container)]

    async def close(self) -> None:
        """End whatever still lasts."""
        for container in list(self._running):
            container.signal(signal.SIGKILL)


class ScriptedContainer:
    """One start."""

    def __init__(self, path: Path, ran: Ran, role: Role) -> None:
        self.identity = f"script://{path.name:0>64}"
        self.started_at = time.time()
        self.ran = ran
        self.log = ContainerLog(path)
        self.exited: asyncio.Future[ContainerExit] = asyncio.get_running_loop().create_future()
        self.released = asyncio.Event()
        self._sidecar = role is Role.SIDECAR
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def live(self, start: Start, deed: Deed | None = None) -> None:
        """Do what the script says."""
        self.say(*start.lines, unfinished=start.unfinished)
        self._task = asyncio.create_task(self._live(start, deed))

    async def _live(self, start: Start, deed: Deed | None) -> None:
        if start.seconds is None:
            await self._told.wait()
        else:
            await asyncio.sleep(start.seconds)
            if start.held:
                await self.released.wait()
        if deed is not None:
            await deed(self.ran.job, self.ran.attempt)
        self.say(*start.last)
        self._end(start.exit_code)

    def say(self, *lines: str, unfinished: str = "") -> None:
        """Print lines."""
        with self.log.path.open("ab") as file:
            for line in lines:
                file.write(_record(line, "F"))
            if unfinished:
                file.write(_record(unfinished, "P"))
        self.ran.lines += [*lines, *([unfinished] if unfinished else [])]
        self.log.grew()

    def rotate(self) -> None:
        """The kubelet rotates the log: what was printed so far cannot be read any more."""
        self.log.path.write_bytes(b"")

    def signal(self, number: int) -> None:
        """A sidecar ends in peace when asked; everything else dies of a signal."""
        if self._sidecar and number != signal.SIGKILL:
            self._told.set()
        else:
            if self._task is not None:
                self._task.cancel()
            self._end(_SIGNAL_BASE + number)

    def _end(self, code: int) -> None:
        if not self.exited.done():
            self.ran.exit_code = code
            self.log.finish()
            self.exited.set_result(ContainerExit(code, self.started_at, time.time()))


def _record(line: str, tag: str) -> bytes:
    """A line, or a part of one (`P`), as the kubelet writes it to the container's log file."""
    nanoseconds = time.time_ns()
    moment = datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{nanoseconds % 10**9:09d}Z stdout {tag} {line}\n".encode()

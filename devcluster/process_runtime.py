"""A runtime that runs each container as local processes: no image, no isolation, real signals, exit codes and logs."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from devcluster.container_log import ContainerLog, LogOptions, read_log
from devcluster.environment import expand
from devcluster.memory_cgroup import MemoryCgroup, MemoryCgroups
from devcluster.mounts import PathMap
from devcluster.quantity import parse_quantity, whole
from devcluster.resources import Object
from devcluster.runtime import Container, ContainerExit, ContainerRequest, Mount, StartError, StartRefusedError
from runner_spec import anatomy

_LOG: Final = logging.getLogger(__name__)
_INIT: Final = Path(__file__).with_name("container_init.py")
_READ_BYTES: Final = 64 * 1024
_NS: Final = 1_000_000_000
# How long `close` waits for killed containers; seconds. `container_init` itself gives up after 10.
_CLOSE_SECONDS: Final = 15.0
_REAP_SECONDS: Final = 0.01
_KILLED: Final = 128 + signal.SIGKILL
# The kubelet keeps this much of a termination message, and falls back to so much of the log (lines, bytes).
MESSAGE_BYTES: Final = 4096
_FALLBACK_LINES: Final = 80
_FALLBACK_BYTES: Final = 2048
# Of the developer's environment, what describes the machine; never what may hold a secret.
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


@dataclass(frozen=True, slots=True)
class Image:
    """What stands in for an image: extra variables, an own PATH, and the command of containers that name none."""

    env: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    command: tuple[str, ...] = ()


THIS_MACHINE: Final = Image()


class ProcessRuntime:
    """Runs containers as processes.

    `images` maps an image's name (exact, else a glob; the first match wins) to an `Image`, or to None for an image
    that cannot be pulled; every other name means `default`, by default this machine.
    """

    def __init__(
        self, images: Mapping[str, Image | None] | None = None, *, default: Image | None = THIS_MACHINE
    ) -> None:
        self._images = dict(images or {})
        self._default = default
        self._cgroups = MemoryCgroups()
        self._running: set[ProcessContainer] = set()

    def uses_files(self, pod: Object) -> bool:  # noqa: ARG002 - of every pod
        """See `Runtime.uses_files`."""
        return True

    def image(self, name: str) -> Image:
        """What stands in for an image.

        Raises:
            StartRefusedError: ErrImagePull, for an image that is mapped to None.
        """
        found = self._default
        if name in self._images:
            found = self._images[name]
        else:
            for pattern, image in self._images.items():
                if fnmatchcase(name, pattern):
                    found = image
                    break
        if found is None:
            message = f'failed to pull and unpack image "{name}": not found'
            raise StartRefusedError("ErrImagePull", message, permanent=True)
        return found

    async def start(self, request: ContainerRequest) -> Container:
        """Start a container's processes; see `Runtime.start`."""
        image = self.image(request.container["image"])
        for name in ("home", "tmp", "work"):
            (request.folder / name).mkdir(parents=True, exist_ok=True)
        message_file = request.folder / "termination-log"
        message_file.write_bytes(b"")
        message_file.chmod(0o666)
        paths = PathMap((*request.mounts, Mount(request.container["terminationMessagePath"], message_file)))
        orders: dict[str, Any] = {
            "command": self._command(request, image, paths),
            "env": _base_environment(request, image) | _places(request, paths) | paths.environment(request.environment),
            "folder": _working_folder(request, paths),
            "log": str(request.folder / f"{request.attempt}.log"),
        }
        limit = request.container["resources"].get("limits", {}).get("memory")
        cgroup = None
        if limit is not None:
            orders["memory_limit"] = size = whole(parse_quantity(limit))
            if cgroup := self._cgroups.create(size):
                orders["cgroup"] = cgroup.as_orders()
        container = ProcessContainer(request, orders, message_file, cgroup)
        self._running.add(container)
        container.exited.add_done_callback(lambda _: self._running.discard(container))
        try:
            await asyncio.shield(container.started)
        except asyncio.CancelledError:
            container.signal(signal.SIGKILL)  # nobody will ever hold a handle to it
            raise
        return container

    def _command(self, request: ContainerRequest, image: Image, paths: PathMap) -> list[str]:
        container = request.container
        command = container.get("command") or list(image.command)
        if not command:
            message = (
                f"no command specified: containers are local processes here and have no image entrypoint; give the "
                f"container {container['name']!r} a `command` (image {container['image']!r})"
            )
            raise StartRefusedError("RunContainerError", message, permanent=True)
        words = [expand(word, request.environment) for word in (*command, *container.get("args", ()))]
        return paths.words(words)

    async def close(self) -> None:
        """Kill everything and wait for its end."""
        running = list(self._running)
        for container in running:
            container.signal(signal.SIGKILL)
        if running:
            _, stuck = await asyncio.wait([c.exited for c in running], timeout=_CLOSE_SECONDS)
            if stuck:
                _LOG.error("%d containers did not end within %s s of SIGKILL", len(stuck), _CLOSE_SECONDS)


class ProcessContainer:
    """One container: the pipes to its `container_init`, and what it reports."""

    def __init__(
        self, request: ContainerRequest, orders: dict[str, Any], message_file: Path, cgroup: MemoryCgroup | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.identity = f"process://{uuid.uuid4().hex}"
        self.started_at = 0.0
        self.started: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[ContainerExit] = loop.create_future()
        self.log = ContainerLog(Path(orders["log"]))
        self._policy = request.container["terminationMessagePolicy"]
        self._message_file = message_file
        self._cgroup = cgroup
        self._loop = loop
        self._outgoing = b""
        self._incoming = b""
        self._result: dict[str, Any] | None = None
        # The pipes are closed, a while before `exited`: their numbers may be those of somebody else's connection.
        self._gone = False
        self._process = _spawn()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._control = self._process.stdin.fileno()
        self._reports = self._process.stdout.fileno()
        os.set_blocking(self._control, False)
        os.set_blocking(self._reports, False)
        loop.add_reader(self._reports, self._read)
        self._send(json.dumps(orders).encode() + b"\n")

    def signal(self, number: int) -> None:
        """Send a signal to the main process, or SIGKILL to all."""
        if not self._gone:
            self._send(b"%d\n" % number)

    def _send(self, data: bytes) -> None:
        if not self._outgoing:
            self._loop.add_writer(self._control, self._write)
        self._outgoing += data

    def _write(self) -> None:
        # Never blocking: orders may be larger than a pipe, and the init reads them only once it is up.
        try:
            self._outgoing = self._outgoing[os.write(self._control, self._outgoing) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outgoing = b""
        if not self._outgoing:
            self._loop.remove_writer(self._control)

    def _read(self) -> None:
        try:
            data = os.read(self._reports, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._reports)
            self._reap()
            return
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for line in lines:
            if line != b".":
                self._reported(json.loads(line))
        self.log.grew()

    def _reported(self, facts: dict[str, Any]) -> None:
        if "started" in facts:
            self.started_at = facts["at"] / _NS
            if not self.started.done():
                self.started.set_result(None)
        elif "error" in facts:
            self._fail(StartError(facts["error"]))
        else:
            self._result = facts

    def _fail(self, error: Exception) -> None:
        if not self.started.done():
            self.started.set_exception(error)
            self.started.exception()  # retrieved: a canceled starter must not leave a warning behind

    def _reap(self) -> None:
        """Once the report pipe has ended the init is about to exit: collect it without a thread or a signal handler."""
        if self._process.poll() is None:
            self._loop.call_later(_REAP_SECONDS, self._reap)
            return
        if self._outgoing:
            self._outgoing = b""
            self._loop.remove_writer(self._control)
        self._gone = True
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._fail(StartError("container init ended before the command was started"))
        self._loop.create_task(self._finish()).add_done_callback(_raise_nothing)

    async def _finish(self) -> None:
        facts = self._result or {"exit": _KILLED, "oom": False, "log_error": "", "at": 0}
        finished_at = (facts["at"] / _NS) if facts["at"] else self.started_at
        message = ""
        try:
            message = facts["log_error"] or await self._termination_message(facts["exit"])
        except OSError as error:
            message = f"Error on reading termination log {self._message_file.name}: {error.strerror}"
        if self._result is None:
            message = message or "the container's init process was killed"
        if self._cgroup is not None:
            self._cgroup.remove()
        self.log.finish()
        self.exited.set_result(
            ContainerExit(facts["exit"], self.started_at, finished_at, oom=facts["oom"], message=message)
        )

    async def _termination_message(self, code: int) -> str:
        with self._message_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MESSAGE_BYTES))
            data = file.read(MESSAGE_BYTES)
        if not data and self._policy == "FallbackToLogsOnError" and code != 0:
            options = LogOptions(tail=_FALLBACK_LINES)
            data = b"".join([chunk async for chunk in read_log(self.log, options)])[-_FALLBACK_BYTES:]
        return data.decode("utf-8", "replace")


def _raise_nothing(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("a container's end could not be recorded", exc_info=error)


def _spawn() -> "subprocess.Popen[bytes]":
    # -I -S -E: nothing of the developer's Python setup is loaded; the start takes about 20 ms.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-E", "-X", "utf8", str(_INIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        start_new_session=True,
    )


def _base_environment(request: ContainerRequest, image: Image) -> dict[str, str]:
    values = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    values.setdefault("PATH", os.defpath)
    values.setdefault("LANG", "C.UTF-8")
    values |= {
        "HOSTNAME": request.pod["metadata"]["name"],
        "HOME": str(request.folder / "home"),
        "TMPDIR": str(request.folder / "tmp"),
    }
    values |= image.env
    if image.path is not None:
        values["PATH"] = image.path
    return values


def _places(request: ContainerRequest, paths: PathMap) -> dict[str, str]:
    """The variables that say where dynapod's own containers find what is mounted: their manifests name none.

    In a real pod the mount paths are where the runner and the shim look without being told. Services look nowhere.
    """
    if not any(mount.path == anatomy.PLAN_PATH for mount in request.mounts):
        return {}
    return {name: found for name, path in anatomy.PATHS.items() if (found := paths.path(path)) != path}


def _working_folder(request: ContainerRequest, paths: PathMap) -> str:
    if folder := request.container.get("workingDir"):
        return paths.path(folder)
    return str(request.folder / "work")

"""A runtime for load tests: containers that only last. No process, an empty log, no file; one timer per container."""

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Final

from devcluster.container_log import ContainerLog
from devcluster.pod_fields import Role
from devcluster.resources import Object
from devcluster.runtime import Container, ContainerExit, ContainerRequest

_SIGNAL_BASE: Final = 128


class SleepRuntime:
    """Main containers last `seconds` and succeed; init containers succeed at once; sidecars wait for their signal."""

    def __init__(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"seconds={seconds}: a container cannot last less than 0 seconds")
        self._seconds = seconds
        self._numbers = itertools.count()
        self._running: set[SleepContainer] = set()

    def uses_files(self, pod: Object) -> bool:  # noqa: ARG002 - of no pod
        """See `Runtime.uses_files`."""
        return False

    async def start(self, request: ContainerRequest) -> Container:
        """Start the timer."""
        seconds = {Role.INIT: 0.0, Role.SIDECAR: None, Role.MAIN: self._seconds}[request.role]
        container = SleepContainer(f"sleep://{next(self._numbers):064x}", seconds)
        self._running.add(container)
        container.exited.add_done_callback(lambda _: self._running.discard(container))
        return container

    async def close(self) -> None:
        """End whatever still lasts."""
        for container in list(self._running):
            container.signal(signal.SIGKILL)


class SleepContainer:
    """Lasts, then exits with 0. A sidecar obeys SIGTERM with 0, as `upload` does; a main one dies of it (143)."""

    def __init__(self, identity: str, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.identity = identity
        self.started_at = time.time()
        self.log = ContainerLog(Path(os.devnull))
        self.exited: asyncio.Future[ContainerExit] = loop.create_future()
        self._sidecar = seconds is None
        self._timer: asyncio.TimerHandle | None = None
        if seconds == 0:
            self._end(0)
        elif seconds is not None:
            self._timer = loop.call_later(seconds, self._end, 0)

    def signal(self, number: int) -> None:
        """Every signal ends it."""
        self._end(0 if self._sidecar and number != signal.SIGKILL else _SIGNAL_BASE + number)

    def _end(self, code: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.exited.done():
            self.log.finish()
            self.exited.set_result(ContainerExit(code, self.started_at, time.time()))

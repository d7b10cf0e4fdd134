"""What the kubelet asks of whatever runs containers: the one protocol behind processes and sleeping stand-ins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from devcluster.container_log import ContainerLog
from devcluster.pod_fields import Role
from devcluster.resources import Object

if TYPE_CHECKING:
    import asyncio


class StartRefusedError(Exception):
    """A container that cannot be started. `reason` is the waiting reason that the pod's status shows.

    `permanent` ones stay as they are until the pod is deleted (an image that does not exist); the others are tried
    again (a secret that may still be created).
    """

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent


class StartError(Exception):
    """The container was made and its command could not be started: it ends with exit code 128, reason StartError."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One volume as a container sees it: `host` is what stands behind `path`."""

    path: str
    host: Path


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """Everything needed to start one container once. `folder` is the container's own, below the pod's."""

    pod: Object
    role: Role
    container: Mapping[str, Any]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    folder: Path
    attempt: int = 0  # number of restarts before this start


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """How a container ended; `code` is 128+N when signal N killed it. Times in unix seconds."""

    code: int
    started_at: float
    finished_at: float
    oom: bool = False
    message: str = ""


class Container(Protocol):
    """A started container."""

    @property
    def identity(self) -> str:
        """The `containerID`, with its scheme."""

    @property
    def started_at(self) -> float:
        """Unix seconds."""

    @property
    def exited(self) -> "asyncio.Future[ContainerExit]":
        """Resolved once everything of the container is gone and its log is complete. Never cancelled."""

    @property
    def log(self) -> ContainerLog | None:
        """Its output; None where the runtime keeps none."""

    def signal(self, number: int) -> None:
        """Send a signal to the main process; SIGKILL goes to everything in the container. No effect after the end."""


class Runtime(Protocol):
    """Starts containers."""

    def uses_files(self, pod: Object) -> bool:
        """Whether the pod's volumes, environment and probes are real. If not, the kubelet prepares none of them."""

    async def start(self, request: ContainerRequest) -> Container:
        """Start one container.

        Raises:
            StartRefusedError: it cannot be made.
            StartError: it was made, and its command cannot be executed.
        """

    async def close(self) -> None:
        """Kill whatever still runs, and wait for its end."""

"""What a pod's worker shares with its kubelet: the node it runs on, and the record of each container."""

from typing import TYPE_CHECKING, Any, Protocol

from devcluster.environment import Lookup
from devcluster.pod_fields import Role
from devcluster.pod_status import ContainerView, Waiting
from devcluster.resources import Object
from devcluster.runtime import Container, Runtime

if TYPE_CHECKING:
    from devcluster.container_log import ContainerLog


class Node(Protocol):
    """What a pod's worker needs from its kubelet."""

    name: str
    capacity: dict[str, int]
    runtime: Runtime
    retry_seconds: float
    back_off_seconds: float

    def pod(self, uid: str) -> Object | None:
        """The pod as the API has it now."""

    def lookup(self, namespace: str) -> Lookup:
        """Secrets and config maps of a namespace."""

    def write_status(self, uid: str, status: dict[str, Any]) -> None:
        """Store a pod's status."""

    def finish_deletion(self, uid: str) -> None:
        """The pod has ended and was to be deleted."""

    def record(self, pod: Object, reason: str, message: str, *, container: str = "", warning: bool = False) -> None:
        """Write an Event."""


class ContainerRecord:
    """One container of the pod over all its starts."""

    def __init__(self, role: Role, spec: dict[str, Any], waiting: str) -> None:
        self.spec = spec
        self.view = ContainerView(spec["name"], role, spec["image"], Waiting(waiting))
        self.container: Container | None = None
        self.logs: list[ContainerLog | None] = []  # one per start

    @property
    def live(self) -> bool:
        """Whether something of it runs."""
        return self.container is not None and not self.container.exited.done()

    @property
    def field_path(self) -> str:
        """As events name the container."""
        kind = "containers" if self.view.role is Role.MAIN else "initContainers"
        return f"spec.{kind}{{{self.view.name}}}"

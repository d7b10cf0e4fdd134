"""What was asked of the API and, on request, what goes wrong: the audit log and scripted faults."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from devcluster.status_error import StatusError

# Entries kept; a long-lived cluster must not grow without bound.
KEPT_ENTRIES: Final = 200_000
MUTATING: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class AuditEntry(NamedTuple):
    """One mutating request that was answered, at `at` (Unix seconds). `resource` holds a subresource too."""

    verb: str
    namespace: str
    name: str
    code: int
    user_agent: str
    resource: str  # `pods`, `pods/status`
    at: float


class AuditLog:
    """The last mutating requests, oldest first."""

    def __init__(self, kept: int = KEPT_ENTRIES) -> None:
        self._entries: deque[AuditEntry] = deque(maxlen=kept)

    def add(self, entry: AuditEntry) -> None:
        """Remember a request."""
        self._entries.append(entry)

    def entries(self) -> list[AuditEntry]:
        """A copy."""
        return list(self._entries)


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a request is about, for those who script faults; verbs as in audit logs (get, list, watch, create)."""

    verb: str
    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request.

    `delay`: seconds before it is processed. `error`: it is answered with this, not processed. `lose_reply`: it is
    processed, and the connection is closed without an answer. `cut_after`: the connection is cut after so many
    seconds (watches, logs).
    """

    delay: float = 0.0
    error: StatusError | None = None
    lose_reply: bool = False
    cut_after: float | None = None


# Asked about every request to a resource; None lets it pass.
FaultPlan = Callable[[RequestFacts], Fault | None]

"""What can go wrong on the way to the Kubernetes API and to Redis: the words of the proxies' plans.

A plan answers each request with one of these, or with None. All times are seconds. "Closed" is a connection that ends
(FIN) without an answer, "reset" one that ends with RST.

aiohttp's client, and so the adapter, sends GET and DELETE once more by itself when a connection that was used before
ends without an answer. The plan is asked about the second one, too.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The request never reaches the server; the connection is closed."""


@dataclass(frozen=True, slots=True)
class DropReply:
    """The request takes effect; after `seconds` more the connection is closed without an answer."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DelayRequest:
    """The request reaches the server so much later, a write also if its client is gone by then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DelayReply:
    """The request takes effect at once, its answer arrives so much later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset after `after_bytes` of the answer's body, and before its last byte.

    A watch or a log that ends sooner is not touched; otherwise the reset never comes at the end of a line: one byte
    less is sent then. Redis: half of what the server sends first is forwarded, or `after_bytes` if that is less.
    """

    after_bytes: int


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """From `after_seconds` on nothing is forwarded, as behind a firewall that forgot; `seconds` later comes a reset.

    Kubernetes: watches and logs. Redis: the request is lost, and `after_seconds` is not looked at.
    """

    seconds: float
    after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The request is sent twice, one after the other, as by a load balancer that lost an answer; not for streams.

    The client gets the answer named by `answer`. There is none for Redis: over one TCP connection nothing repeats a
    command, and nothing between client and server knows enough of RESP to do it.
    """

    answer: Literal["first", "second"] = "second"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answered by a Status object with this code, not processed.

    429, 500, 503, 504; and 409 for a create only, in the words of a quota whose usage somebody else wrote meanwhile
    (of a delete, 409 is a fact about the pod: a server never invents it). `retry_after`: whole seconds, or None
    for an answer without Retry-After.
    """

    code: Literal[409, 429, 500, 503, 504]
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """A watch or a log ends cleanly after so many seconds, as if all were said. A watch: at the end of an event."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """A watch or a log is reset after so many seconds, wherever it is."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class Expire:
    """A watch's resourceVersion is too old: HTTP 410 at once, or (`after_seconds`) an ERROR event in the stream."""

    after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A watch gets the last `count` events again, as they were sent by it or by an earlier watch of the same query.

    They keep their old resourceVersions, and may show pods that are gone. DELETED events are left out unless
    `deletions`; bookmarks always. The stream goes on afterwards.
    """

    count: int
    after_seconds: float = 0.0
    deletions: bool = False


@dataclass(frozen=True, slots=True)
class Rewind:
    """A watch begins `versions` before the resourceVersion that was asked for.

    The client sees old events again, or gets 410 where the server has forgotten them. There is no stale LIST: a real
    server answers one without resourceVersion (as ours are) from a quorum of etcd, never from an old copy.
    """

    versions: int


@dataclass(frozen=True, slots=True)
class Stall:
    """The whole proxy forwards nothing for so many seconds, this request included; all connections stay."""

    seconds: float


KubernetesFault: TypeAlias = (
    DropRequest
    | DropReply
    | DelayRequest
    | DelayReply
    | Reset
    | HalfOpen
    | Duplicate
    | Refuse
    | Close
    | Cut
    | Expire
    | Replay
    | Rewind
)
RedisFault: TypeAlias = DropRequest | DropReply | DelayRequest | DelayReply | Reset | HalfOpen | Stall

"""What can go wrong between a worker and its queue."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from adapters.redis_server import RedisError


class QueueError(Exception):
    """Base of this package's errors; `temporary` says whether the same call may succeed later."""

    temporary: ClassVar[bool] = False


class QueueUnavailable(QueueError):  # noqa: N818 - names a state of the queue
    """Redis gave no answer, or one that says "not now".

    The call may or may not have taken effect; every call of `JobQueue` may be repeated: what it did before is found
    again by `adopt`.
    """

    temporary = True


class QueueRefused(QueueError):  # noqa: N818 - as above
    """Redis answered with an error that will come back: a key of the wrong type, missing permissions."""


class LogsForgotten(QueueError):  # noqa: N818 - as above
    """Logs that were complete are so no more: a failover has lost their last writes. Store them again, then settle."""


class LeaseLost(QueueError):  # noqa: N818 - as above
    """This incarnation is over: others have taken over its executions, or were told to.

    Let go of all pods without touching them, and go on with a new `JobQueue` under a new name.
    """


@contextmanager
def queue_errors() -> Iterator[None]:
    """Raise the adapter's errors as this package's.

    Raises:
        QueueUnavailable: temporary.
        LeaseLost: a script found that the own lease is not live.
        QueueRefused: permanent.
    """
    try:
        yield
    except RedisError as error:
        if error.temporary:
            raise QueueUnavailable(str(error)) from error
        if "LEASE " in str(error):
            raise LeaseLost(
                "The lease of this incarnation is not live; its executions may belong to others."
            ) from error
        raise QueueRefused(str(error)) from error

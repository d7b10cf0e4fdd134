"""How Redis' failures are named, and which of them may pass by themselves.

redis-py's classes mix "no answer", "not now" and "never"; what a worker does next depends on nothing but that.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

from redis import exceptions

# Raised by a watched transaction when somebody else wrote in between; part of the protocol, not a failure.
WatchConflict = exceptions.WatchError
# The script cache of a restarted or failed-over server is empty.
ScriptMissing = exceptions.NoScriptError

# Errors of a server that is starting, failing over, full or unable to write its log: the same call may succeed later.
# UNBLOCKED: a primary that became a replica wakes up who was blocked on it. NOREPLICAS: `min-replicas-to-write`.
TEMPORARY_REPLIES: Final = (
    "LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "MISCONF", "OOM", "BUSY", "UNBLOCKED", "NOREPLICAS",
)  # fmt: skip
# Redis 6.2 wraps what a command in a script was refused for: `Error running script (call to f_…): @user_script:1:
# @user_script: 1: -READONLY You can't write against a read only replica.` Redis 7 says it first.
SCRIPT_ERROR: Final = "Error running script"
NO_PERMISSION: Final = "NOPERM"
ACL_REMEDY: Final = (
    "Redis' access list does not allow this to the user of the URL. Give the user the rights of docs/redis-users.acl "
    "(`ACL SETUSER`); `ACL LOG` on the server names the command, the key and the user"
)
TLS_REMEDY: Final = (
    "Check the URL's ssl_ca_certs (who signed the server's certificate), ssl_certfile and ssl_keyfile, and whether the "
    "certificate names the URL's host"
)


class RedisError(Exception):
    """Redis did not do what it was asked; `temporary` says whether the same call may succeed later."""

    temporary: ClassVar[bool] = False


class RedisUnavailable(RedisError):  # noqa: N818 - a state, like the built-in BlockingIOError's siblings in this project
    """No answer, or one that says "not now": the command may or may not have been executed."""

    temporary = True


class RedisRefused(RedisError):  # noqa: N818 - as above
    """The server answered with an error that will come back: wrong password, wrong type of a key, unknown command."""


class BadRedisURL(RedisError, ValueError):  # noqa: N818 - as above
    """The URL cannot be used."""


def translate(error: exceptions.RedisError | OSError) -> RedisError:
    """Our error for redis-py's; raise it `from` the original."""
    if (fault := _tls_fault(error)) is not None:
        return RedisRefused(f"TLS with Redis failed: {fault}. {TLS_REMEDY}.")
    # An authentication error is a connection's error to redis-py, since it comes up while connecting.
    if isinstance(error, exceptions.AuthenticationError | exceptions.DataError | exceptions.InvalidResponse):
        return RedisRefused(f"Redis refused: {error}")
    if isinstance(error, exceptions.NoPermissionError) or NO_PERMISSION in str(error):
        return RedisRefused(f"Redis refused: {str(error).rstrip('.')}. {ACL_REMEDY}.")
    if isinstance(error, exceptions.ResponseError) and not isinstance(error, exceptions.BusyLoadingError):
        kind: type[RedisError] = RedisUnavailable if _is_temporary(error) else RedisRefused
        return kind(f"Redis refused: {error}")
    return RedisUnavailable(f"Redis gave no answer: {error}")


def _is_temporary(error: exceptions.ResponseError) -> bool:
    if isinstance(error, exceptions.ReadOnlyError | exceptions.OutOfMemoryError | exceptions.TryAgainError):
        return True
    text = str(error)
    if text.startswith(SCRIPT_ERROR):
        return any(re.search(rf": -?{word}\b", text) for word in TEMPORARY_REPLIES)
    return text.startswith(TEMPORARY_REPLIES)


def _tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind it that will come back: a certificate or a protocol, not a connection that broke.

    redis-py raises its own error while it handles the original.
    """
    passing = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError, ssl.SSLWantReadError)
    for _ in range(8):  # chains are short; a cycle must not hang
        if error is None or (isinstance(error, ssl.SSLError) and not isinstance(error, passing)):
            return error
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours; `WatchConflict` and `ScriptMissing` pass, they belong to the protocol.

    Raises a cancellation, too, that the block has swallowed: redis-py 8.1 sends with `asyncio.wait_for`, and Python
    3.11's returns the result instead of raising when the cancellation comes just as the sending is done. A loop
    around such a call would never end.

    Raises:
        RedisUnavailable: temporary; the command may have been executed.
        RedisRefused: permanent.
    """
    before = _cancellations()
    try:
        yield
    except (WatchConflict, ScriptMissing):
        raise
    except (exceptions.RedisError, OSError) as error:
        raise translate(error) from error
    if _cancellations() > before:
        raise asyncio.CancelledError


def _cancellations() -> int:
    """How often the current task has been cancelled; 0 in a thread without a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return task.cancelling() if task else 0

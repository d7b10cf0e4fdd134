"""A request that is answered with an error: the status, a word for programs, a sentence and a remedy for people."""

import json
from typing import Final

from aiohttp import web

# How long a client is asked to wait when something behind the gateway is away or busy.
RETRY_AFTER_S: Final = 5


class Problem(Exception):  # noqa: N818 - an answer as much as an error (RFC 9457 calls it that)
    """Raised by handlers, turned into `{"error", "remedy", "reason"}` by the middleware.

    `reason` is a stable word: it labels the refusals in the metrics and the log. `retry_after` is in seconds.
    """

    def __init__(self, status: int, reason: str, error: str, remedy: str, *, retry_after: int | None = None) -> None:
        super().__init__(f"{status} {reason}: {error}")
        self.status = status
        self.reason = reason
        self.error = error
        self.remedy = remedy
        self.retry_after = retry_after

    def response(self) -> web.Response:
        """The answer to send."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        body = {"error": self.error, "remedy": self.remedy, "reason": self.reason}
        return web.Response(status=self.status, text=json.dumps(body), content_type="application/json", headers=headers)


def malformed(error: str, remedy: str) -> Problem:
    """400: the request cannot be understood; sending it again will not help."""
    return Problem(400, "malformed", error, remedy)


def too_large(what: str, limit: int, setting: str) -> Problem:
    """413: over the operator's quota of `limit` bytes for one object, set by `setting`."""
    error = f"{what} exceeds the quota of {limit} bytes"
    return Problem(413, "quota", error, f"Make it smaller, or ask the operator to raise {setting}.")


def unavailable(reason: str, error: str) -> Problem:
    """503: something behind the gateway is away or busy; the same request may succeed later."""
    return Problem(503, reason, error, "Try again later.", retry_after=RETRY_AFTER_S)

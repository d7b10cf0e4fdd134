"""The gateway's client: the requests of `runner_spec.transfer`, over http.client, with retries."""

import http.client
import json
import math
import select
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote, urlencode, urlsplit

from runner.errors import JobFaultError, TemporaryError
from runner.retry import RetryPolicy
from runner_spec import transfer

TIMEOUT_SECONDS: Final = 60.0  # without a byte sent or received
ANSWER_LIMIT_BYTES: Final = 64 * 1024
UNAUTHORISED_ATTEMPTS: Final = 3  # the kubelet may be replacing the token just now; more than that is no accident
_UNAUTHORISED: Final = 401
_AGAIN: Final = frozenset({408, 422, 425, 429})  # and 5xx; 422 is a seal that does not match: damaged on the way

Body = Callable[[], Iterable[bytes]]  # called anew for each attempt


class GatewayAwayError(TemporaryError):
    """The gateway did not answer, or asked to come back later, until patience ran out."""

    def __init__(self, message: str) -> None:
        super().__init__("gateway", message)


class GatewayRefusedError(TemporaryError):
    """The gateway refuses this request and would do so again; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("gateway", message)
        self.status = status


class BudgetError(JobFaultError):
    """The gateway was there all the time, but the upload budget is over."""

    def __init__(self) -> None:
        super().__init__("budget", "the upload budget is over: upload less, or ask for a larger budget")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: HTTP status, and the body (shortened to 64 KiB)."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A cache entry on its way in: `body` is the sealed archive; close it when done."""

    key: str
    archive: str
    body: http.client.HTTPResponse


class Gateway:
    """One connection to the gateway, kept open between requests. Not for use by two threads at once.

    Args:
        url: base URL, http or https.
        token: the identity token's file; None where the gateway asks for none.
        policy: how failures are repeated.
        name: `host:port` for the Host header, where the URL has an address in place of the name; else empty.
    """

    def __init__(self, url: str, token: Path | None, policy: RetryPolicy, *, name: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise TemporaryError("gateway", f"gateway address {url!r} is not an http or https URL")
        self._url = url
        self._host, self._port, self._tls = parts.hostname, parts.port, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._name = name
        self._token = token
        self._policy = policy
        self._connection: http.client.HTTPConnection | None = None
        self._spent = False  # half a body was sent: the connection ends with the answer
        self._trouble = ""  # why something had to be sent again, at last

    # --- requests ---------------------------------------------------------------------------------------------------

    def put_masks(self, values: Iterable[str]) -> None:
        """Send base64 values for the worker to mask in this attempt's logs."""
        self._put_json(transfer.MASKS_PATH, json.dumps({"values": list(values)}), deadline=None)

    def put_manifest(self, report: str, deadline: float) -> None:
        """Store the upload's full report, JSON."""
        self._put_json(transfer.MANIFEST_PATH, report, deadline=deadline)

    def put_artifact(self, artifact: str, path: str, body: Body, size: int, deadline: float) -> Answer:
        """Store one file; `body` gives sealed content, `size` counts it with the seal."""
        target = f"{transfer.ARTIFACTS_PATH}/{quote(artifact, safe='')}/{quote_from_bytes(path.encode(), safe='/')}"
        headers = {"Content-Type": transfer.SEALED_TYPE, "Content-Length": str(size)}
        return self._request("PUT", target, headers, body, deadline=deadline)

    def has_cache(self, key: str, deadline: float) -> bool:
        """Whether an entry with exactly this key is stored."""
        target = f"{transfer.CACHES_PATH}/{quote(key, safe='')}"
        return self._request("HEAD", target, {}, deadline=deadline, expected={404}).status != http.client.NOT_FOUND

    def put_cache(self, key: str, archive: str, body: Body, deadline: float) -> Answer:
        """Store an entry of unknown size; 201 when stored, 200 when another job was faster."""
        target = f"{transfer.CACHES_PATH}/{quote(key, safe='')}"
        headers = {
            "Content-Type": transfer.SEALED_TYPE,
            transfer.ARCHIVE_FORMAT_HEADER: archive,
            "Transfer-Encoding": "chunked",
        }
        return self._request("PUT", target, headers, body, deadline=deadline)

    def get_cache(self, key: str, fallback: Iterable[str]) -> CacheEntry | None:
        """The entry with this key, else the newest under the first prefix that has one; None when there is none.

        Raises:
            GatewayAwayError, GatewayRefusedError: as every request here.
        """
        query = urlencode([("key", key), *(("fallback", prefix) for prefix in fallback)])
        response = self._patiently(
            lambda: self._open("GET", f"{transfer.CACHES_PATH}?{query}", {}, None, None), None, {404}
        )
        if response.status == http.client.NOT_FOUND:
            response.read(ANSWER_LIMIT_BYTES)
            return None
        archive = response.headers.get(transfer.ARCHIVE_FORMAT_HEADER, "")
        found = response.headers.get(transfer.CACHE_KEY_HEADER)
        return CacheEntry(key if found is None else unquote(found), archive, response)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection:
            self._connection.close()
            self._connection = None

    # --- transport --------------------------------------------------------------------------------------------------

    def _put_json(self, path: str, text: str, *, deadline: float | None) -> None:
        data = text.encode("utf-8", "backslashreplace")
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        self._request("PUT", path, headers, lambda: [data], deadline=deadline)

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        *,
        deadline: float | None,
        expected: Iterable[int] = (),
    ) -> Answer:
        def attempt() -> http.client.HTTPResponse:
            return self._open(method, path, headers, body, deadline)

        response = self._patiently(attempt, deadline, frozenset(expected))
        return Answer(response.status, self._read(response))

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The body, as far as 64 KiB and the connection reach: the status, which has arrived, decides alone."""
        try:
            data = response.read(ANSWER_LIMIT_BYTES)
        except (OSError, http.client.HTTPException):
            data = b""
        if self._spent or not response.isclosed():
            response.close()
            self.close()
        return data

    def _patiently(
        self, attempt: Callable[[], http.client.HTTPResponse], deadline: float | None, expected: Iterable[int]
    ) -> http.client.HTTPResponse:
        """Repeat until an answer decides, the policy is exhausted or the deadline (monotonic seconds) is reached."""
        delays = self._policy.delays()
        unauthorised, problem = 0, ""
        while True:
            wait = 0.0
            try:
                response = self._try(attempt, deadline)
            except BudgetError as error:
                if problem:  # the time went into retries
                    raise GatewayAwayError(f"the gateway at {self._url} is away: {problem}") from error
                if self._trouble:  # into retries of what was sent before: the job must not be blamed for these either
                    message = f"the gateway at {self._url} was away for a part of the upload budget: {self._trouble}"
                    raise GatewayAwayError(message) from error
                raise
            if isinstance(response, str):
                problem = response
            elif response.status < http.client.MULTIPLE_CHOICES or response.status in expected:
                return response
            else:
                problem, wait = self._problem(response), _retry_after(response)
                unauthorised += response.status == _UNAUTHORISED
                if not _worth_another(response.status, unauthorised):
                    raise GatewayRefusedError(response.status, f"the gateway refuses: {problem}")
            delay = max(next(delays, math.inf), wait)
            if delay == math.inf or (deadline is not None and time.monotonic() + delay >= deadline):
                raise GatewayAwayError(f"the gateway at {self._url} is away: {problem}")
            self._trouble = problem
            time.sleep(delay)

    def _try(
        self, attempt: Callable[[], http.client.HTTPResponse], deadline: float | None
    ) -> http.client.HTTPResponse | str:
        """An answer, or why there is none; the connection survives answers only."""
        _check_budget(deadline)
        try:
            return attempt()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return f"{type(error).__name__}: {error}"
        except BaseException:
            self.close()  # the body's source failed half-way
            raise

    def _open(
        self, method: str, path: str, headers: Mapping[str, str], body: Body | None, deadline: float | None
    ) -> http.client.HTTPResponse:
        timeout = TIMEOUT_SECONDS if deadline is None else min(TIMEOUT_SECONDS, deadline - time.monotonic())
        connection = self._connect(max(1.0, timeout))
        self._spent = False
        # HTTP allows one Host only, and http.client would send the address.
        connection.putrequest(method, self._prefix + path, skip_host=bool(self._name), skip_accept_encoding=True)
        host = {"Host": self._name} if self._name else {}
        for name, value in {**host, **headers, **self._authorization()}.items():
            connection.putheader(name, value)
        connection.endheaders()
        if body is not None:
            self._send(connection, body(), chunked="Transfer-Encoding" in headers, deadline=deadline)
        return connection.getresponse()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=timeout)
        elif self._connection.sock:
            self._connection.sock.settimeout(timeout)
        return self._connection

    def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        # Read each time: the kubelet replaces the file before the token expires.
        return {"Authorization": "Bearer " + self._token.read_text(encoding="ascii").strip()}

    def _send(
        self, connection: http.client.HTTPConnection, chunks: Iterable[bytes], *, chunked: bool, deadline: float | None
    ) -> None:
        """Send the body, unless the answer comes first (413, say): then stop, and let the caller read it."""
        try:
            for chunk in chunks:
                _check_budget(deadline)
                if not self._tls and select.select([connection.sock], [], [], 0)[0]:
                    # TLS sockets are readable for reasons of their own (session tickets).
                    self._spent = True
                    return
                connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if chunked:
                connection.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # The server has answered and closed without reading on. Its answer, if any, is in the socket's buffer;
            # if not, getresponse raises and the request is retried.
            self._spent = True

    def _problem(self, response: http.client.HTTPResponse) -> str:
        text = self._read(response).decode("utf-8", "replace")
        try:
            data = json.loads(text)
            said = ". ".join(str(data[name]) for name in ("error", "remedy") if data.get(name))
        except (ValueError, TypeError, AttributeError):
            said = text.strip()
        return f"HTTP {response.status} {said[:500]}".strip()


def _check_budget(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise BudgetError


def _worth_another(status: int, unauthorised: int) -> bool:
    if status == _UNAUTHORISED:
        return unauthorised < UNAUTHORISED_ATTEMPTS
    return status in _AGAIN or status >= http.client.INTERNAL_SERVER_ERROR


def _retry_after(response: http.client.HTTPResponse) -> float:
    """Seconds; 0 when absent or in the form of a date, which the gateway does not use."""
    value = response.headers.get("Retry-After", "")
    return min(60.0, float(value)) if value.isascii() and value.isdigit() else 0.0

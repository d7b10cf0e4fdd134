"""A proxy in front of a Kubernetes API server: it does to requests for pods what a plan says.

Everything else passes as it is, byte for byte; watches and logs as they come. What upgrades its connection (exec,
attach, port-forward) is not served. Where the upstream wants a client certificate the proxy presents its own, and all
who come through it are that user.
"""

import asyncio
import json
import re
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Self, TypeAlias

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from devcluster.status_error import StatusError, conflict, expired
from tests.chaos.event_stream import TIMED, EventHistory, Stream
from tests.chaos.faults import (
    Close,
    Cut,
    DelayReply,
    DelayRequest,
    DropReply,
    DropRequest,
    Duplicate,
    Expire,
    HalfOpen,
    KubernetesFault,
    Refuse,
    Replay,
    Reset,
    Rewind,
)
from tests.chaos.kubeconfig import client_tls, current, pointed_at
from tests.chaos.listener import HOST, Listener, reset

Json = dict[str, Any]

_PODS: Final = re.compile(r"/api/v1/(?:namespaces/([^/]+)/)?pods(?:/([^/]+))?(?:/([^/]+))?$")
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_STREAMED: Final = frozenset({"watch", "log"})
_NOT_FOR_STREAMS: Final = (Duplicate,)
_STREAMS_ONLY: Final = (HalfOpen, Close, Cut)
_WATCHES_ONLY: Final = (Expire, Replay, Rewind)
# They belong to one connection (RFC 9110, 7.6.1), or are made anew.
_OF_A_HOP: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_OWN_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_CONNECT_TIMEOUT_S: Final = 10.0
_OK: Final = 200
_GONE: Final = 410
_CONFLICT: Final = 409
# aiohttp wants larger bodies as a file, to send them in parts.
_LARGE_BODY_BYTES: Final = 1024 * 1024
# In the words of apimachinery (pkg/api/errors): code → reason, message.
_REFUSALS: Final = {
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within requested timeout - context deadline exceeded"),
}


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a request for pods is about; `verb` as in audit logs, `log` for logs; `name` also of a pod to create."""

    verb: str
    resource: str
    namespace: str
    name: str
    user_agent: str


# Asked about every request for pods; None lets it pass.
KubernetesPlan: TypeAlias = Callable[[RequestFacts], KubernetesFault | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class KubernetesProxy:
    """Listens on `port` of 127.0.0.1 between `start` and `stop`; `counts` has the injected faults by class name.

    Args:
        upstream_url: of the API server; `http://…` as devcluster's, or `https://…` together with `tls`.
        plan: asked about every request for pods; None lets everything pass.
        tls: what to trust and which client certificate to present; `client_tls` reads it from a kubeconfig.
        history: how many events are kept for `Replay`.
    """

    def __init__(
        self,
        upstream_url: str,
        plan: KubernetesPlan | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        history: int = 2000,
    ) -> None:
        self._upstream = upstream_url.rstrip("/")
        self._plan = plan
        self._tls = tls
        self._history = EventHistory(history)
        self._listener = Listener()
        self._session: aiohttp.ClientSession | None = None
        self._writes: set[asyncio.Task[_Answer]] = set()
        self._mistakes: list[Exception] = []
        # A client that goes ends its handler: a silent watch would stay until its next event.
        self._server = web.Server(
            self._handle, handler_cancellation=True, request_factory=_unlimited_request, access_log=None
        )
        self.port: Final = self._listener.port
        self.url: Final = f"http://{HOST}:{self.port}"
        self.counts: Counter[str] = Counter()
        self.upstream_failures = 0  # requests without an answer from the server, through no fault of the plan's

    @classmethod
    def in_front_of(cls, kubeconfig: Json, plan: KubernetesPlan | None = None, *, history: int = 2000) -> Self:
        """For the cluster of a kubeconfig's current context, with its CA and its user's client certificate."""
        cluster, _ = current(kubeconfig)
        return cls(cluster["server"], plan, tls=client_tls(kubeconfig), history=history)

    async def start(self) -> None:
        """Listen."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            skip_auto_headers=_OWN_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self.up()

    async def stop(self) -> None:
        """Reset all connections and give the port back.

        Raises:
            ExceptionGroup: the plan raised, or had a fault that such a request cannot have; it has passed unharmed.
        """
        await self.down()
        await self._server.shutdown(0)
        if self._session is not None:
            await self._session.close()
        self._listener.release()
        if self._mistakes:
            raise ExceptionGroup("the plan of the Kubernetes proxy failed", self._mistakes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def down(self) -> None:
        """The API server is away: connections are refused, all there are reset; requests under way may take effect."""
        self._listener.close()
        for connection in self._server.connections:
            reset(connection.transport)
        for task in self._writes:
            task.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def up(self) -> None:
        """It is back, on the same port."""
        await self._listener.open(self._server)

    def kubeconfig(self, original: Json) -> Json:
        """The original's current context, with this proxy in place of its server; a token is kept, and sent on."""
        return pointed_at(original, self.url)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        facts = _facts(request, body)
        fault = self._ask(facts)
        try:
            if not self._listener.listening:  # accepted a moment before `down`
                return _closed(request, with_reset=True)
            if facts is not None and facts.verb in _STREAMED:
                return await self._answer_stream(request, facts, fault)
            return await self._answer(request, body, facts, fault)
        except (aiohttp.ClientError, TimeoutError, OSError):
            if request.transport is not None and not request.transport.is_closing():
                self.upstream_failures += 1
            return _closed(request, with_reset=True)

    def _ask(self, facts: RequestFacts | None) -> KubernetesFault | None:
        if facts is None or self._plan is None:
            return None
        try:
            fault = self._plan(facts)
            if fault is not None:
                _check(facts, fault)
        except Exception as error:  # noqa: BLE001 - raised by `stop`: here it would only be one more answer 500
            self._mistakes.append(error)
            return None
        if fault is not None and not _in_stream(facts, fault):
            self.counts[type(fault).__name__] += 1
        return fault

    async def _answer(
        self, request: web.BaseRequest, body: bytes, facts: RequestFacts | None, fault: KubernetesFault | None
    ) -> web.StreamResponse:
        if refused := _refused(request, facts, fault):
            return refused
        if request.method == "GET":
            answer = await self._exchange(request, body, fault)
        else:
            # A request that has left does not come back because its client goes away.
            task = asyncio.create_task(self._exchange(request, body, fault))
            self._writes.add(task)
            task.add_done_callback(self._written)
            answer = await asyncio.shield(task)
        match fault:
            case DropReply(seconds):
                await asyncio.sleep(seconds)
                return _closed(request)
            case DelayReply(seconds):
                await asyncio.sleep(seconds)
            case Reset(after_bytes):
                return await _cut_short(request, answer, after_bytes)
        payload = BytesIO(answer.body) if len(answer.body) > _LARGE_BODY_BYTES else answer.body
        return web.Response(status=answer.status, headers=answer.headers, body=payload)

    def _written(self, task: asyncio.Task[_Answer]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever waits for it handles it, and there may be nobody

    async def _exchange(self, request: web.BaseRequest, body: bytes, fault: KubernetesFault | None) -> _Answer:
        if isinstance(fault, DelayRequest):
            await asyncio.sleep(fault.seconds)
        first = await self._send(request, body)
        if isinstance(fault, Duplicate):
            second = await self._send(request, body)
            return first if fault.answer == "first" else second
        return first

    async def _send(self, request: web.BaseRequest, body: bytes) -> _Answer:
        async with self._open(request, request.raw_path, body) as answer:
            return _Answer(answer.status, _end_to_end(answer.headers), await answer.read())

    def _open(self, request: web.BaseRequest, target: str, body: bytes) -> Any:
        assert self._session is not None, "await start() first"
        url = URL(self._upstream + target, encoded=True)
        headers = _end_to_end(request.headers)
        data = BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body
        return self._session.request(request.method, url, headers=headers, data=data or None, allow_redirects=False)

    async def _answer_stream(
        self, request: web.BaseRequest, facts: RequestFacts, fault: KubernetesFault | None
    ) -> web.StreamResponse:
        if refused := _refused(request, facts, fault):
            return refused
        if isinstance(fault, DelayRequest):
            await asyncio.sleep(fault.seconds)
        target = _rewound(request, fault.versions) if isinstance(fault, Rewind) else request.raw_path
        async with self._open(request, target, b"") as upstream:
            if isinstance(fault, DropReply | DelayReply):
                await asyncio.sleep(fault.seconds)
            if isinstance(fault, DropReply):
                return _closed(request)
            response = web.StreamResponse(status=upstream.status, headers=_end_to_end(upstream.headers))
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(b"")  # aiohttp would keep the head of the answer until the first event
            watched = facts.verb == "watch" and upstream.status == _OK
            history = self._history.of(_query_key(request)) if watched else None
            await Stream(request, response, history, fault, self.counts).run(upstream.content.iter_any())
            return response


def _unlimited_request(*parts: Any) -> web.BaseRequest:
    """How large a body may be is the API server's business."""
    message, payload, protocol, writer, task = parts
    return web.BaseRequest(message, payload, protocol, writer, task, protocol._loop, client_max_size=0)


def _facts(request: web.BaseRequest, body: bytes) -> RequestFacts | None:
    found = _PODS.search(request.path)
    if found is None:
        return None
    namespace, name, subresource = (part or "" for part in found.groups())
    verb = _VERBS.get(request.method) or ("get" if name else "list")
    if verb == "list" and request.query.get("watch", "false").lower() not in {"false", "0"}:
        verb = "watch"
    elif verb == "get" and subresource == "log":
        verb = "log"
    elif verb == "delete" and not name:
        verb = "deletecollection"
    elif verb == "create" and not name:
        name = _name_in(body)
    resource = f"pods/{subresource}" if subresource else "pods"
    return RequestFacts(verb, resource, namespace, name, request.headers.get("User-Agent", ""))


def _name_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["metadata"].get("name", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""  # the server will say what is wrong with it


def _check(facts: RequestFacts, fault: KubernetesFault) -> None:
    streamed, watched = facts.verb in _STREAMED, facts.verb == "watch"
    fits = (
        not (isinstance(fault, _NOT_FOR_STREAMS) and streamed)
        and not (isinstance(fault, _STREAMS_ONLY) and not streamed)
        and not (isinstance(fault, _WATCHES_ONLY) and not watched)
        and not (isinstance(fault, Refuse) and fault.code == _CONFLICT and facts.verb != "create")
    )
    if not fits:
        raise ValueError(f"{fault} cannot happen to a {facts.verb} of {facts.resource}: see tests/chaos/faults.py")


def _in_stream(facts: RequestFacts, fault: KubernetesFault) -> bool:
    """Whether the fault happens later, if the stream lasts so long."""
    if isinstance(fault, Expire):
        return fault.after_seconds is not None
    return isinstance(fault, (*TIMED, Reset)) and facts.verb in _STREAMED


def _refused(
    request: web.BaseRequest, facts: RequestFacts | None, fault: KubernetesFault | None
) -> web.StreamResponse | None:
    """The answer to a request that does not reach the server; None if it does."""
    match fault:
        case DropRequest():
            return _closed(request)
        case Expire(None):
            return _status(expired("too old resource version: 1 (2)"), None)
        case Refuse(409):
            why = "the object has been modified; please apply your changes to the latest version and try again"
            return _status(conflict("resourcequotas", "quota", why), fault.retry_after)
        case Refuse(code, retry_after):
            reason, message = _REFUSALS[code]
            details = {"kind": "pods", "name": facts.name if facts else ""}
            more = {} if retry_after is None else {"retryAfterSeconds": retry_after}
            return _status(StatusError(code, reason, message, details=details | more), retry_after)
    return None


def _status(error: StatusError, retry_after: int | None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(error.as_status(), status=error.code, headers=headers)


def _closed(request: web.BaseRequest, *, with_reset: bool = False) -> web.Response:
    """End the connection; what is returned reaches nobody."""
    if with_reset:
        reset(request.transport)
    elif request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _cut_short(request: web.BaseRequest, answer: _Answer, after_bytes: int) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: min(after_bytes, len(answer.body) - 1)])
    reset(request.transport)
    return response


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_A_HOP)


def _query_key(request: web.BaseRequest) -> str:
    """Two watches with the same one see the same events."""
    query = request.query
    return "\0".join((request.path, query.get("labelSelector", ""), query.get("fieldSelector", "")))


def _rewound(request: web.BaseRequest, versions: int) -> str:
    asked = int(request.query.get("resourceVersion") or 0)
    if asked == 0:  # from any version, or the newest: nothing to go back from
        return request.raw_path
    url = request.rel_url.update_query(resourceVersion=str(max(asked - versions, 1)))
    return url.raw_path_qs

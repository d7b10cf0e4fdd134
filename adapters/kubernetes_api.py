"""The Kubernetes API: raw JSON, with the authentication and TLS of the official client.

The client's typed methods cost twice the CPU of a raw call and refuse fields they do not know
(docs/decisions/0002-raw-json.md).
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_random_exponential

from adapters.kubernetes_connection import JSON, KubernetesConnection
from adapters.kubernetes_json import ANYTHING, EVENT, POD, POD_LIST, Decoder, Json, decode, encode
from adapters.kubernetes_package import Configuration
from adapters.kubernetes_package import config as kubernetes_config
from runner_spec.ownership import Meeting, meet

CALL_TIMEOUT_S: Final = 30.0
# A watch or a followed log may be silent for long; the server ends a watch itself (timeoutSeconds).
STREAM_CONNECT_TIMEOUT_S: Final = 10.0
RETRY_FOR_S: Final = 30.0
LIST_PAGE: Final = 500

METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

# A manifest is ours. To have it decoded a second time, for warnings about unknown fields that nobody reads, costs the
# API server as much as the first time.
NOT_STRICT: Final = {"fieldValidation": "Ignore"}

_CONFLICT: Final = 409
_GONE: Final = 410
_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_OK_LIMIT: Final = 300


class ApiError(Exception):
    """The API server refused a request, or could not be reached (`status` 0).

    `reason` is the Status object's word (`NotFound`, `AlreadyExists`, …), `message` the server's sentence. `sent` is
    False when the request has not left this machine: it cannot have taken effect.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        details: Json | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.sent = sent
        self.details = details or {}

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later: unreachable, 429 or 5xx."""
        return self.status in (0, _TOO_MANY_REQUESTS) or self.status >= _SERVER_ERROR

    @property
    def expired(self) -> bool:
        """A resourceVersion or a continue token is too old: list again."""
        return self.status == _GONE

    @property
    def missing(self) -> bool:
        """The object does not exist."""
        return self.status == _NOT_FOUND

    @property
    def over_quota(self) -> bool:
        """A ResourceQuota refused the pod: room will come when others end."""
        return self.status == _FORBIDDEN and "exceeded quota" in self.message


def current_namespace(kubeconfig: str | None = None) -> str:
    """The namespace that `kubectl` would take: of the kubeconfig's current context, else of the pod that we are in.

    Raises:
        ApiError: with status 0 when there is a kubeconfig, but none that can be used.
    """
    mounted = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if not kubeconfig and not os.environ.get("KUBECONFIG") and mounted.exists():
        return mounted.read_text(encoding="utf-8").strip()
    try:
        _, context = kubernetes_config.list_kube_config_contexts(kubeconfig)
    except kubernetes_config.ConfigException as error:
        message = f"no usable Kubernetes configuration ({error}); set KUBECONFIG or run inside a cluster"
        raise ApiError(0, "NoConfiguration", message) from error
    return str(context["context"].get("namespace") or "default")


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a watch: `ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`, with the object as the server sent it."""

    kind: str
    object: Json


def _wait_as_told(state: RetryCallState) -> float:
    """Honour Retry-After; otherwise exponential with full jitter, so that many workers do not retry in step."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiError) and error.retry_after is not None:
        return error.retry_after
    return float(wait_random_exponential(multiplier=0.1, max=5.0)(state))


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.temporary


# The only retry policy towards Kubernetes. Safe for every call made through it: reads are idempotent, and deletes carry
# the uid. The creation of a pod is not made through it.
def _retrying(seconds: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_is_temporary), wait=_wait_as_told, stop=stop_after_delay(seconds), reraise=True
    )


class KubernetesApi:
    """Pods, their logs and TokenReviews of one cluster, for one namespace of jobs.

    Args:
        configuration: where the API is and how to authenticate, as the official client loaded it.
        namespace: the jobs' namespace.
        connections: upper limit of parallel requests; log streams have a pool of their own, without limit.
        retry_seconds: how long a temporary failure of a call is retried before it is raised.
    """

    def __init__(
        self,
        configuration: Configuration,
        namespace: str,
        *,
        connections: int = 64,
        retry_seconds: float = RETRY_FOR_S,
    ) -> None:
        self.namespace = namespace
        self._retry_seconds = retry_seconds
        self._calls = KubernetesConnection(configuration, limit=connections)
        self._streams = KubernetesConnection(configuration, limit=0)
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    @classmethod
    async def connect(
        cls,
        namespace: str,
        *,
        kubeconfig: str | Mapping[str, Any] | None = None,
        connections: int = 64,
        retry_seconds: float = RETRY_FOR_S,
    ) -> "KubernetesApi":
        """Load the configuration: the kubeconfig given, else $KUBECONFIG, else the pod's own service account.

        Raises:
            ApiError: with status 0 when no configuration can be loaded; the message says what was tried.
        """
        configuration = Configuration()
        try:
            if isinstance(kubeconfig, Mapping):
                await kubernetes_config.load_kube_config_from_dict(dict(kubeconfig), client_configuration=configuration)
            elif kubeconfig or os.environ.get("KUBECONFIG"):
                await kubernetes_config.load_kube_config(kubeconfig, client_configuration=configuration)
            else:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
        except kubernetes_config.ConfigException as error:
            message = f"no usable Kubernetes configuration ({error}); set KUBECONFIG or run inside a cluster"
            raise ApiError(0, "NoConfiguration", message) from error
        return cls(configuration, namespace, connections=connections, retry_seconds=retry_seconds)

    async def close(self) -> None:
        """Close both connection pools."""
        await self._calls.close()
        await self._streams.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        retry_seconds: float | None = None,
        decoder: Decoder = ANYTHING,
    ) -> Json:
        """One request, its answer as JSON; temporary failures are retried, for `retry_seconds` if that is shorter.

        Raises:
            ApiError: the server's refusal, or status 0 when it stayed unreachable.
        """
        seconds = self._retry_seconds if retry_seconds is None else min(retry_seconds, self._retry_seconds)
        async for attempt in _retrying(seconds):
            with attempt:
                return await self._call_once(method, path, query, body, decoder=decoder)
        raise AssertionError("tenacity re-raises the last error")

    async def _call_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        *,
        accept: str = JSON,
        decoder: Decoder = ANYTHING,
    ) -> Json:
        timeout, content = aiohttp.ClientTimeout(CALL_TIMEOUT_S), None if body is None else encode(body)
        try:
            response = await self._calls.send(method, path, query=query, body=content, accept=accept, timeout=timeout)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise ApiError(0, "Unreachable", f"{method} {path}: {error or type(error).__name__}", sent=sent) from error
        if response.status >= _OK_LIMIT:
            raise _refusal(response, data)
        return _parsed(data, f"{method} {path}", decoder)

    async def create_pod(self, manifest: Json) -> Json:
        """Create a pod; when it exists, for the same job and attempt, return that one (`runner_spec.ownership.meet`).

        Of a new one, what `kubernetes_json.Pod` has.

        The request is sent once. Sent again for want of an answer, it could create the pod a second time, after the
        first one was deleted. A proxy in between may repeat it all the same: the second one may also be forbidden, by
        a quota that the pod of the first one has used up, before anybody looks at names.

        Raises:
            ApiError: a foreign pod has the name (409), or had it (409, reason `Gone`); or as with every call.
        """
        try:
            return await self._call_once("POST", self._pods, NOT_STRICT, manifest, decoder=POD)
        except ApiError as error:
            if error.status not in (_CONFLICT, _FORBIDDEN):
                raise
            existing = await self.get_pod(manifest["metadata"]["name"])
            if existing is None and error.reason == "AlreadyExists":
                raise ApiError(_CONFLICT, "Gone", error.message) from error
            if existing is None or meet(existing, manifest) is Meeting.REFUSE:
                raise
            return existing

    async def get_pod(self, name: str) -> Json | None:
        """The pod, or None when there is none."""
        try:
            return await self.call("GET", f"{self._pods}/{name}")
        except ApiError as error:
            if error.missing:
                return None
            raise

    async def delete_pod(self, name: str, uid: str, *, grace_seconds: int | None = None) -> bool:
        """Delete exactly this pod; False when it is gone or another one has its name.

        `grace_seconds` None takes the pod's own terminationGracePeriodSeconds.
        """
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self.call("DELETE", f"{self._pods}/{name}", body=options, decoder=POD)
        except ApiError as error:
            if error.status in (_NOT_FOUND, _CONFLICT):
                return False
            raise
        return True

    async def list_pods(self, label_selector: str) -> tuple[list[Json], str]:
        """All pods that match (`kubernetes_json.Pod`), and the resourceVersion from which to watch. Read in pages."""
        items: list[Json] = []
        query = {"labelSelector": label_selector, "limit": str(LIST_PAGE)}
        while True:
            page = await self.call("GET", self._pods, query=query, decoder=POD_LIST)
            items += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return items, str(page["metadata"]["resourceVersion"])
            query["continue"] = token

    async def pod_metadata(self, label_selector: str) -> AsyncGenerator[Json, None]:
        """The metadata of all pods that match, a page in memory at a time; where the server can, nothing else is sent.

        Raises:
            ApiError: also in the middle, `expired` when the walk took too long: begin anew.
        """
        query = {"labelSelector": label_selector, "limit": str(LIST_PAGE)}
        while True:
            page = await self._call_once("GET", self._pods, query, None, accept=f"{METADATA_ONLY},{JSON}")
            # A kube-apiserver (1.34) writes null for an empty list of metadata, not [] as for one of pods.
            for item in page["items"] or ():
                yield item["metadata"]
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    async def watch_pods(
        self, label_selector: str, resource_version: str, *, seconds: int
    ) -> AsyncGenerator[WatchEvent, None]:
        """Events after `resource_version`, of what `kubernetes_json.Pod` has, until the server's end after `seconds`.

        Raises:
            ApiError: `expired` when the version is too old, status 0 when the stream breaks.
        """
        query = {
            "watch": "true",
            "labelSelector": label_selector,
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        # One minute beyond the server's own end: a dead connection must not be mistaken for a quiet cluster.
        async with aclosing(self._stream(self._pods, query, read_timeout=seconds + 60.0)) as chunks:
            async for line in _lines(chunks):
                event = _parsed(line, f"watch of {self._pods}", EVENT)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code", 0), status.get("reason", ""), status.get("message", ""))
                yield WatchEvent(event["type"], event["object"])

    async def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """A container's log with timestamps, in chunks as they come.

        `since_time` is RFC 3339; the kubelet compares whole seconds, so the first lines may have been seen before.
        `previous` asks for the log that ended when the container was last started again.

        Raises:
            ApiError: 400 while the container has not started, or (`previous`) was never started again; 404 without
                pod; 0 when the stream breaks.
        """
        query = {"container": container, "timestamps": "true", "follow": "true" if follow else "false"}
        if previous:
            query["previous"] = "true"
        if since_time:
            query["sinceTime"] = since_time
        async with aclosing(self._stream(f"{self._pods}/{pod}/log", query, read_timeout=None)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(
        self, path: str, query: Mapping[str, str], *, read_timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STREAM_CONNECT_TIMEOUT_S, sock_read=read_timeout)
        try:
            response = await self._streams.send("GET", path, query=query, body=None, accept=JSON, timeout=timeout)
            async with response:
                if response.status >= _OK_LIMIT:
                    raise _refusal(response, await response.read())
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise ApiError(0, "Unreachable", f"GET {path}: {error or type(error).__name__}") from error


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines; a watch event can be larger than any buffer limit of a line reader."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        if b"\n" not in chunk:
            continue
        *whole, rest = pending.split(b"\n")
        for line in whole:
            if line:
                yield bytes(line)
        pending = bytearray(rest)


def _parsed(data: bytes, request: str, decoder: Decoder) -> Json:
    """A proxy between us and the API server may answer 200 with a page of its own: as if there was no answer."""
    try:
        return decode(data, decoder)
    except ValueError as error:
        raise ApiError(0, "NotJson", f"{request}: the answer is no JSON: {data[:200]!r}") from error


def _refusal(response: aiohttp.ClientResponse, data: bytes) -> ApiError:
    """The server's Status object as an exception; a proxy in between may answer with something else."""
    reason, message, details = response.reason or "", data[:500].decode(errors="replace"), None
    try:
        status = decode(data)
        if isinstance(status, dict):
            reason, message = status.get("reason") or reason, status.get("message") or message
            details = status.get("details")
    except ValueError:
        reason = reason or "NotJson"
    after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status, reason, message, retry_after=float(after) if after.isdecimal() else None, details=details
    )

"""A plain HTTP client of the Kubernetes API, for tests: statuses and bodies as they are, nothing retried or hidden."""

import asyncio
import functools
import io
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Json
    raw: bytes


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the API is; `image` has a shell, in a real cluster."""

    url: str
    namespace: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | bool = True
    image: str = "busybox"
    isolates: bool = False  # whether containers have files and names of their own

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        timeout = aiohttp.ClientTimeout(total=90)
        async with aiohttp.ClientSession(headers=self.headers, timeout=timeout) as session:
            yield Client(self, session)
        if self.url.startswith("https:"):
            await asyncio.sleep(TLS_CLOSE_S)


class Client:
    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.session = session
        self.namespaced = f"/api/v1/namespaces/{cluster.namespace}"
        self.pods = f"{self.namespaced}/pods"

    def stream(self, path: str, **params: str) -> Any:
        return self.session.get(self.cluster.url + path, params=params, ssl=self.cluster.tls)

    async def call(self, method: str, path: str, body: object = None, **params: str) -> Answer:
        content_type = params.pop("content_type", "application/json")
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data is not None else {}
        url = self.cluster.url + path
        async with self.session.request(
            method,
            url,
            data=None if data is None else io.BytesIO(data),
            params=params,
            headers=headers,
            ssl=self.cluster.tls,
        ) as response:
            raw = await response.read()
            parsed = json.loads(raw) if response.content_type == "application/json" else {}
            return Answer(response.status, parsed, raw)

    async def create(self, pod: Json, **params: str) -> Json:
        answer = await self.call("POST", self.pods, pod, **params)
        assert answer.status == 201, answer
        return answer.body

    async def events(self, path: str, **params: str) -> AsyncIterator[Json]:
        async with self.stream(path, watch="true", **params) as response:
            assert response.status == 200, await response.text()
            async for line in _lines(response):
                yield json.loads(line)

    async def until(self, name: str, reached: Callable[[Json, str], bool], seconds: float = 60) -> Json:
        """The pod's first state for which `reached(pod, event type)` holds."""
        async with asyncio.timeout(seconds):
            while True:
                events = self.events(self.pods, fieldSelector=f"metadata.name={name}", timeoutSeconds="30")
                async for event in events:
                    if reached(event["object"], event["type"]):
                        await events.aclose()  # type: ignore[attr-defined]
                        return dict(event["object"])

    async def ended(self, name: str) -> Json:
        """The pod once its phase is terminal."""
        return await self.until(name, lambda pod, _: pod["status"].get("phase") in ("Succeeded", "Failed"))

    async def running(self, name: str) -> Json:
        return await self.until(name, lambda pod, _: pod["status"].get("phase") == "Running")

    async def delete(self, name: str) -> None:
        await self.call("DELETE", f"{self.pods}/{name}", gracePeriodSeconds="0")

    async def log(self, name: str, **params: str) -> bytes:
        answer = await self.call("GET", f"{self.pods}/{name}/log", **params)
        assert answer.status == 200, answer
        return answer.raw

    async def logged(self, name: str, text: bytes, seconds: float = 30, **params: str) -> bytes:
        """The log of a running container, as soon as it holds the text."""
        seen = b""
        async with (
            asyncio.timeout(seconds),
            self.stream(f"{self.pods}/{name}/log", follow="true", **params) as response,
        ):
            assert response.status == 200, await response.text()
            async for chunk in response.content.iter_any():
                seen += chunk
                if text in seen:
                    return bytes(seen)
        raise AssertionError(f"{text!r} is not in the log: {seen!r}")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # Not response.content: it refuses lines above its limit, and a pod may be larger.
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


# aiohttp closes TLS connections in the background and offers no way to wait for it; its documentation ("Graceful
# Shutdown") asks for this pause. Without it the transports are warned about when they are collected, in a later test.
TLS_CLOSE_S = 0.25


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


def pod(client: Client, name: str, script: str = "exit 0", **spec: Any) -> Json:
    """A pod with one container `run`."""
    grace = spec.pop("grace", 2)
    extra = spec.pop("container", {})
    labels = spec.pop("labels", {})
    run = container(client, "run", script, **extra)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": grace, "containers": [run], **spec},
    }


def container(client: Client, name: str, script: str, **fields: Any) -> Json:
    return {
        "name": name,
        "image": client.cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        **fields,
    }


# Ends as it is told to, and says when.
OBEDIENT = "trap 'echo stopped; exit {code}' TERM; echo up; while :; do sleep 0.1; done"


def sidecar(client: Client, name: str, code: int = 0, **fields: Any) -> Json:
    return container(client, name, OBEDIENT.format(code=code), restartPolicy="Always", **fields)


def conditions(found: Json) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in found["status"]["conditions"]}


def terminated(pod: Json, name: str) -> Json:
    """The terminated state of a container."""
    statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
    state = next(status["state"] for status in statuses if status["name"] == name)
    assert "terminated" in state, state
    return dict(state["terminated"])


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test; pytest still sees its fixtures."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run

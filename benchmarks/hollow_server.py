"""A process that speaks the part of the Kubernetes API that workers need, for pods without containers.

`python -m benchmarks.hollow_server --namespace NAME` prints one line of JSON when it listens (`{"port": …}`). Plain
HTTP, no authentication. What others do to the pods is asked for below /hollow (see `benchmarks.hollow_cluster`).
"""

import argparse
import asyncio
import base64
import json
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from aiohttp import web

from benchmarks.hollow_pods import HollowPod, HollowPods, Phase, accept
from devcluster.resources import PODS
from devcluster.selectors import Selector, parse
from devcluster.status_error import StatusError
from runner_spec import anatomy

Json = dict[str, Any]

# Most changes that one write to a watcher carries: the others are served in between.
AT_ONCE: Final = 200
BOOKMARK_S: Final = 60.0
TICK_S: Final = 0.01
BODY_LIMIT: Final = 2 * 1024 * 1024
JSON: Final = "application/json"


@dataclass(slots=True)
class Times:
    """Of one pod, in unix seconds; 0 for what has not happened: its creation and deletion as they were asked for."""

    job: str
    created: float
    running: float = 0.0
    ended: float = 0.0
    deleted: float = 0.0


@dataclass(slots=True)
class Timetable:
    """Seconds from a pod's creation to Running, and from there to Succeeded (None: when told); what its log does."""

    starts_after: float = 0.0
    lasts: float | None = None
    logs: str = "ended"  # or "open": until the container ends


@dataclass(slots=True)
class HollowServer:
    """The handlers and the clock of one cluster."""

    namespace: str
    timetable: Timetable
    times: dict[str, Times] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    pods: HollowPods = field(init=False)
    _watchers: set[asyncio.Event] = field(default_factory=set)
    _ends: dict[str, asyncio.Event] = field(default_factory=dict)  # of pods whose logs are open
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _behind: int = 0

    def __post_init__(self) -> None:
        self.pods = HollowPods(self._changed)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_refusals])
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        app.router.add_post(pods, self._create)
        app.router.add_get(pods, self._list_or_watch)
        app.router.add_get(pods + "/{name}", self._get)
        app.router.add_delete(pods + "/{name}", self._delete)
        app.router.add_get(pods + "/{name}/log", self._log)
        app.router.add_get("/hollow", self._tell)
        app.router.add_get("/hollow/times", self._tell_times)
        app.router.add_post("/hollow", self._obey)
        return app

    # -- the Kubernetes API

    async def _create(self, request: web.Request) -> web.StreamResponse:
        now = time.time()
        manifest = await request.json()
        pod = accept(manifest, str(uuid.uuid4()), anatomy.ANNOTATION_JOB, now)
        if request.query.get("dryRun"):
            self.requests["dry run"] += 1
            return web.Response(body=pod.json(), status=201, content_type=JSON)
        self.requests["create"] += 1
        if pod.name in self.pods.pods:
            raise StatusError(409, "AlreadyExists", f'pods "{pod.name}" already exists')
        pod = self.pods.create(pod)
        self.times[pod.name] = Times(pod.job, now)
        asyncio.get_running_loop().call_later(self.timetable.starts_after, self._start, pod.name)
        return web.Response(body=pod.json(), status=201, content_type=JSON)

    def _start(self, name: str) -> None:
        self.pods.bind(name, time.time())
        self._run(name)

    def _run(self, name: str) -> None:
        now = time.time()
        self.pods.run(name, now)
        if name in self.times:
            self.times[name].running = now
        if self.timetable.lasts is not None:
            asyncio.get_running_loop().call_later(self.timetable.lasts, self.end, name)

    def end(self, name: str) -> bool:
        """Its containers end; False when they do not run."""
        now = time.time()
        ended = self.pods.end(name, now)
        if ended:
            self.times[name].ended = now
            self._close_logs(name)
        return ended

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.requests["get"] += 1
        return web.Response(body=self._found(request).json(), content_type=JSON)

    def _found(self, request: web.Request) -> HollowPod:
        name = request.match_info["name"]
        if (pod := self.pods.pods.get(name)) is None:
            raise StatusError(404, "NotFound", f'pods "{name}" not found')
        return pod

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        now = time.time()
        self.requests["delete"] += 1
        options: Json = await request.json() if request.can_read_body else {}
        pod = self._found(request)
        wanted = (options.get("preconditions") or {}).get("uid", pod.uid)
        if wanted != pod.uid:
            raise StatusError(409, "Conflict", f"the UID in the precondition ({wanted}) is not the pod's, {pod.uid}")
        grace = options.get("gracePeriodSeconds")
        gone = self.pods.delete(pod.name, 30 if grace is None else int(grace), now)
        self.times[pod.name].deleted = now
        self._close_logs(pod.name)
        return web.Response(body=gone.json(), content_type=JSON)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        self.requests["log"] += 1
        pod = self._found(request)
        if pod.phase is Phase.PENDING:
            raise StatusError(400, "BadRequest", f'container in pod "{pod.name}" is waiting to start')
        response = web.StreamResponse()
        response.content_type = "text/plain"
        await response.prepare(request)
        main = any(kind != "init" and known["name"] == request.query.get("container") for kind, known in pod.containers)
        follow = request.query.get("follow") == "true"
        if self.timetable.logs == "open" and main and follow and pod.phase is Phase.RUNNING:
            await self._ends.setdefault(pod.name, asyncio.Event()).wait()
        await response.write_eof()
        return response

    def _close_logs(self, name: str) -> None:
        if (event := self._ends.pop(name, None)) is not None:
            event.set()

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        selector = parse(PODS, request.query.get("labelSelector", ""), "")
        if request.query.get("watch") == "true":
            self.requests["watch"] += 1
            return await self._watch(request, selector)
        self.requests["list"] += 1
        limit = int(request.query.get("limit", "0")) or sys.maxsize
        version, after = self.pods.version, ""
        if token := request.query.get("continue"):
            version, after = json.loads(base64.urlsafe_b64decode(token))
        page: list[HollowPod] = []
        more = False
        for pod in self.pods.after(after):
            if selector.matches(pod.labels):
                more = len(page) == limit
                if more:
                    break
                page.append(pod)
        metadata: Json = {"resourceVersion": str(version)}
        if more:
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps([version, page[-1].name]).encode()).decode()
        only_metadata = "as=PartialObjectMetadataList" in request.headers.get("Accept", "")
        items = b",".join(b'{"metadata":%s}' % pod.metadata() if only_metadata else pod.json() for pod in page)
        head = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": metadata}).encode()[:-1]
        return web.Response(body=b'%s,"items":[%s]}' % (head, items), content_type=JSON)

    async def _watch(self, request: web.Request, selector: Selector) -> web.StreamResponse:
        version = int(request.query.get("resourceVersion", "0")) or self.pods.version
        if not self.pods.has(version):
            raise StatusError(410, "Expired", f"too old resource version: {version} ({self.pods.version})")
        response = web.StreamResponse()
        response.content_type = JSON
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        closes = loop.time() + float(request.query.get("timeoutSeconds", "300"))
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            with suppress(ConnectionError):
                while (left := closes - loop.time()) > 0:
                    news.clear()
                    changes = self.pods.since(version, AT_ONCE)
                    version += len(changes)
                    self._behind = max(self._behind, self.pods.version - version)
                    fit = [c.line() for c in changes if selector.matches(c.pod.labels)]
                    if fit:
                        await response.write(b"".join(fit))
                    if changes:
                        await asyncio.sleep(0)
                    elif not await _within(news, min(left, BOOKMARK_S)):
                        await response.write(_bookmark(version))
                    if not self.pods.has(version):
                        await response.write(_expired(version))
                        break
        finally:
            self._watchers.discard(news)
        return response

    def _changed(self) -> None:
        for news in self._watchers:
            news.set()

    # -- for those who measure

    async def _tell(self, _: web.Request) -> web.StreamResponse:
        phases = Counter(pod.phase.value for pod in self.pods.pods.values())
        behind, self._behind = self._behind, 0
        facts = {"phases": phases, "requests": self.requests, "watches": len(self._watchers), "behind": behind}
        return web.json_response({**facts, "version": self.pods.version, "logs": len(self._ends)})

    async def _tell_times(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({name: asdict(times) for name, times in self.times.items()})

    async def _obey(self, request: web.Request) -> web.StreamResponse:
        """One command: `{"end": COUNT}`, `{"flip": [A SECOND, SECONDS]}`, `{"timetable": {…}}`, `{"forget": true}`."""
        command: Json = await request.json()
        match command:
            case {"end": int(count)}:
                return web.json_response({"done": await self._each(self.end, count)})
            case {"flip": [int(rate), int() | float() as seconds]}:
                return web.json_response({"done": await self._flip(rate, float(seconds))})
            case {"timetable": dict(wanted)}:
                self.timetable = Timetable(**wanted)
            case {"forget": True}:
                self.times = {name: times for name, times in self.times.items() if name in self.pods.pods}
                self.requests.clear()
            case _:
                raise StatusError(400, "BadRequest", f"no such command: {command}")
        return web.json_response({"done": 1})

    async def _each(self, act: Callable[[str], bool], count: int) -> int:
        done = 0
        for number, name in enumerate(list(self.pods.pods)):
            if done == count:
                break
            done += act(name)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # the watchers' turn
        return done

    async def _flip(self, rate: int, seconds: float) -> int:
        """Change so many statuses a second, pod after pod, as evenly as the clock allows."""
        names = [name for name, pod in self.pods.pods.items() if pod.phase is Phase.RUNNING]
        began, done = time.monotonic(), 0
        while names and (passed := time.monotonic() - began) < seconds:
            due = int(passed * rate)
            for number in range(done, due):
                self.pods.flip(names[number % len(names)], time.time())
            done = max(done, due)
            await asyncio.sleep(TICK_S)
        return done


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401 - aiohttp's own type differs by version
    """A refusal as Kubernetes words it."""
    try:
        response: web.StreamResponse = await handler(request)
    except StatusError as error:
        return web.json_response(error.as_status(), status=error.code)
    return response


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _bookmark(version: int) -> bytes:
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": None}, "status": {}}
    return json.dumps({"type": "BOOKMARK", "object": pod}).encode() + b"\n"


def _expired(version: int) -> bytes:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": f"too old resource version: {version}"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


async def serve(namespace: str, timetable: Timetable) -> None:
    """Until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    # Handlers that wait (watches, logs) end with their connections, not with a grace of a minute.
    runner = web.AppRunner(HollowServer(namespace, timetable).app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    await over.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hollow_server", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--timetable", type=json.loads, default={}, help="JSON: starts_after, lasts, logs")
    asked = parser.parse_args()
    asyncio.run(serve(asked.namespace, Timetable(**asked.timetable)))

"""A tiny Kubernetes API over real HTTP: TokenReview and pods, enough to be asked who a token belongs to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from adapters.kubernetes_api import KubernetesApi
from runner_spec import anatomy

NAMESPACE = "jobs"


class FakeApiServer:
    """Tokens and pods are set by the test; `calls` records what was asked, `failing` makes every answer a 500."""

    def __init__(self) -> None:
        self.reviews: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.failing = False
        self.gate: asyncio.Event | None = None
        self.pod_asked = asyncio.Event()
        self.url = ""

    def add(self, token: str, job: str, attempt: int, *, scope: str | None = "scope") -> dict[str, Any]:
        """A running pod of a job, and its token; returns the pod, to be changed at will."""
        name, uid = f"pod-{token}", f"uid-{token}"
        self.reviews[token] = {
            "authenticated": True,
            "audiences": [anatomy.TOKEN_AUDIENCE],
            "user": {
                "username": f"system:serviceaccount:{NAMESPACE}:default",
                "extra": {
                    "authentication.kubernetes.io/pod-name": [name],
                    "authentication.kubernetes.io/pod-uid": [uid],
                },
            },
        }
        annotations = {anatomy.ANNOTATION_JOB: job}
        if scope is not None:
            annotations[anatomy.ANNOTATION_CACHE_SCOPE] = scope
        labels = {anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY, anatomy.LABEL_ATTEMPT: str(attempt)}
        pod = {
            "metadata": {"name": name, "uid": uid, "labels": labels, "annotations": annotations},
            "status": {"phase": "Running"},
        }
        self.pods[name] = pod
        return pod

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            return web.json_response({"kind": "Status", "reason": "InternalError", "message": "etcd"}, status=500)
        if request.method == "POST":
            review = await request.json()
            assert review["spec"]["audiences"] == [anatomy.TOKEN_AUDIENCE]
            status = self.reviews.get(review["spec"]["token"], {"authenticated": False, "error": "invalid token"})
            return web.json_response({**review, "status": status}, status=201)
        pod = self.pods.get(request.match_info["name"])
        if pod is None or request.match_info["namespace"] != NAMESPACE:
            return web.json_response({"kind": "Status", "reason": "NotFound", "message": "no pod"}, status=404)
        answer = web.json_response(pod)
        self.pod_asked.set()
        return answer

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self._answer)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[KubernetesApi]:
        """The real adapter, connected to this server."""
        kubeconfig = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "gateway"}}],
        }
        api = await KubernetesApi.connect(NAMESPACE, kubeconfig=kubeconfig, retry_seconds=0.0)
        try:
            yield api
        finally:
            await api.close()

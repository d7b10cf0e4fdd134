"""What a worker concludes from the answers of clusters of every kind, asked over real HTTP."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec.pod_check import check_pod
from runner_spec.policy import Policy, parse_policy
from worker import capabilities
from worker.capabilities import UserNamespaces, ask_user_namespaces, settle

NAMESPACE = "jobs"
Json = dict[str, Any]
POLICY = parse_policy({"namespace": NAMESPACE})


class Cluster:
    """An API server's admission of pods, in the order in which the real one goes about it.

    Args:
        knows: whether it knows hostUsers, or drops it.
        restricted: whether uid 0 is refused, but (`exempts`) with hostUsers: false.
        exempts: UserNamespacesPodSecurityStandards.
        full: a quota is used up; it is looked at last.
        away: how many requests fail at first.
        refuses: what a webhook says.
    """

    def __init__(
        self,
        *,
        knows: bool = True,
        restricted: bool = True,
        exempts: bool = True,
        full: bool = False,
        away: int = 0,
        refuses: str = "",
    ) -> None:
        self.knows, self.restricted, self.exempts = knows, restricted, exempts
        self.full, self.away, self.refuses = full, away, refuses
        self.seen: list[Json] = []
        self.asked = asyncio.Event()

    async def create(self, request: web.Request) -> web.Response:
        assert request.query["dryRun"] == "All"
        pod = await request.json()
        self.seen.append(pod)
        self.asked.set()
        if self.away:
            self.away -= 1
            return refusal(503, "ServiceUnavailable", "etcd is away")
        if not self.knows:
            pod["spec"].pop("hostUsers", None)
        inside = pod["spec"].get("hostUsers") is False
        if self.restricted and not (self.exempts and inside) and pod["spec"]["securityContext"]["runAsUser"] == 0:
            return refusal(403, "Forbidden", 'violates PodSecurity "restricted:latest": runAsUser=0')
        if self.refuses:
            return refusal(400, "BadRequest", self.refuses)
        if self.full:
            return refusal(403, "Forbidden", "exceeded quota: jobs, requested: pods=1")
        return web.json_response(pod, status=201)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Json]:
        """Yields a kubeconfig."""
        app = web.Application()
        app.router.add_post(f"/api/v1/namespaces/{NAMESPACE}/pods", self.create)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        kubeconfig = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
            "users": [{"name": "test", "user": {"token": "worker"}}],
        }
        try:
            yield kubeconfig
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[KubernetesApi]:
        async with self.serving() as kubeconfig:
            api = await KubernetesApi.connect(NAMESPACE, kubeconfig=kubeconfig, retry_seconds=0.0)
            try:
                yield api
            finally:
                await api.close()


def refusal(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)


def asked(cluster: Cluster, policy: Policy = POLICY) -> UserNamespaces:
    async def ask() -> UserNamespaces:
        async with cluster.client() as api:
            return await ask_user_namespaces(policy, api, asker="w-1")

    return asyncio.run(ask())


def settled(cluster: Cluster, policy: Policy = POLICY) -> Policy:
    async def ask() -> Policy:
        async with cluster.client() as api, asyncio.timeout(30):
            return await settle(policy, api, asker="w-1")

    return asyncio.run(ask())


KINDS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "offers them": ({}, True, "inside a user namespace only"),
    "offers them, and is full": ({"full": True}, True, "inside a user namespace only"),
    "cannot be trusted with all nodes": ({"exempts": False}, False, "violates PodSecurity"),
    "is too old": ({"knows": False, "exempts": False}, False, "violates PodSecurity"),
    "is too old and not restricted": ({"knows": False, "restricted": False}, False, "drops hostUsers"),
    "admits everything": ({"restricted": False}, False, "enforce the restricted pod-security level"),
    "admits everything, and is full": ({"restricted": False, "full": True}, False, "enforce the restricted"),
    "does not know dry runs": ({"refuses": "webhook does not support dry run"}, False, "does not support dry run"),
}


@pytest.mark.parametrize(("kind", "offered", "words"), KINDS.values(), ids=KINDS)
def test_only_proof_makes_a_cluster_offer_user_namespaces(kind: dict[str, Any], words: str, *, offered: bool) -> None:
    found = asked(Cluster(**kind))
    assert (found.offered, words in found.why) == (offered, True), found.why


@pytest.mark.parametrize("offered", [True, False])
def test_the_policy_is_settled_and_the_reason_logged(caplog: pytest.LogCaptureFixture, *, offered: bool) -> None:
    with caplog.at_level(logging.INFO, capabilities.__name__):
        assert settled(Cluster(exempts=offered)).user_namespaces is offered
    (record,) = [record for record in caplog.records if record.name == capabilities.__name__]
    assert vars(record)["offered"] is offered
    assert "PodSecurity" in record.getMessage()


@pytest.mark.parametrize(
    "fields", [{"user_namespaces": True}, {"user_namespaces": False}, {"shim_delivery": "image-volume"}]
)
def test_a_cluster_is_not_asked_what_the_policy_knows(fields: dict[str, Any]) -> None:
    cluster, policy = Cluster(), parse_policy({"namespace": NAMESPACE, **fields})
    assert settled(cluster, policy).user_namespaces is fields.get("user_namespaces", False)
    assert cluster.seen == []


def test_what_is_asked_is_a_pod_as_this_policy_makes_them() -> None:
    cluster = Cluster()
    policy = parse_policy(
        {"namespace": NAMESPACE, "images": ["python:*"], "node_selector": {"pool": "jobs"}, "runtime_class": "gvisor"}
    )
    assert asked(cluster, policy).offered
    inside, outside = cluster.seen
    assert check_pod(inside, policy.model_copy(update={"user_namespaces": True, "images": ("*",)})) == []
    assert inside["spec"]["nodeSelector"] == {"pool": "jobs"}
    assert "hostUsers" not in outside["spec"]
    assert "w-1" in inside["metadata"]["name"]


def test_an_api_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "RETRY_FIRST_S", 0.01)
    cluster = Cluster(away=3)
    assert settled(cluster).user_namespaces is True
    assert len(cluster.seen) == 5


def test_no_answer_is_no_answer() -> None:
    with pytest.raises(ApiError, match="etcd is away"):
        asked(Cluster(away=1))


def test_waiting_for_an_answer_can_be_given_up() -> None:
    async def leave() -> None:
        cluster = Cluster(away=10**6)
        async with cluster.client() as api:
            waiting = asyncio.create_task(settle(POLICY, api, asker="w-1"))
            await cluster.asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(leave())


@pytest.mark.redis
def test_a_worker_says_what_it_waits_for_and_leaves_when_told(redis_url: str, tmp_path: Path) -> None:
    async def start() -> None:
        cluster, port = Cluster(away=10**6), free_port()
        async with cluster.serving() as kubeconfig:
            (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
            (tmp_path / "policy").write_text(f"namespace: {NAMESPACE}\n")
            settings = {
                "REDIS_URL": redis_url,
                "KUBECONFIG": str(tmp_path / "kubeconfig"),
                "POLICY": str(tmp_path / "policy"),
                "STORE": str(tmp_path / "store"),
                "HEALTH_PORT": str(port),
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", "from worker.cli.main import main; raise SystemExit(main())", "worker"),
                env={**os.environ, **{f"DYNAPOD_{name}": value for name, value in settings.items()}},
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await cluster.asked.wait()
                async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as ready:
                    assert (ready.status, "user namespaces" in await ready.text()) == (503, True)
                process.send_signal(signal.SIGTERM)
                _, said = await process.communicate()
                assert process.returncode == 0, said
            finally:
                if process.returncode is None:
                    process.kill()

    asyncio.run(start())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port

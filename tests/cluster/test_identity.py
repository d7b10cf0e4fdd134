"""Who may talk to the gateway, shown with tokens that a real API server has minted for real pods.

Not shown here: a token that has expired, because Kubernetes mints none for less than ten minutes. Its refusal, with the
API server's words as they were recorded once, is in tests/gateway/test_identity.py.
"""

import asyncio
import hashlib
import http.client
import json
import re
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec import anatomy, names, storage
from runner_spec.transfer import ARCHIVE_FORMAT_HEADER, ARTIFACTS_PATH, CACHES_PATH, MANIFEST_PATH, MASKS_PATH
from tests.cluster.rendezvous import Rendezvous, rendezvous
from tests.cluster.site import Site, WorkerProcess, ended, job, jobs_namespace, kubernetes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

Json = dict[str, Any]
HOLD = "dynapod.dev/held-by-a-test"  # a finalizer: the pod's object stays when it is deleted
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    reason: str
    log: str  # what the gateway has logged about it
    counted: float  # by how much it raised the refusals of this reason


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def connection(site: Site) -> http.client.HTTPConnection:
    parts = urlsplit(site.gateway_url)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)


def ask(site: Site, method: str, path: str, authorization: str, body: bytes = b"") -> Answer:
    """One request, its path sent exactly as given."""
    before, request_id = refusals(site), uuid.uuid4().hex
    headers = {"Authorization": authorization, "Dynapod-Request-Id": request_id, ARCHIVE_FORMAT_HEADER: "tar.gz"}
    with closing(connection(site)) as client:
        client.request(method, path, body=body, headers={name: value for name, value in headers.items() if value})
        return read(site, client.getresponse(), request_id, before)


def read(site: Site, response: http.client.HTTPResponse, request_id: str, before: Mapping[str, float]) -> Answer:
    with response:
        content = response.read()
    if response.status < 400 or not content:  # the answer to a HEAD has no content, and so no reason
        return Answer(response.status, "", "", 0.0)
    reason = str(json.loads(content)["reason"])
    # A refusal is logged and counted before it is answered.
    lines = [line for line in (site.folder / "gateway.log").read_text().splitlines() if request_id in line]
    assert len(lines) == 1, lines
    return Answer(response.status, reason, lines[0], refusals(site).get(reason, 0.0) - before.get(reason, 0.0))


def refusals(site: Site) -> dict[str, float]:
    with urllib.request.urlopen(f"{site.gateway_url}/metrics", timeout=10) as page:
        text = page.read().decode()
    found = re.findall(r'^dynapod_gateway_refusals_total\{reason="([^"]*)"\} (\S+)$', text, re.MULTILINE)
    return {reason: float(value) for reason, value in found}


async def mint(api: KubernetesApi, *, audience: str = anatomy.TOKEN_AUDIENCE, pod: Json | None = None) -> str:
    """A token by the TokenRequest API, as the kubelet gets it; bound to the pod, if there is one."""
    spec: Json = {"audiences": [audience], "expirationSeconds": 600}
    if pod is not None:
        reference = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        spec["boundObjectRef"] = reference
    path = f"/api/v1/namespaces/{api.namespace}/serviceaccounts/default/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str((await api.call("POST", path, body=body))["status"]["token"])


async def pod_of(api: KubernetesApi, job_id: str) -> Json:
    pods, _ = await api.list_pods(f"{anatomy.LABEL_JOB}={names.label_value(job_id)}")
    (pod,) = pods
    return pod


async def finalizers(api: KubernetesApi, name: str, wanted: list[str]) -> None:
    """Set them, whatever the kubelet writes meanwhile."""
    while (pod := await api.get_pod(name)) is not None:
        pod["metadata"]["finalizers"] = wanted
        try:
            await api.call("PUT", f"/api/v1/namespaces/{api.namespace}/pods/{name}", body=pod)
        except ApiError as error:
            if error.reason != "Conflict":
                raise
        else:
            return


async def until_gone(api: KubernetesApi, name: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        _, version = await api.list_pods(anatomy.LABEL_JOB)
        if await api.get_pod(name) is None:
            return
        async for event in api.watch_pods(anatomy.LABEL_JOB, version, seconds=60):
            if event.kind == "DELETED" and event.object["metadata"]["name"] == name:
                return


@asynccontextmanager
async def running(
    worker: WorkerProcess, *, then: str = "true", **description: Any
) -> AsyncIterator[tuple[str, Rendezvous, Json]]:
    """A job whose step waits for the test: its id, the place where it waits, its pod."""
    async with rendezvous(worker.site.host) as meeting, worker.site.client() as client, worker.site.api() as api:
        job_id = await client.submit(job(f"{meeting.script} && {then}", **description), queue=worker.queue)
        async with asyncio.timeout(PATIENCE_S):
            await meeting.arrived()
        yield job_id, meeting, await pod_of(api, job_id)


async def objects(site: Site) -> dict[str, int]:
    """Everything in the object store but logs, which grow by themselves."""
    return {meta.path: meta.size async for meta in site.store().list("jobs") if "/logs/" not in meta.path}


def test_a_token_opens_its_own_attempt_and_its_own_cache_scope_only(site: Site) -> None:
    async def test() -> None:
        with site.worker("own") as worker:
            async with AsyncExitStack() as stack:
                mine, _, my_pod = await stack.enter_async_context(running(worker, name="mine"))
                other, _, other_pod = await stack.enter_async_context(running(worker, name="other"))
                api = await stack.enter_async_context(site.api())
                me, neighbour = [f"Bearer {await mint(api, pod=pod)}" for pod in (my_pod, other_pod)]

                assert ask(site, "PUT", f"{ARTIFACTS_PATH}/a/f", neighbour, sealed(b"theirs")).status == 201
                assert ask(site, "PUT", f"{ARTIFACTS_PATH}/a/f", me, sealed(b"mine")).status == 201
                stored = await objects(site)
                theirs = storage.artifact_path(other, 1, "a", "f")
                assert set(stored) >= {theirs, storage.artifact_path(mine, 1, "a", "f")}
                assert await site.store().get(theirs) == b"theirs"

                # A request names no job; and no name leads out of its own.
                prefix = storage.attempt_prefix(other, 1).removeprefix("jobs/")
                for climb in ("../../..", "%2e%2e/%2e%2e/%2e%2e", "..%2f..%2f.."):
                    for path in (f"{ARTIFACTS_PATH}/a/{climb}/{prefix}/artifacts/a/f", f"{ARTIFACTS_PATH}/{climb}/f"):
                        answer = ask(site, "PUT", path, me, sealed(b"forged"))
                        assert answer.status in {400, 404}, (path, answer)
                assert await objects(site) == stored
                assert await site.store().get(theirs) == b"theirs"

                assert ask(site, "PUT", f"{CACHES_PATH}/key", neighbour, sealed(b"their cache")).status == 201
                assert ask(site, "GET", f"{CACHES_PATH}?key=key&fallback=k", me).reason == "cache-miss"
                assert ask(site, "HEAD", f"{CACHES_PATH}/key", me).status == 404
                scope = storage.cache_prefix(other_pod["metadata"]["annotations"][anatomy.ANNOTATION_CACHE_SCOPE])
                for path in (
                    f"{CACHES_PATH}/..%2f{scope.removeprefix('caches/')}%2fkey",
                    f"{CACHES_PATH}/../{scope}/key",
                ):
                    assert ask(site, "HEAD", path, me).status in {400, 404}
                assert ask(site, "GET", f"{CACHES_PATH}?key=key", neighbour).status == 200

    asyncio.run(test())


def test_every_other_token_is_refused_logged_and_counted(site: Site) -> None:
    async def test() -> None:
        with site.worker("others") as worker:
            async with AsyncExitStack() as stack:
                _, _, pod = await stack.enter_async_context(running(worker))
                api = await stack.enter_async_context(site.api())
                elsewhere = f"dynapod-elsewhere-{uuid.uuid4().hex[:8]}"
                await stack.enter_async_context(jobs_namespace(elsewhere))
                outside = await stack.enter_async_context(kubernetes(elsewhere))
                double = await outside.call(
                    "POST", f"/api/v1/namespaces/{elsewhere}/pods", body=double_of(pod, elsewhere)
                )
                plain = await api.call("POST", f"/api/v1/namespaces/{api.namespace}/pods", body=plain_pod())
                stack.push_async_callback(api.delete_pod, plain["metadata"]["name"], plain["metadata"]["uid"])

                genuine = await mint(api, pod=pod)
                assert ask(site, "HEAD", f"{CACHES_PATH}/k", f"Bearer {genuine}").status == 404
                here, name = site.namespace, pod["metadata"]["name"]
                head, claims, signature = genuine.split(".")
                api_server = "https://kubernetes.default.svc"
                cases: list[tuple[str, int, str, str, str]] = [
                    # token, status, reason, and whose it is, if that is known
                    ("", 401, "no-token", "None", "None"),
                    ("garbage", 401, "token", "None", "None"),
                    (f"{head}.{claims}.{signature[::-1]}", 401, "token", "None", "None"),
                    (await mint(api, audience="another", pod=pod), 401, "audience", "None", "None"),
                    (await mint(api, audience=api_server, pod=pod), 401, "audience", "None", "None"),
                    (await mint(api), 403, "not-a-pod", here, ""),
                    (await mint(api, pod=plain), 403, "not-managed", here, plain["metadata"]["name"]),
                    (await mint(outside, pod=double), 403, "namespace", elsewhere, name),
                ]
                before = await objects(site)
                for token, status, reason, namespace, owner in cases:
                    authorization = f"Bearer {token}" if token else ""
                    answer = ask(site, "PUT", f"{ARTIFACTS_PATH}/a/f", authorization, sealed(b"x"))
                    assert (answer.status, answer.reason, answer.counted) == (status, reason, 1.0), answer
                    assert f"reason={reason}," in answer.log
                    assert f"namespace={namespace}, pod={owner}" in answer.log
                    assert not token or token.rpartition(".")[2] not in answer.log
                assert await objects(site) == before
        assert genuine.rpartition(".")[2] not in (site.folder / "gateway.log").read_text()

    asyncio.run(test())


def test_once_success_is_recorded_the_pods_token_changes_nothing(site: Site) -> None:
    """Also not by a body that was begun while the pod ran, nor within the time that a verdict is remembered."""

    async def test() -> None:
        artifacts = [{"name": "a", "paths": ["f"]}]
        with site.worker("after") as worker:
            async with (
                running(worker, then="echo built >f", artifacts=artifacts) as (job_id, meeting, pod),
                site.api() as api,
            ):
                name = pod["metadata"]["name"]
                await finalizers(api, name, [HOLD])
                try:
                    bearer = f"Bearer {await mint(api, pod=pod)}"
                    finish = begin(site, f"{ARTIFACTS_PATH}/a/f", bearer, sealed(b"forged"))
                    async with site.client() as client:
                        meeting.release()
                        end = await ended(client, job_id)
                    assert end.verdict == "succeeded", end
                    recorded = await objects(site)
                    late = finish()
                    assert (late.status, late.reason) == (403, "pod-ended"), late
                    for reason in ("pod-ended", "pod-gone"):
                        for path, body in WRITES.items():
                            answer = ask(site, "PUT", path, bearer, body)
                            assert (answer.status, answer.reason, answer.counted) == (403, reason, 1.0), (path, answer)
                            assert f"namespace={site.namespace}, pod={name}" in answer.log
                        assert ask(site, "HEAD", f"{CACHES_PATH}/k", bearer).status in {403, 404}
                        await finalizers(api, name, [])
                        await until_gone(api, name)
                    assert await objects(site) == recorded
                    assert await site.store().get(storage.artifact_path(job_id, 1, "a", "f")) == b"built\n"
                finally:
                    await finalizers(api, name, [])

    asyncio.run(test())


WRITES = {
    f"{ARTIFACTS_PATH}/a/f": sealed(b"forged"),
    f"{CACHES_PATH}/key": sealed(b"forged"),
    MANIFEST_PATH: b'{"forged": true}',
    MASKS_PATH: b'{"values": []}',
}


def begin(site: Site, path: str, authorization: str, body: bytes) -> Callable[[], Answer]:
    """Send all of a PUT but its last byte; what is returned sends that, and reads the answer."""
    client, request_id = connection(site), uuid.uuid4().hex
    client.putrequest("PUT", path)
    for header, value in (("Authorization", authorization), ("Dynapod-Request-Id", request_id)):
        client.putheader(header, value)
    client.putheader("Content-Length", str(len(body)))
    client.endheaders(body[:-1])

    def finish() -> Answer:
        before = refusals(site)
        with closing(client):
            client.send(body[-1:])
            return read(site, client.getresponse(), request_id, before)

    return finish


def plain_pod() -> Json:
    """A pod of the jobs' namespace that dynapod did not create; no node has its label, so it never starts."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "metadata": {"name": f"plain-{uuid.uuid4().hex[:8]}"},
        "spec": {
            "nodeSelector": {"dynapod.dev/no-such-node": "true"},
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "image": "localhost/none", "securityContext": security}],
        },
    }


def double_of(pod: Json, namespace: str) -> Json:
    """A pod elsewhere with the name, the labels and the annotations of a job's pod."""
    metadata = {key: pod["metadata"][key] for key in ("name", "labels", "annotations")}
    return {"metadata": {**metadata, "namespace": namespace}, "spec": plain_pod()["spec"]}

"""dynapod around a real cluster: Redis, object store, gateway and workers on this machine, jobs as real pods.

The processes are the ones that users start (`dynapod gateway`, `dynapod worker`), with the rights of the kubeconfig.
Each worker of `Site.worker` has a queue and a policy of its own, so that tests with different graces do not meet.
"""

import asyncio
import ipaddress
import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters import redis_server
from adapters.kubernetes_api import ApiError, KubernetesApi
from adapters.object_store import ObjectStore
from tests.cluster import images
from tests.cluster.processes import dynapod, free_port, process
from tests.cluster.servers import BUCKET, S3_CREDENTIALS, s3_server
from tests.devcluster.conformance.api_client import TLS_CLOSE_S
from worker.client import JobClient
from worker.job_status import JobStatus

Description = dict[str, Any]
Json = dict[str, Any]

PATIENCE_S = 100.0
NAMESPACE_S = 60.0
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
# Small, because a test node is: limits are requests for `run`, so many jobs at once need little ones.
SMALL = {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "1Gi"}
POLICY: Mapping[str, Any] = {
    "runner_image": images.RUNNER,
    "images": ["localhost/*"],
    "source_schemes": ["git", "https"],
    "grace": "2s",
    "platform_retries": 0,
    "default_resources": SMALL,
    "default_service_resources": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "256Mi"},
    "runner_resources": {
        "requests": {"cpu": "20m", "memory": "64Mi", "ephemeral-storage": "64Mi"},
        "limits": {"cpu": "2", "memory": "512Mi", "ephemeral-storage": "1Gi"},
    },
}


@dataclass(frozen=True)
class Site:
    """Addresses of everything, and how to add workers."""

    kubeconfig: str
    host: str  # an address of this machine that pods reach
    namespace: str
    redis_url: str
    gateway_url: str
    store_url: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # the object store's endpoint and credentials

    @contextmanager
    def worker(self, queue: str, *, under: Sequence[str] = (), **policy: Any) -> Iterator["WorkerProcess"]:
        """`dynapod worker` on a queue of its own, with `POLICY` and what differs from it; ready in the block.

        `under` is a command that runs another one, given as its last arguments, in the same process.
        """
        name = f"{queue}-{uuid.uuid4().hex[:6]}"
        health = free_port("127.0.0.1")
        path = self.folder / f"policy-{name}.json"
        path.write_text(json.dumps({**POLICY, "namespace": self.namespace, "gateway_url": self.gateway_url, **policy}))
        settings = {
            "REDIS_URL": self.redis_url,
            "QUEUES": queue,
            "KUBECONFIG": self.kubeconfig,
            "POLICY": str(path),
            "STORE": self.store_url,
            "HEALTH_PORT": str(health),
            "LEASE_SECONDS": "5",
        }
        environment = {**self.environment, **{f"DYNAPOD_{key}": value for key, value in settings.items()}}
        log = self.folder / f"worker-{name}.log"
        command = [*under, *dynapod("worker")]
        with process(command, log=log, ready=answers(health, "/readyz"), environment=environment) as running:
            yield WorkerProcess(self, queue, running, health, log)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[JobClient]:
        """A producer's view: submit, wait, logs, cancel."""
        async with redis_server.connect(self.redis_url) as connections:
            yield JobClient(connections.control, self.store())

    def store(self) -> ObjectStore:
        """The object store that workers and gateway use."""
        os.environ.update(self.environment)  # where obstore looks for endpoint and credentials
        return ObjectStore.from_url(self.store_url)

    @asynccontextmanager
    async def api(self) -> AsyncIterator[KubernetesApi]:
        """The Kubernetes API, with the rights of the kubeconfig, in the jobs' namespace."""
        async with kubernetes(self.namespace) as api:
            yield api

    def command(self, *arguments: str, timeout: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """The `dynapod` command as a user types it, pointed at this site."""
        settings = {"REDIS_URL": self.redis_url, "STORE": self.store_url, "KUBECONFIG": self.kubeconfig}
        environment = {**os.environ, **self.environment, **{f"DYNAPOD_{k}": v for k, v in settings.items()}}
        return subprocess.run(
            dynapod(*arguments), check=False, capture_output=True, text=True, env=environment, timeout=timeout
        )


@dataclass(frozen=True)
class WorkerProcess:
    """A worker that runs, and what tests ask of its jobs."""

    site: Site
    queue: str
    process: "subprocess.Popen[bytes]"
    health_port: int
    log: Path

    async def run(
        self, description: Description, *, job_id: str | None = None, patience: float = PATIENCE_S
    ) -> "Ended":
        """Submit a job, wait for its end, read its logs.

        Raises:
            TimeoutError: it has not ended after `patience` seconds.
        """
        async with self.site.client() as client:
            job = await client.submit(description, job_id=job_id, queue=self.queue)
            return await ended(client, job, patience)


@dataclass(frozen=True)
class Ended:
    """A job that has ended: its status and, by container, the lines of its last attempt's logs."""

    status: JobStatus
    logs: Mapping[str, list[bytes]]

    @property
    def verdict(self) -> str:
        return str(self.status.result.get("verdict"))

    @property
    def reason(self) -> str:
        return str(self.status.result.get("reason"))

    @property
    def output(self) -> bytes:
        """All lines of `run` that the shim did not write."""
        return b"\n".join(line for line in self.logs.get("run", []) if not line.startswith(b"[dynapod]"))


async def ended(client: JobClient, job: str, patience: float = PATIENCE_S) -> Ended:
    """Wait for a job's end and read its logs.

    Raises:
        TimeoutError: it has not ended after `patience` seconds.
    """
    async with asyncio.timeout(patience):
        status = await client.wait(job)
    logs: dict[str, list[bytes]] = {}
    async for line in client.logs(job, status.attempts[-1].number if status.attempts else 1):
        logs.setdefault(line.container, []).append(line.text)
    return Ended(status, logs)


async def said(client: JobClient, job: str, words: bytes, *, container: str = "run") -> None:
    """Wait until a line of a container of the first attempt holds these words.

    Raises:
        AssertionError: the attempt ended before that.
        TimeoutError: it has not after `PATIENCE_S` seconds.
    """
    lines = client.logs(job, 1, container=container, follow=True)
    async with asyncio.timeout(PATIENCE_S), aclosing(lines):
        async for line in lines:
            if words in line.text:
                return
    raise AssertionError(f"{container} of {job} ended and never said {words!r}: {(await client.status(job)).result}")


async def shown(client: JobClient, job: str, seen: Callable[[JobStatus], bool]) -> JobStatus:
    """The first status of a job that is as wanted.

    Raises:
        AssertionError: the job ended before that.
        TimeoutError: none is after `PATIENCE_S` seconds.
    """
    status = None
    async with asyncio.timeout(PATIENCE_S):
        async for status in client.changes(job, interval=0.05):
            if seen(status):
                return status
    raise AssertionError(f"{job} ended first: {status}")


def job(*scripts: str, **more: Any) -> Description:
    """A description whose steps are the scripts, in the tests' job image."""
    steps = [{"name": f"step {number}", "run": script} for number, script in enumerate(scripts, 1)]
    return {"name": "test", "image": images.JOB, "steps": steps, **more}


def answers(port: int, path: str, host: str = "127.0.0.1") -> Callable[[], bool]:
    """A question: whether a GET is answered with a status below 400."""

    def ask() -> bool:
        try:
            urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    return ask


@asynccontextmanager
async def kubernetes(namespace: str) -> AsyncIterator[KubernetesApi]:
    """The Kubernetes API with the rights of the kubeconfig."""
    api = await KubernetesApi.connect(namespace)
    try:
        yield api
    finally:
        await api.close()
        await asyncio.sleep(TLS_CLOSE_S)


@asynccontextmanager
async def jobs_namespace(name: str, *, labels: Mapping[str, str] = RESTRICTED) -> AsyncIterator[None]:
    """A namespace that admits restricted pods only, removed afterwards with everything in it."""
    async with kubernetes(name) as api:
        await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name, "labels": dict(labels)}})
        try:
            await _until_usable(api)
            yield
        finally:
            await api.call("DELETE", f"/api/v1/namespaces/{name}")


async def _until_usable(api: KubernetesApi) -> None:
    async with asyncio.timeout(NAMESPACE_S):
        while True:
            try:
                await api.call("GET", f"/api/v1/namespaces/{api.namespace}/serviceaccounts/default")
            except ApiError as error:
                if not error.missing:
                    raise
            else:
                return
            await asyncio.sleep(0.1)


def host_address() -> str:
    """An address of this machine that pods reach: DYNAPOD_TEST_HOST, else that of a node which is this machine, else
    the one from which this machine talks to the API server."""
    if given := os.environ.get("DYNAPOD_TEST_HOST"):
        return given
    return asyncio.run(_find_host_address())


async def _find_host_address() -> str:
    async with kubernetes("default") as api:
        nodes = await api.call("GET", "/api/v1/nodes")
        server = await api.call("GET", "/api/v1/namespaces/default/endpoints/kubernetes")
    for node in nodes["items"]:
        for address in node["status"].get("addresses", []):
            # A fake node may have an empty one, which means every address to `create_server`.
            if address["type"] == "InternalIP" and address["address"] and _is_ours(address["address"]):
                return str(address["address"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting UDP sends nothing
        probe.connect((server["subsets"][0]["addresses"][0]["ip"], 443))
        return str(ipaddress.ip_address(probe.getsockname()[0]))


def _is_ours(address: str) -> bool:
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        return False
    return True


@contextmanager
def site(folder: Path, *, s3: bool = True) -> Iterator[Site]:
    """A site with a namespace of its own; its artifacts and caches in S3, or in a local folder."""
    host = host_address()
    namespace = f"dynapod-jobs-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        scope = jobs_namespace(namespace)
        runner.run(scope.__aenter__())
        stack.callback(lambda: runner.run(scope.__aexit__(None, None, None)))
        redis = stack.enter_context(redis_server.start_server(folder / "redis", durable=True))
        store, environment = str(folder / "store"), {}
        if s3:
            endpoint = stack.enter_context(s3_server(folder, host))
            store, environment = f"s3://{BUCKET}", {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
        port = free_port(host)
        settings = {"HOST": host, "PORT": str(port), "STORE": store, "REDIS_URL": redis.url, "NAMESPACES": namespace}
        settings = {f"DYNAPOD_GATEWAY_{name}": value for name, value in settings.items()}
        command = dynapod("gateway", "--kubeconfig", os.environ["KUBECONFIG"])
        stack.enter_context(
            process(
                command,
                log=folder / "gateway.log",
                ready=answers(port, "/healthz", host),
                environment={**environment, **settings},
            )
        )
        yield Site(
            kubeconfig=os.environ["KUBECONFIG"],
            host=host,
            namespace=namespace,
            redis_url=redis.url,
            gateway_url=f"http://{host}:{port}",
            store_url=store,
            folder=folder,
            environment=environment,
        )

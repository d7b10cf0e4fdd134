"""Everything in one process and one event loop: Redis, the cluster, the gateway and a worker.

Only the parts around them differ from production: the queue, the worker, the Kubernetes client and the runner are the
same code, over real HTTP.
"""

import os
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

import runner
from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore
from adapters.redis_server import AsyncClient, Connections
from devcluster.cluster import NOTICE, DevCluster
from devcluster.process_runtime import Image, ProcessRuntime
from gateway.identity import CachingTokenReviewer, KubernetesTokenReviewer
from gateway.masks import RedisMasks
from gateway.server import GatewayServer, create_app
from runner_spec.policy import DEFAULT_POLICY, Policy, local_policy
from worker.service import Worker
from worker.settings import WorkerSettings

NAMESPACE: Final = DEFAULT_POLICY.namespace
# Of the environment, jobs see nothing but this: the network's settings are the machine's, as its PATH is.
PASSED_ON: Final = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_INDEX_URL",
    "PIP_CERT",
    "PIP_PROXY",
)


@dataclass(slots=True)
class Embedded:
    """The little world: what a client of it needs."""

    redis: AsyncClient
    store: ObjectStore
    policy: Policy
    worker: Worker
    cluster: DevCluster
    gateway: GatewayServer
    notices: list[str] = field(default_factory=list)


def runner_image() -> Image:
    """The runner's image on this machine: this very Python with this very `runner`."""
    home = Path(runner.__file__).parent.parent
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return Image(env={**network_env(), "PYTHONPATH": str(home), "PYTHONUNBUFFERED": "1"}, path=path)


def network_env() -> dict[str, str]:
    """How this machine reaches package indexes and git servers: without it, jobs would fail behind a proxy."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}


def host_path() -> str:
    """PATH for jobs: this machine's, without the virtual environment that dynapod itself runs in."""
    own = Path(sysconfig.get_path("scripts")).resolve()
    inside = sys.prefix != sys.base_prefix
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(f for f in folders if f and not (inside and Path(f).resolve() == own))


@asynccontextmanager
async def world(
    connections: Connections,
    state: Path,
    *,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    keep: bool = False,
    settings: WorkerSettings | None = None,
    policy: Mapping[str, Any] | None = None,
    port: int = 0,
) -> AsyncIterator[Embedded]:
    """A cluster of this machine's processes, a gateway and a worker around a given Redis.

    Args:
        connections: Redis.
        state: folder of the object store (caches, artifacts, logs), kept between runs.
        secrets: Secrets of the jobs' namespace: name → key → value.
        keep: leave the pods' folders behind, to be looked at.
        settings: of the worker; the defaults when None.
        policy: fields that differ from the local policy.
        port: of the cluster's API; 0 takes a free one.
    """
    store = ObjectStore.from_url(str(state / "store"))
    async with AsyncExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="dynapod-")) if keep else None
        if root is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dynapod-", ignore_cleanup_errors=True)))
        runtime = ProcessRuntime(
            {DEFAULT_POLICY.runner_image: runner_image()}, default=Image(env=network_env(), path=host_path())
        )
        cluster = DevCluster(
            root / "cluster",
            runtime,
            namespaces=[NAMESPACE],
            service_accounts=[DEFAULT_POLICY.service_account],
            port=port,
        )
        await cluster.start()
        stack.push_async_callback(cluster.stop)
        api = await KubernetesApi.connect(NAMESPACE, kubeconfig=cluster.kubeconfig())
        stack.push_async_callback(api.close)
        for name, data in (secrets or {}).items():
            secret = {"metadata": {"name": name}, "stringData": dict(data)}
            await api.call("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", body=secret)
        registry = CollectorRegistry()
        reviewer = CachingTokenReviewer(KubernetesTokenReviewer(api, namespaces=[NAMESPACE]))
        masks = RedisMasks(connections.control)
        server = GatewayServer(
            create_app(store=store, reviewer=reviewer, masks=masks, registry=registry), drain_seconds=1.0
        )
        await server.start()
        stack.push_async_callback(server.stop)
        effective = local_policy(gateway_url=server.url, **(policy or {}))
        worker = Worker(
            connections=connections,
            api=api,
            store=store,
            policy=effective,
            settings=settings or WorkerSettings(),
            registry=registry,
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
        notices = [NOTICE, *([f"the pods' folders are kept in {root}"] if keep else [])]
        yield Embedded(connections.control, store, effective, worker, cluster, server, notices)


@asynccontextmanager
async def embedded(
    state: Path,
    *,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    keep: bool = False,
    **more: Any,  # noqa: ANN401 - see `world`
) -> AsyncIterator[Embedded]:
    """The little world with Redis inside this process, for `dynapod run` and tests: nothing to install."""
    async with redis_server.embed() as connections, world(connections, state, secrets=secrets, keep=keep, **more) as it:
        yield it

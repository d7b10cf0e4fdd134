"""A cluster, a gateway and workers against a real Redis, with workers in this process or in ones that can be killed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapters import redis_server
from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore
from adapters.redis_server import Connections
from devcluster.audit import FaultPlan
from devcluster.cluster import DevCluster
from devcluster.process_runtime import Image, ProcessRuntime
from devcluster.runtime import Runtime
from runner_spec.policy import DEFAULT_POLICY, local_policy
from worker.cli.embedded import host_path, runner_image
from worker.client import JobClient
from worker.service import Worker
from worker.settings import WorkerSettings

NAMESPACE = DEFAULT_POLICY.namespace
LEASE_S = 2.0
# Nothing listens there: for jobs that need no gateway.
NO_GATEWAY = "http://127.0.0.1:9"


class Site:
    """A cluster and a Redis; workers come and go."""

    def __init__(self, url: str, connections: Connections, cluster: DevCluster, folder: Path) -> None:
        self.url = url
        self.connections = connections
        self.cluster = cluster
        self.folder = folder
        self.store = ObjectStore.from_url(str(folder / "store"))
        self.client = JobClient(connections.control, self.store)
        self.kubeconfig = folder / "kubeconfig"
        cluster.write_kubeconfig(self.kubeconfig)
        self.policy = folder / "policy.yaml"
        # No dry runs to find out about user namespaces: tests count creations.
        fields = {"gateway_url": NO_GATEWAY, "grace": "1s", "platform_retries": 1, "user_namespaces": False}
        self.policy.write_text(json.dumps(fields))

    def created_pods(self) -> list[str]:
        """Names, one for each creation that the API's own log shows."""
        return [e.name for e in self.cluster.audit if (e.verb, e.resource, e.code) == ("create", "pods", 201)]

    def pod_writes(self) -> int:
        return sum(entry.resource.startswith("pods") for entry in self.cluster.audit)

    @asynccontextmanager
    async def worker(self, *, capacity: int = 1000) -> AsyncIterator[Worker]:
        """A worker in this process."""
        async with AsyncExitStack() as stack:
            connections = await stack.enter_async_context(redis_server.connect(self.url))
            api = await KubernetesApi.connect(NAMESPACE, kubeconfig=self.cluster.kubeconfig())
            stack.push_async_callback(api.close)
            worker = Worker(
                connections=connections,
                api=api,
                store=self.store,
                policy=local_policy(gateway_url=NO_GATEWAY, grace="1s"),
                settings=WorkerSettings(capacity=capacity),
                registry=CollectorRegistry(),
            )
            await worker.start()
            stack.push_async_callback(worker.stop)
            yield worker

    @asynccontextmanager
    async def worker_process(self) -> AsyncIterator["asyncio.subprocess.Process"]:
        """A worker as `dynapod worker` starts it, in a process of its own."""
        settings = {
            "REDIS_URL": self.url,
            "KUBECONFIG": str(self.kubeconfig),
            "NAMESPACE": NAMESPACE,
            "POLICY": str(self.policy),
            "STORE": str(self.folder / "store"),
            "LEASE_SECONDS": str(LEASE_S),
            "HEALTH_PORT": "0",
            "LOG_LEVEL": "warning",
        }
        environment = {**os.environ, **{f"DYNAPOD_{name}": value for name, value in settings.items()}}
        code = "import sys; from worker.cli.main import main; sys.exit(main())"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, "worker", env=environment)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def site(
    url: str, folder: Path, runtime: Runtime | None = None, faults: FaultPlan | None = None
) -> AsyncIterator[Site]:
    """A cluster that runs processes, unless another runtime is given, and connections to the Redis at `url`."""
    runtime = runtime or ProcessRuntime({DEFAULT_POLICY.runner_image: runner_image()}, default=Image(path=host_path()))
    accounts = [DEFAULT_POLICY.service_account]
    cluster = DevCluster(folder / "cluster", runtime, namespaces=[NAMESPACE], service_accounts=accounts, faults=faults)
    await cluster.start()
    try:
        async with redis_server.connect(url) as connections:
            yield Site(url, connections, cluster, folder)
    finally:
        await cluster.stop()

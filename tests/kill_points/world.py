"""Where workers are killed: a cluster with scripted containers, a real Redis behind a door, a store in a folder."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from adapters.object_store import ObjectStore
from adapters.redis_connections import Connections, connect
from adapters.redis_server import start_server
from devcluster.audit import Fault, FaultPlan, RequestFacts
from devcluster.cluster import DevCluster
from devcluster.resources import PODS, Object
from runner_spec import storage, wire
from runner_spec.policy import DEFAULT_POLICY
from tests.kill_points.containers import ScriptedRuntime
from tests.kill_points.door import Door
from worker.client import JobClient

NAMESPACE: Final = DEFAULT_POLICY.namespace
LEASE_S: Final = 1.0
# A machine that is busy with killing answers late.
PATIENCE_S: Final = 60.0
# Nothing listens there: scripted containers need no gateway.
NO_GATEWAY: Final = "http://127.0.0.1:9"
POLICY: Final = {
    "gateway_url": NO_GATEWAY,
    "grace": "1s",
    "platform_retries": 1,
    "platform_backoff": [1],
    "job_backoff": [1],
    "user_namespaces": False,
    "secrets": {"*": ["*"]},
}


class World:
    """One of several that exist at the same time; runs follow one another in it."""

    def __init__(self, folder: Path, connections: Connections, door: Door) -> None:
        self.folder = folder
        self.connections = connections
        self.redis: Any = connections.control
        self.door = door
        self.store = ObjectStore.from_url(str(folder / "store"))
        self.client = JobClient(connections.control, self.store)
        self.runtime = ScriptedRuntime(
            folder / "containers", bound=self._is_bound, checked_out=self._mask, uploaded=self._upload
        )
        accounts = [DEFAULT_POLICY.service_account]
        self.cluster = DevCluster(
            folder / "cluster",
            self.runtime,
            namespaces=[NAMESPACE],
            service_accounts=accounts,
            faults=self._fault,
            back_off_seconds=0.3,
        )
        self.faults: FaultPlan | None = None
        self.kubeconfig = folder / "kubeconfig"
        self._away = folder / "store" / "jobs.away"

    def policy(self, **changes: object) -> Path:
        """A policy file: as usual, but for the changes."""
        text = json.dumps({**POLICY, **changes})
        path = self.folder / f"policy-{abs(hash(text))}.yaml"
        path.write_text(text)
        return path

    def shut_store(self) -> None:
        """The object store is away: every path leads in a circle."""
        jobs = self.folder / "store" / "jobs"
        jobs.mkdir(exist_ok=True)
        jobs.rename(self._away)
        jobs.symlink_to(jobs)

    def heal(self) -> None:
        """All faults end."""
        self.faults = None
        self.door.open()
        if self._away.exists():
            jobs = self.folder / "store" / "jobs"
            jobs.unlink()
            self._away.rename(jobs)

    def _fault(self, request: RequestFacts) -> Fault | None:
        return self.faults(request) if self.faults is not None else None

    def _is_bound(self, pod: Object) -> bool:
        found = self.cluster.store[PODS].get((NAMESPACE, pod["metadata"]["name"]))
        if found is None or found.obj["metadata"]["uid"] != pod["metadata"]["uid"]:
            return False
        return "nodeName" in found.obj["spec"]

    async def _mask(self, job: str, attempt: int) -> None:
        """What checkout tells the gateway: the values to hide."""
        script = self.runtime.scripts.get(job)
        if script is not None and script.masks:
            values = [base64.b64encode(value.encode()).decode() for value in script.masks]
            await self.redis.set(wire.masks_key(job, attempt), json.dumps(values), ex=600)

    async def _upload(self, job: str, attempt: int) -> None:
        """What upload leaves in the store, through the gateway."""
        path = self.folder / "store" / storage.manifest_path(job, attempt)
        if self._away.exists():
            path = self._away / path.relative_to(self.folder / "store" / "jobs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """A new one."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(start_server(folder / "redis"))
        connections = await stack.enter_async_context(connect(server.url, control_timeout=PATIENCE_S))
        door = await stack.enter_async_context(Door(server.url))
        here = World(folder, connections, door)
        await here.cluster.start()
        stack.push_async_callback(here.cluster.stop)
        here.cluster.write_kubeconfig(here.kubeconfig)
        yield here

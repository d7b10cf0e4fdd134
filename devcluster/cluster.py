"""The cluster as one object: start it, give its kubeconfig to clients, stop it."""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from aiohttp import web

from devcluster.api import Api, token_prefix
from devcluster.audit import KEPT_ENTRIES, AuditEntry, AuditLog, FaultPlan
from devcluster.kubelet import DEFAULT_NODE_NAME, Kubelet
from devcluster.registry import DEFAULT_ACCOUNT, Registry
from devcluster.resources import NAMESPACES, PODS, SERVICE_ACCOUNTS
from devcluster.runtime import Runtime
from devcluster.store import DEFAULT_HISTORY, Store
from devcluster.tokens import TokenIssuer
from devcluster.volumes import remove_tree

NOTICE: Final = (
    "Containers run as plain processes of this machine and this user: nothing isolates them from your files, your "
    "network or each other. Run only jobs that you would run in your own shell."
)
_HOST: Final = "127.0.0.1"
_TOKEN_BYTES: Final = 32
# Requests under way get this long at shutdown (seconds); watches and logs are ended before.
_SHUTDOWN_SECONDS: Final = 1.0


class ClusterError(Exception):
    """The cluster cannot be started; the message says what to do."""


class DevCluster:
    """An embedded cluster of one node, in the running event loop.

    Args:
        root: a folder of its own, for pods and the lock; two clusters cannot share one.
        runtime: what runs containers.
        namespaces: created at start, each with the service accounts of `service_accounts`.
        port: 0 picks a free one. The API listens on 127.0.0.1 only.
        advertise: the URL that kubeconfigs name, if it is not `url` (a proxy's, say).
        history: events kept per resource; a watch from further back gets 410 Expired.
        retry_seconds: how often a pod that waits for a secret or config map looks again.
        back_off_seconds: first back-off of a crashing sidecar; it doubles up to 300 s.
        faults: scripted faults, asked about every request.
        kept_audit: entries that the audit log keeps, the newest ones.
    """

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        *,
        namespaces: Sequence[str] = ("default",),
        service_accounts: Sequence[str] = (),
        port: int = 0,
        advertise: str | None = None,
        node_name: str = DEFAULT_NODE_NAME,
        node_labels: Mapping[str, str] | None = None,
        history: int = DEFAULT_HISTORY,
        retry_seconds: float = 1.0,
        back_off_seconds: float = 10.0,
        faults: FaultPlan | None = None,
        kept_audit: int = KEPT_ENTRIES,
    ) -> None:
        self._root = root
        self._runtime = runtime
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._service_accounts = tuple(name for name in service_accounts if name != DEFAULT_ACCOUNT)
        self._port = port
        self._advertise = advertise
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._audit = AuditLog(kept_audit)
        self.store = Store(history=history)
        registry = Registry(self.store)
        self._tokens = TokenIssuer(self._pod_lives)
        self._kubelet = Kubelet(
            self.store,
            registry,
            runtime,
            self._tokens,
            root / "pods",
            name=node_name,
            labels=node_labels,
            retry_seconds=retry_seconds,
            back_off_seconds=back_off_seconds,
        )
        registry.observe(self._kubelet)
        self._registry = registry
        self._faults = faults
        self._api: Api | None = None
        self._runner: web.AppRunner | None = None
        self._lock: TextIO | None = None

    async def start(self) -> None:
        """Listen; returns when the API answers.

        Raises:
            ClusterError: the folder is another cluster's, or the port is taken.
        """
        await asyncio.to_thread(self._prepare_root)
        for name in self._namespaces:
            self._registry.create(NAMESPACES, "", {"metadata": {"name": name}})
            for account in self._service_accounts:
                self._registry.create(SERVICE_ACCOUNTS, name, {"metadata": {"name": account}})
        await self._listen()

    async def _listen(self) -> None:
        self._api = Api(self.store, self._registry, self._kubelet, self._tokens, self._token, self._audit, self._faults)
        # Without handler_cancellation a watch of a client that has gone would stay until its next event.
        self._runner = web.AppRunner(
            self._api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _HOST, self._port, backlog=1024).start()
        except OSError as error:
            await self.stop()
            raise ClusterError(f"port={self._port}: {error.strerror}; choose another, or 0 for a free one") from error
        self._port = self._runner.addresses[0][1]  # kept over a restart: clients come back to it

    async def restart_api(self, away_seconds: float, *, compact: bool = False) -> None:
        """The API server goes away for so long, and comes back at the same address with the same objects.

        Every connection is reset, in the middle of an answer too. The pods run on: the kubelet is another process in
        real life. `compact`: the history is gone when it is back, so that every watch has to begin anew (410).

        Raises:
            ClusterError: it is not running, or somebody has taken the port meanwhile.
        """
        runner, self._runner = self._runner, None
        if self._api is None or runner is None or runner.server is None:
            raise ClusterError("the API server does not run: start the cluster, or wait until it is back")
        for site in list(runner.sites):
            await site.stop()  # first of all: nobody may come in while the others are thrown out
        for connection in runner.server.connections:
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        self._api.close()
        await runner.cleanup()
        await asyncio.sleep(away_seconds)
        if self._lock is None:
            return  # the cluster was stopped meanwhile
        if compact:
            self.compact()
        await self._listen()

    def compact(self) -> None:
        """Forget the history, as etcd's compaction does: to begin at an older resourceVersion is answered with 410."""
        self.store.compact()

    def _prepare_root(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = (self._root / "lock").open("a", encoding="ascii")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            self._lock = None
            raise ClusterError(f"root={self._root}: another cluster uses this folder; give each its own") from error
        remove_tree(self._root / "pods")  # left by a cluster that was killed

    async def stop(self) -> None:
        """Stop listening, kill every container, remove the pods' folders. May be called twice."""
        if self._api is not None:
            self._api.close()
        await self._kubelet.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, also while the API server is away; only once the cluster is started."""
        if self._api is None or not self._port:
            raise ClusterError("the cluster is not started; await start() first")
        return f"http://{_HOST}:{self._port}"

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return self._token

    @property
    def audit(self) -> list[AuditEntry]:
        """The mutating requests so far, oldest first (a copy)."""
        return self._audit.entries()

    @property
    def pods(self) -> int:
        """How many pods there are."""
        return len(self.store[PODS])

    def evict(self, namespace: str, name: str, *, reason: str = "Evicted", message: str | None = None) -> bool:
        """End a pod as its kubelet does when the node runs short of memory: phase Failed, reason Evicted.

        Writing such a status through the API does not end a pod: as in a real cluster, the kubelet takes it back.

        Returns:
            Whether there was a running pod of this name.
        """
        version = self.store[PODS].get((namespace, name))
        if version is None:
            return False
        why = message or "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        return self._kubelet.evict(version.obj["metadata"]["uid"], reason, why)

    def kubeconfig(self, namespace: str | None = None, *, for_kubectl: bool = False) -> dict[str, Any]:
        """A kubeconfig for the administrator.

        `for_kubectl`: with the token in the server's path too. kubectl (client-go) drops tokens on plain HTTP.
        """
        name = "devcluster"
        place = namespace or (self._namespaces[0] if self._namespaces else "default")
        server = (self._advertise or self.url) + (token_prefix(self._token) if for_kubectl else "")
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server}}],
            "users": [{"name": name, "user": {"token": self._token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": place}}],
            "current-context": name,
        }

    def write_kubeconfig(self, path: Path) -> None:
        """Write one for kubectl (and every other client; JSON is YAML), readable by this user only."""
        with suppress(FileNotFoundError):
            path.unlink()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(self.kubeconfig(for_kubectl=True), file, indent=1)

    def _pod_lives(self, namespace: str, name: str, uid: str) -> bool:
        version = self.store[PODS].get((namespace, name))
        return version is not None and version.obj["metadata"]["uid"] == uid

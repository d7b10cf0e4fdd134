"""One chaos run on a real cluster: real pods and pods of a fake node, and everything that goes wrong with them.

The storm of `tests.chaos` with another world below it: its proxy stands before a real API server, its jobs are real
pods that report to a collector of ours, and its cluster is harmed as people and machines do it: pods are deleted and
evicted, nodes drained, the cluster's own components killed.
"""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError as ServerError

from adapters import redis_server
from adapters.object_store import ObjectStore
from adapters.redis_server import RedisError
from tests.chaos.gateway_process import GatewayProcess
from tests.chaos.jobs import Task
from tests.chaos.ledger import read_ledger
from tests.chaos.records import Evidence, JobRecord, PodWrite
from tests.chaos.redis_evidence import read_evidence
from tests.chaos.redis_pair import RedisPair
from tests.chaos.staff import Hand, Staff
from tests.chaos.storm import LEASE_S, PROGRESS_S, RESULT_TTL_S, Say, Scale, Storm, batched
from tests.chaos_cluster.cluster_api import ClusterApi
from tests.chaos_cluster.collector import Collector
from tests.chaos_cluster.components import Components
from tests.chaos_cluster.evidence import fake_runs, pod_writes, real_runs, with_seen, without_logs, without_shim
from tests.chaos_cluster.fake_logs import ClusterProxy
from tests.chaos_cluster.ground import FAKE, REAL, survey
from tests.chaos_cluster.pod_history import PodHistory
from tests.chaos_cluster.stranger import Stranger
from tests.chaos_cluster.tasks import fake_tasks, real_tasks
from tests.cluster.site import jobs_namespace
from worker.client import JobClient, NotReplicatedError
from worker.settings import WorkerSettings

SETTLE_S: Final = 400.0
# Jobs that are submitted and not ended, at most: what two cores can run at a time, and what is many.
OPEN: Final[Mapping[str, int]] = {REAL: 14, FAKE: 200}
AT_ONCE: Final[Mapping[str, int]] = {REAL: 2, FAKE: 20}
# The share of the time over which the jobs are spread.
SUBMITTING: Final = 0.85
# Seconds that the kubelet has to kill a pod that was deleted by force (2 s, and its loop) before we kill the kubelet:
# what runs on for want of one is Kubernetes' own word, and would hide what is dynapod's fault.
FORCE_S: Final = 5.0
DRAINED_S: Final = 3.0
# Seconds after which a fake pod has either ended or been forgotten; they last one.
FORGOTTEN_S: Final = 8.0
PODS_HARMED: Final[Mapping[str, int]] = {"evict": 6, "delete": 5, "delete by force": 4, "drain": 1, "API away": 3}
DEFAULT_COMPONENTS: Final = ("apiserver", "etcd", "kubelet-node1", "controller-manager", "scheduler")


@dataclass(frozen=True, slots=True)
class Site:
    """Where the run takes place. `host` is an address of this machine that pods reach; `jobs` are numbers by kind."""

    kubeconfig: Path
    host: str
    fake_label: str
    jobs: Mapping[str, int]
    components: Components


class Crews(Staff):
    """Workers of several kinds, each with its own settings; who is hired joins the smallest crew."""

    def __init__(self, folder: Path, settings: Mapping[str, WorkerSettings]) -> None:
        super().__init__(folder, next(iter(settings.values())))
        self._kinds = settings
        self._kind_of: dict[Hand, str] = {}

    def hire(self) -> Hand:
        sizes = {kind: sum(self._kind_of[hand] == kind for hand in self.hands) for kind in self._kinds}
        kind = min(sizes, key=lambda kind: sizes[kind])
        self._settings = self._kinds[kind]
        hand = super().hire()
        self._kind_of[hand] = kind
        return hand


class PodGateway(GatewayProcess):
    """A gateway that pods reach: it listens on another address of this machine."""

    def __init__(self, host: str, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self._settings = replace(self._settings, host=host)
        self.url = f"http://{host}:{self._settings.port}"


class ClusterStorm(Storm):
    """See the module's text. `notes` say what the report must not leave unsaid."""

    def __init__(self, folder: Path, seed: int, scale: Scale, say: Say, site: Site) -> None:
        super().__init__(folder, seed, scale, say)
        self.notes: list[str] = []
        self._site = site
        self._components = site.components
        self._kind_of: dict[str, str] = {}
        self._open_of: dict[str, int] = {}
        self._no_kubelet = asyncio.Lock()  # held while a component is down, and while the kubelet has to act

    # the world

    async def _build(self, stack: AsyncExitStack) -> None:
        self._began = time.time()
        self._cluster_api = await stack.enter_async_context(ClusterApi(self._site.kubeconfig))
        self._ground = await survey(self._cluster_api, self._site.fake_label)
        mark = uuid.uuid4().hex[:6]
        self._namespaces = {kind: f"dynapod-chaos-{kind}-{mark}" for kind in self._ground.kinds}
        for namespace in self._namespaces.values():
            await stack.enter_async_context(jobs_namespace(namespace))
        if self._components.breakable:
            stack.push_async_callback(self._components.mend)
        await self._build_witnesses(stack)
        self._api = proxy = ClusterProxy.in_front_of(self._cluster_api.kubeconfig, self._weather.kubernetes)
        proxy.namespace_of_fakes = self._namespaces.get(FAKE, "")
        await stack.enter_async_context(self._api)
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(self._api.kubeconfig(self._cluster_api.kubeconfig)))
        await self._build_dynapod(stack, kubeconfig)
        self._note_what_is_left_out()

    async def _build_witnesses(self, stack: AsyncExitStack) -> None:
        collector = Collector(self._site.host, self._folder / "ledger.jsonl")
        self._collector = await stack.enter_async_context(collector)
        self._seen = {kind: PodHistory(self._cluster_api, name) for kind, name in self._namespaces.items()}
        self._watching = [asyncio.create_task(history.follow()) for history in self._seen.values()]
        dice = self._weather.dice("stranger")
        self._stranger = Stranger(self._cluster_api, list(self._seen.values()), dice)
        if FAKE in self._seen:
            self._watching.append(asyncio.create_task(self._remind_the_fake_node()))
        stack.push_async_callback(self._stop_watching)

    async def _remind_the_fake_node(self) -> None:
        while True:
            await asyncio.sleep(FORGOTTEN_S / 2)
            now = time.time()
            late = [pod for pod in self._seen[FAKE].there if not pod.ended and now - pod.seen > FORGOTTEN_S]
            await self._stranger.remind(late)

    async def _stop_watching(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _build_dynapod(self, stack: AsyncExitStack, kubeconfig: Path) -> None:
        self._redis = RedisPair(self._folder / "redis", self._weather.redis)
        await self._redis.start()
        stack.push_async_callback(self._redis.stop)
        store = self._folder / "store"
        self._store = ObjectStore.from_url(str(store))
        self._gateway = PodGateway(
            self._site.host,
            self._folder,
            redis_url=self._redis.url,
            kubeconfig=kubeconfig,
            store=store,
            namespace=self._namespaces[REAL],
        )
        stack.push_async_callback(self._gateway.close)
        self._gateway.start()
        connections = await stack.enter_async_context(redis_server.connect(self._redis.url))
        self._client = JobClient(connections.control, self._store)
        settings = {kind: self._settings_of(kind, kubeconfig) for kind in self._namespaces}
        self._staff = Crews(self._folder, settings)
        stack.push_async_callback(self._staff.dismiss)
        for _ in range(self._scale.workers):
            self._staff.hire()

    def _settings_of(self, kind: str, kubeconfig: Path) -> WorkerSettings:
        policy = self._folder / f"policy-{kind}.json"
        policy.write_text(json.dumps(self._ground.policy(kind, self._namespaces[kind], self._gateway.url)))
        return WorkerSettings(
            redis_url=self._redis.url,
            queues=(kind,),
            kubeconfig=str(kubeconfig),
            policy=str(policy),
            store=str(self._folder / "store"),
            lease_seconds=LEASE_S,
            health_port=0,
            log_format="json",
        )

    def _note_what_is_left_out(self) -> None:
        if FAKE not in self._namespaces:
            self.notes.append(f"left out: jobs on a fake node, because no node has the label {self._site.fake_label}")
        if not self._components.breakable:
            self.notes.append("left out: kills of the cluster's components, because no commands break and mend them")
        for note in self.notes:
            self._say(note)

    # rough

    async def _produce(self) -> None:
        """Submit jobs of all kinds, spread over the time."""
        real = real_tasks(self._seed, self._site.jobs[REAL], self._collector.address)
        made: dict[str, Iterable[Task]] = {REAL: real}
        if FAKE in self._namespaces:
            made[FAKE] = fake_tasks(self._seed, self._site.jobs[FAKE])
        await asyncio.gather(*(self._feed(kind, tasks) for kind, tasks in made.items()))

    async def _feed(self, kind: str, tasks: Iterable[Task]) -> None:
        began, pace = time.monotonic(), self._scale.seconds * SUBMITTING / max(self._site.jobs[kind], 1)
        canceling: set[asyncio.Task[None]] = set()
        done = 0
        for batch in batched(tasks, AT_ONCE[kind]):
            await self._pause(max(0.0, began + done * pace - time.monotonic()))
            while not self._over.is_set() and await self._count_open() > 0 and self._open_of[kind] > OPEN[kind]:
                await self._pause(0.2)
            if self._over.is_set():
                break
            await asyncio.gather(*(self._submit_to(kind, task) for task in batch))
            done += len(batch)
            for task in batch:
                if task.cancel_after is not None:
                    canceling.add(asyncio.create_task(self._cancel(task)))
        await asyncio.gather(*canceling)

    async def _submit_to(self, kind: str, task: Task) -> None:
        """Until the producer is told that the job is enqueued, on the replica too."""
        once: dict[str, Any] = {"replicas": 1, "replicas_timeout": 1.0, "result_ttl": RESULT_TTL_S}
        while True:
            try:
                await self._client.submit(task.description, job_id=task.facts.job, queue=kind, **once)
            except (RedisError, NotReplicatedError):
                await asyncio.sleep(0.2)
            else:
                break
        self._kind_of[task.facts.job] = kind
        self._submitted[task.facts.job] = replace(task.facts, at=time.time())

    async def _count_open(self) -> int:
        """How many jobs have not ended, by rq's registries; as last known while Redis does not say."""
        for kind in self._namespaces:
            submitted = sum(other == kind for other in self._kind_of.values())
            try:
                pipeline = self._redis.primary.client.pipeline(transaction=False)
                for name in ("finished", "failed", "canceled"):
                    pipeline.zcard(f"rq:{name}:{kind}")
                self._open_of[kind] = submitted - sum(await pipeline.execute())
            except (ServerError, OSError):
                self._open_of.setdefault(kind, submitted)  # the next look will tell
        self._open = sum(self._open_of.values())
        return self._open

    async def _harm_cluster(self) -> None:
        await asyncio.gather(self._harm_pods(), self._harm_components())

    async def _harm_pods(self) -> None:
        dice = self._weather.dice("pods")
        while not self._over.is_set():
            await self._pause(dice.uniform(0.5, 4.0))
            if self._over.is_set():
                return
            what = dice.choices(list(PODS_HARMED), list(PODS_HARMED.values()))[0]
            if await self._harm_pods_by(what, dice):
                self._events[f"pods {what}"] += 1

    async def _harm_pods_by(self, what: str, dice: random.Random) -> bool:
        """Whether there was anything to harm."""
        if what == "evict":
            return await self._stranger.evict()
        if what == "delete":
            return await self._stranger.delete(force=False)
        if what == "delete by force":
            async with self._no_kubelet:
                harmed = await self._stranger.delete(force=True)
                await self._pause(FORCE_S if harmed else 0.0)
                return harmed
        if what == "drain":
            evicted = await self._stranger.drain(dice.choice(self._ground.nodes), DRAINED_S)
            return evicted > 0
        await self._api.down()
        await self._pause(dice.uniform(0.2, 4.0))
        await self._api.up()
        return True

    async def _harm_components(self) -> None:
        """Kill one, sometimes two, and mend them some seconds later."""
        dice = self._weather.dice("components")
        while self._components.breakable and not self._over.is_set():
            await self._pause(dice.uniform(4.0, 16.0))
            if self._over.is_set():
                return
            async with self._no_kubelet:
                for name in dice.sample(self._components.names, dice.choice((1, 1, 2))):
                    await self._components.break_down(name)
                    self._events[f"component {name} killed"] += 1
                await self._pause(dice.uniform(0.2, 6.0))
                await self._components.mend()

    # calm

    async def _calm(self) -> None:
        """Nothing goes wrong any more, and nobody is paused: everything must come to its end."""
        self._weather.rough = False
        self._staff.fill_disk(full=False)
        for hand in self._staff.hands:
            self._staff.wake(hand)
        for _ in self._namespaces:
            self._staff.hire()
        self._gateway.start()
        self._say("calm: waiting for every job to end and every pod to be gone")
        began, said = time.monotonic(), 0.0
        while await self._count_open() > 0 or self._pods_there():
            waited = time.monotonic() - began
            if waited > SETTLE_S:
                self._say(f"not settled within {SETTLE_S:g} s")
                return
            if waited - said > PROGRESS_S:
                said = waited
                self._say(f"{waited:5.0f} s: {self._open} jobs open, {len(self._pods_there())} pods")
            await asyncio.sleep(0.5)

    def _pods_there(self) -> list[str]:
        return [pod.name for history in self._seen.values() for pod in history.there]

    async def _evidence(self) -> Evidence:
        for task in self._watching:
            if task.done():
                task.result()  # a witness that has fainted
        writes = await self._pod_writes()
        real = real_runs(read_ledger(self._collector.path).runs, self._collector.signs, self._seen[REAL].pods.values())
        fake = fake_runs(self._seen[FAKE].pods.values()) if FAKE in self._seen else iter(())
        found = [await self._read(kind) for kind in self._namespaces]
        return Evidence(
            submitted=tuple(self._submitted.values()),
            runs=(*real, *fake),
            pod_writes=writes,
            jobs={name: self._judged(record) for each in found for name, record in each.jobs.items()},
            pods_left=tuple(await self._pods_left()),
            left_keys=tuple(sorted({key for each in found for key in each.left_keys})),
            losses=tuple(self._losses),
        )

    def _judged(self, record: JobRecord) -> JobRecord:
        return without_logs(record) if self._kind_of[record.job] == FAKE else without_shim(record)

    async def _read(self, kind: str) -> Any:
        jobs = [job for job, its in self._kind_of.items() if its == kind]
        made = [job for job in jobs if self._submitted[job].artifacts]
        return await read_evidence(self._redis.primary.client, self._store, jobs, with_artifacts=made, queue=kind)

    async def _pods_left(self) -> list[str]:
        """Asked anew: what a watch believes proves nothing."""
        paths = [f"/api/v1/namespaces/{namespace}/pods" for namespace in self._namespaces.values()]
        lists = [await self._cluster_api.call("GET", path) for path in paths]
        return [item["metadata"]["name"] for each in lists for item in each["items"]]

    async def _pod_writes(self) -> tuple[PodWrite, ...]:
        pods = [pod for history in self._seen.values() for pod in history.pods.values()]
        audit: Iterator[PodWrite] = iter(())
        if self._components.audit_command:
            path = self._folder / "audit.jsonl"
            await self._components.write_audit(path)
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            audit = pod_writes(lines, frozenset(self._namespaces.values()))
        else:
            self.notes.append("no command prints the audit log: creations are those that a watch of our own has seen")
        writes, added = with_seen(audit, pods)
        self.notes += [
            f"pods: {', '.join(f'{kind} {len(history.pods)}' for kind, history in self._seen.items())}",
            f"creations that only the watch has seen: {added}",
            f"gaps in the watch: {sum(history.gaps for history in self._seen.values())}",
        ]
        return writes

"""One chaos run: a cluster, two Redis servers, workers, jobs, and everything that goes wrong with them, by seed.

`Storm.run` has jobs submitted while workers are killed and the weather is rough, until there were enough of both. Then
it becomes calm, everything settles, and the evidence is collected.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError as ServerError

from adapters import redis_server
from adapters.object_store import ObjectStore
from adapters.redis_server import RedisError
from runner_spec.policy import DEFAULT_POLICY
from tests.chaos.checker import Report, check
from tests.chaos.cluster_process import ClusterProcess
from tests.chaos.gateway_process import GatewayProcess
from tests.chaos.jobs import Task, tasks
from tests.chaos.kubernetes_proxy import KubernetesProxy
from tests.chaos.ledger import read_ledger
from tests.chaos.records import Evidence, Loss, Submitted
from tests.chaos.redis_evidence import read_evidence
from tests.chaos.redis_pair import RedisPair
from tests.chaos.staff import Hand, Staff
from tests.chaos.weather import Weather
from worker.client import JobClient, NotReplicatedError, UnknownJobError
from worker.settings import WorkerSettings

LEASE_S: Final = 2.0
SETTLE_S: Final = 180.0
PROGRESS_S: Final = 5.0
# Jobs that are submitted and not ended, at most: the storm is about faults, not about a long queue.
OPEN_JOBS: Final = 300
SUBMITTED_AT_ONCE: Final = 20
# Seconds for which results are kept: longer than any run, because the checker reads them at its end.
RESULT_TTL_S: Final = 86400
# The share of the time in which all workers that are to be killed are.
KILLING_TIME: Final = 0.85
OVERTIME: Final = 1.5
# What happens to the Redis server and to the cluster, and how often beside the others.
REDIS_EVENTS: Final[Mapping[str, int]] = {
    "restart": 4,
    "failover": 3,
    "read only": 2,
    "out of memory": 2,
    "scripts flushed": 4,
    "clock": 2,
    "away": 2,
    "frozen": 2,
}
CLUSTER_EVENTS: Final[Mapping[str, int]] = {"restart": 3, "compaction": 3, "eviction": 5, "deletion": 4, "away": 2}
GATEWAY_EVENTS: Final[Mapping[str, int]] = {"kill": 4, "away": 2, "pause": 3, "disk": 4, "leave": 2}
# Many workers die here, none of them of a job; poison has a test of its own.
POLICY: Final[Mapping[str, object]] = {"worker_losses": 0, "platform_retries": 5, "upload_budget": "20s"}

Say = Callable[[str], None]


def batched(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """As `itertools.batched` of Python 3.12."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@dataclass(frozen=True, slots=True)
class Scale:
    """How large: until `jobs` are submitted and `kills` workers are killed.

    In `seconds`, if the machine is able to; if not, in as many times that as `OVERTIME` says at most.
    """

    jobs: int
    kills: int
    seconds: float
    workers: int = 8


class Storm:
    """See the module's text. `folder` keeps all logs, also when it fails."""

    def __init__(self, folder: Path, seed: int, scale: Scale, say: Say) -> None:
        self._folder = folder
        self._seed = seed
        self._scale = scale
        self._say = say
        self._weather = Weather(seed)
        self._submitted: dict[str, Submitted] = {}
        self._losses: list[Loss] = []
        self._events: Counter[str] = Counter()
        self._kills = 0
        self._open = 0
        self._over = asyncio.Event()

    async def run(self) -> Report:
        """Raises nothing for what dynapod does wrong: that is in the report."""
        async with AsyncExitStack() as stack:
            await self._build(stack)
            self._weather.rough = True
            await self._rage()
            await self._calm()
            return check(await self._evidence())

    @property
    def kills(self) -> int:
        """Workers killed by SIGKILL."""
        return self._kills

    @property
    def faults(self) -> Counter[str]:
        """All that was done, by name: the proxies' faults, and events."""
        found = Counter(self._events)
        found.update({f"kubernetes {name}": count for name, count in self._api.counts.items()})
        found.update({f"redis {name}": count for name, count in self._redis.front.counts.items()})
        return found

    async def _build(self, stack: AsyncExitStack) -> None:
        cluster = ClusterProcess(self._folder / "cluster", "--seed", str(self._seed))
        self._cluster = await stack.enter_async_context(cluster)
        direct = json.loads(self._cluster.kubeconfig.read_text())
        self._api = KubernetesProxy(self._cluster.url, self._weather.kubernetes)
        await stack.enter_async_context(self._api)
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(self._api.kubeconfig(direct)))
        self._redis = RedisPair(self._folder / "redis", self._weather.redis)
        await self._redis.start()
        stack.push_async_callback(self._redis.stop)
        self._store = ObjectStore.from_url(str(self._folder / "store"))
        self._gateway = GatewayProcess(
            self._folder,
            redis_url=self._redis.url,
            kubeconfig=kubeconfig,
            store=self._folder / "store",
            namespace=DEFAULT_POLICY.namespace,
        )
        stack.push_async_callback(self._gateway.close)
        self._gateway.start()
        connections = await stack.enter_async_context(redis_server.connect(self._redis.url))
        self._client = JobClient(connections.control, self._store)
        self._staff = Staff(self._folder, self._settings(kubeconfig))
        stack.push_async_callback(self._staff.dismiss)
        for _ in range(self._scale.workers):
            self._staff.hire()

    def _settings(self, kubeconfig: Path) -> WorkerSettings:
        policy = self._folder / "policy.yaml"
        # No dry runs to find out about user namespaces: they would be counted as pods.
        fields = {"gateway_url": self._gateway.url, "grace": "1s", "user_namespaces": False, **POLICY}
        policy.write_text(json.dumps(fields))
        return WorkerSettings(
            redis_url=self._redis.url,
            kubeconfig=str(kubeconfig),
            policy=str(policy),
            store=str(self._folder / "store"),
            lease_seconds=LEASE_S,
            capacity=200,
            health_port=0,
            log_level="info",
            log_format="json",
        )

    # rough

    async def _rage(self) -> None:
        """Until enough has happened."""
        began = time.monotonic()
        harm = (self._strike, self._harm_redis, self._harm_cluster, self._harm_staff, self._harm_gateway)
        running = [asyncio.create_task(loop()) for loop in (self._produce, *harm)]
        try:
            while not self._enough(began):
                for task in running:
                    if task.done():
                        task.result()
                await asyncio.sleep(PROGRESS_S)
                self._say(await self._progress(time.monotonic() - began))
        finally:
            self._over.set()
            # Each finishes what it has begun: a server that is down comes back, a job that is being submitted is.
            await asyncio.gather(*running)

    def _enough(self, began: float) -> bool:
        if time.monotonic() - began > OVERTIME * self._scale.seconds:
            return True
        return len(self._submitted) >= self._scale.jobs and self._kills >= self._scale.kills

    async def _progress(self, seconds: float) -> str:
        await self._count_open()
        workers = sum(hand.alive for hand in self._staff.hands)
        faults = sum(self.faults.values())
        return (
            f"{seconds:5.0f} s: {len(self._submitted)} jobs submitted, {self._open} of them open, "
            f"{self._kills} workers killed, {workers} alive, {faults} faults"
        )

    async def _produce(self) -> None:
        """Submit jobs, as fast as they end."""
        canceling: set[asyncio.Task[None]] = set()
        for batch in batched(tasks(self._seed, self._scale.jobs), SUBMITTED_AT_ONCE):
            while not self._over.is_set() and await self._count_open() > OPEN_JOBS:
                await self._pause(0.1)
            if self._over.is_set():
                break
            await asyncio.gather(*(self._submit(task) for task in batch))
            for task in batch:
                if task.cancel_after is not None:
                    canceling.add(asyncio.create_task(self._cancel(task)))
        await asyncio.gather(*canceling)

    async def _submit(self, task: Task) -> None:
        """Until the producer is told that the job is enqueued, on the replica too."""
        while True:
            try:
                await self._client.submit(
                    task.description, job_id=task.facts.job, replicas=1, replicas_timeout=1.0, result_ttl=RESULT_TTL_S
                )
            except (RedisError, NotReplicatedError):
                await asyncio.sleep(0.2)
            else:
                break
        self._submitted[task.facts.job] = replace(task.facts, at=time.time())

    async def _cancel(self, task: Task) -> None:
        await self._pause(task.cancel_after or 0.0)
        while True:
            try:
                await self._client.cancel(task.facts.job, by="chaos")
            except RedisError:
                await asyncio.sleep(0.2)
            except UnknownJobError:
                return
            else:
                return

    async def _count_open(self) -> int:
        """How many jobs have not ended, by rq's registries; as last known while Redis does not say."""
        try:
            pipeline = self._redis.primary.client.pipeline(transaction=False)
            for name in ("finished", "failed", "canceled"):
                pipeline.zcard(f"rq:{name}:jobs")
            self._open = len(self._submitted) - sum(await pipeline.execute())
        except (ServerError, OSError):
            return self._open  # the next look will tell
        return self._open

    async def _strike(self) -> None:
        """Kill workers, at the pace that reaches the number in time, and hire others."""
        pace = self._scale.seconds * KILLING_TIME / max(self._scale.kills, 1)
        dice = self._weather.dice("kills")
        while not self._over.is_set():
            await self._pause(dice.uniform(0.4, 1.6) * pace)
            able = [hand for hand in self._staff.hands if hand.alive]
            if self._over.is_set() or not able:
                continue
            dice.choice(able).send(signal.SIGKILL)
            self._kills += 1
            self._staff.hire()

    async def _harm_staff(self) -> None:
        dice = self._weather.dice("staff")
        while not self._over.is_set():
            await self._pause(dice.uniform(0.5, 4.0))
            able = [hand for hand in self._staff.hands if hand.alive and not hand.paused]
            if self._over.is_set() or not able:
                continue
            hand = dice.choice(able)
            what = dice.choice(("pause", "pause", "leave", "clock", "disk"))
            self._events[f"worker {what}"] += 1
            if what == "pause":
                await self._pause_worker(hand, LEASE_S * dice.uniform(0.5, 2.5))
            elif what == "leave":
                hand.send(signal.SIGTERM)
                self._staff.hire()
            elif what == "clock":
                hand.send(signal.SIGUSR1)
            else:
                self._staff.fill_disk(full=True)
                await self._pause(dice.uniform(0.5, 3.0))
                self._staff.fill_disk(full=False)
            while len(self._staff.hands) < self._scale.workers:
                self._events["worker ended by itself"] += 1
                self._staff.hire()

    async def _pause_worker(self, hand: Hand, seconds: float) -> None:
        self._staff.pause(hand)
        await self._pause(seconds)
        self._staff.wake(hand)

    async def _harm_gateway(self) -> None:
        dice, gateway = self._weather.dice("gateway"), self._gateway
        while not self._over.is_set():
            await self._pause(dice.uniform(0.3, 3.0))
            if self._over.is_set():
                return
            what, seconds = dice.choices(list(GATEWAY_EVENTS), list(GATEWAY_EVENTS.values()))[0], dice.uniform(0.5, 4.0)
            if not gateway.alive:
                what = "ended by itself"
            self._events[f"gateway {what}"] += 1
            if what in {"kill", "leave", "away"}:
                await gateway.end(signal.SIGTERM if what == "leave" else signal.SIGKILL)
                await self._pause(seconds if what == "away" else 0.0)
            elif what == "pause":
                gateway.pause()
                await self._pause(seconds)
                gateway.wake()
            elif what == "disk":
                gateway.fill_disk(full=True)
                await self._pause(seconds)
                gateway.fill_disk(full=False)
            gateway.start()

    async def _harm_redis(self) -> None:
        dice = self._weather.dice("redis server")
        while not self._over.is_set():
            await self._pause(dice.uniform(1.0, 6.0))
            if self._over.is_set():
                return
            what = dice.choices(list(REDIS_EVENTS), list(REDIS_EVENTS.values()))[0]
            self._events[f"redis {what}"] += 1
            await self._harm_redis_by(what, dice)

    async def _harm_redis_by(self, what: str, dice: random.Random) -> None:
        redis = self._redis
        if what == "restart":
            await redis.restart()
        elif what == "failover":
            since = time.time()
            await redis.fail_over(dice.uniform(0.1, 1.5))
            self._losses.append(Loss(since, time.time()))
        elif what == "read only":
            await redis.read_only(dice.uniform(0.3, 2.0))
        elif what == "out of memory":
            await redis.full(dice.uniform(0.3, 2.0))
        elif what == "scripts flushed":
            await redis.forget_scripts()
        elif what == "clock":
            await redis.clock_jump(dice.choice((-3600.0, 3600.0)))
        elif what == "away":
            await redis.front.down()
            await self._pause(dice.uniform(0.2, 3.0))
            await redis.front.up()
        else:
            redis.front.freeze(dice.uniform(0.2, 3.0))

    async def _harm_cluster(self) -> None:
        dice = self._weather.dice("cluster")
        while not self._over.is_set():
            await self._pause(dice.uniform(0.5, 3.0))
            if self._over.is_set():
                return
            what = dice.choices(list(CLUSTER_EVENTS), list(CLUSTER_EVENTS.values()))[0]
            harmed: str | None = "the API server"
            if what == "away":
                await self._api.down()
                await self._pause(dice.uniform(0.2, 3.0))
                await self._api.up()
            elif what == "restart":
                await self._cluster.restart_api(dice.uniform(0.2, 2.0))
            elif what == "compaction":
                await self._cluster.compact()
            elif what == "eviction":
                harmed = await self._cluster.evict()
            else:
                harmed = await self._cluster.delete(grace_seconds=dice.choice((None, 0)))
            if harmed is not None:  # there was something to harm
                self._events[f"cluster {what}"] += 1

    async def _pause(self, seconds: float) -> None:
        """So long, or until the storm is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return

    # calm

    async def _calm(self) -> None:
        """Nothing goes wrong any more, and nobody is paused: everything must come to its end."""
        self._weather.rough = False
        self._staff.fill_disk(full=False)
        for hand in self._staff.hands:
            self._staff.wake(hand)
        self._staff.hire()
        self._gateway.start()
        self._say("calm: waiting for every job to end and every pod to be gone")
        began, said = time.monotonic(), 0.0
        while await self._count_open() > 0 or await self._cluster.pods() > 0:
            waited = time.monotonic() - began
            if waited > SETTLE_S:
                self._say(f"not settled within {SETTLE_S:g} s")
                return
            if waited - said > PROGRESS_S:
                said = waited
                self._say(f"{waited:5.0f} s: {self._open} jobs open, {await self._cluster.pods()} pods")
            await asyncio.sleep(0.2)

    async def _evidence(self) -> Evidence:
        ledger = read_ledger(self._cluster.ledger)
        real = [job for job, facts in self._submitted.items() if facts.artifacts]
        found = await read_evidence(self._redis.primary.client, self._store, list(self._submitted), with_artifacts=real)
        return Evidence(
            submitted=tuple(self._submitted.values()),
            runs=ledger.runs,
            pod_writes=await self._cluster.audit(),
            jobs=found.jobs,
            pods_left=tuple(await self._cluster.pod_names()),
            left_keys=found.left_keys,
            losses=tuple(self._losses),
        )

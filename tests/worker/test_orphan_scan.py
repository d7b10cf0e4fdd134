"""Pods of workers that Redis does not know any more: found, and deleted only on proof."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import ApiError, KubernetesApi
from adapters.redis_server import Connections, RedisUnavailable, connect
from devcluster.sleep_runtime import SleepRuntime
from runner_spec import anatomy, wire
from runner_spec.names import label_value, pod_name
from tests.integration.clusters import NAMESPACE, Site, site
from worker.metrics import WorkerMetrics
from worker.orphan_scan import INCARNATIONS_KEY, LOCK_KEY, WORKERS_AT_ONCE, OrphanScan

pytestmark = pytest.mark.redis

PATIENCE_S = 30.0
NOBODY = "worker-that-nobody-remembers"


def manifest(job_id: str, attempt: int, *, worker: str = NOBODY, keep: bool = False) -> dict[str, Any]:
    """A pod as a worker makes them, as far as whoever finds it can tell."""
    annotations = {anatomy.ANNOTATION_JOB: job_id, **({anatomy.ANNOTATION_KEEP: "3600"} if keep else {})}
    labels = {
        anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY,
        anatomy.LABEL_JOB: label_value(job_id),
        anatomy.LABEL_ATTEMPT: str(attempt),
        anatomy.LABEL_WORKER: worker,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(job_id, attempt), "labels": labels, "annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "run", "image": "local", "command": ["true"]}]},
    }


async def create(here: Site, *manifests: dict[str, Any]) -> None:
    api = await KubernetesApi.connect(NAMESPACE, kubeconfig=here.cluster.kubeconfig())
    try:
        for one in manifests:
            await api.create_pod(one)
    finally:
        await api.close()


async def pods(here: Site) -> set[str]:
    api = await KubernetesApi.connect(NAMESPACE, kubeconfig=here.cluster.kubeconfig())
    try:
        return {metadata["name"] async for metadata in api.pod_metadata(anatomy.LABEL_WORKER)}
    finally:
        await api.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - the cluster's state has no event
            await asyncio.sleep(0.05)


@pytest.mark.slow
def test_a_forgotten_workers_pods_are_deleted_on_proof_and_all_others_left(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path, SleepRuntime(600.0)) as here, AsyncExitStack() as stack:
            redis: Any = here.connections.control
            await redis.hset(wire.attempts_key("recorded"), "1", "{}")
            await redis.hset("rq:job:recorded", mapping={"status": "finished", wire.FIELD_ATTEMPT: 1})
            await redis.hset("rq:job:superseded", mapping={"status": "started", wire.FIELD_ATTEMPT: 2})
            await redis.hset("rq:job:queued", mapping={"status": "queued", wire.FIELD_ATTEMPT: 1})
            await redis.hset("rq:job:kept", mapping={"status": "started", wire.FIELD_ATTEMPT: 1, "worker_name": "w"})
            await redis.zadd(wire.LEASES_KEY, {"alive": time.time() + wire.LONGEST_LEASE_S / 2})
            await redis.zadd(INCARNATIONS_KEY, {NOBODY: 4e9})
            left = [
                manifest("queued", 1),
                manifest("kept", 1, keep=True),
                manifest("recorded", 2, worker="alive"),  # its own worker's business
                manifest("another installation's", 1, worker="stranger"),
            ]
            await create(here, manifest("recorded", 1), manifest("superseded", 1), manifest("deleted", 1), *left)
            workers = [await stack.enter_async_context(here.worker()) for _ in range(3)]

            async def over() -> bool:
                return len(await pods(here)) == len(left)

            found = await asyncio.gather(*(worker.supervisor._orphan_scan.scan() for worker in workers))
            assert found == [{NOBODY}] * 3
            await until(over)
            await asyncio.gather(*(worker.supervisor._orphans.sweep() for worker in workers))  # one more look
            assert await pods(here) == {one["metadata"]["name"] for one in left}

    asyncio.run(test())


class Pods:
    """What the API server lists."""

    def __init__(self, *metadata: dict[str, Any], error: ApiError | None = None) -> None:
        self.metadata, self.error = metadata, error
        self.lists = 0

    async def pod_metadata(self, label_selector: str) -> AsyncGenerator[dict[str, Any], None]:
        assert label_selector == "app.kubernetes.io/managed-by=dynapod,dynapod.dev/worker"
        self.lists += 1
        for one in self.metadata:
            yield one
        if self.error is not None:
            raise self.error


def of(worker: str, **more: Any) -> dict[str, Any]:
    return {"labels": {anatomy.LABEL_WORKER: worker}, **more}


def scanner(source: Pods, connections: Connections, include: Callable[[set[str]], None]) -> OrphanScan:
    return OrphanScan(source, connections.control, "me", include, WorkerMetrics(CollectorRegistry()))


def test_pods_that_are_being_deleted_and_those_of_lapsed_workers_are_not_its_business(redis_url: str) -> None:
    async def test() -> None:
        async with connect(redis_url) as connections:
            await connections.control.zadd(wire.LEASES_KEY, {"alive": 4e9, "lapsed": 1, "left": -1})
            source = Pods(of("alive"), of("lapsed"), of("left"), of("gone", deletionTimestamp="now"), of("lost"))
            included: list[set[str]] = []
            scan = scanner(source, connections, included.append)
            await connections.control.zadd(INCARNATIONS_KEY, {"lost": 4e9, "gone": 4e9})
            assert await scan.scan() == {"lost"}
            assert included == [{"lost"}]

    asyncio.run(test())


def test_one_scan_makes_no_selector_of_any_length_and_all_have_their_turn(redis_url: str) -> None:
    async def test() -> None:
        async with connect(redis_url) as connections:
            names = {f"w{number}" for number in range(3 * WORKERS_AT_ONCE)}
            seen: set[str] = set()
            await connections.control.zadd(INCARNATIONS_KEY, dict.fromkeys(names, 4e9))
            scan = scanner(Pods(*map(of, names)), connections, seen.update)
            for _ in range(100):
                assert len(await scan.scan()) == WORKERS_AT_ONCE
            assert seen == names

    asyncio.run(test())


def test_many_workers_make_one_list_each_interval_and_live_through_failures(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with connect(redis_url) as connections:
            metrics = WorkerMetrics(CollectorRegistry())
            source = Pods(of("lost"), error=ApiError(503, "Unavailable", "etcd is away"))
            scans = [OrphanScan(source, connections.control, "me", lambda _: None, metrics) for _ in range(5)]
            running = [asyncio.create_task(scan.run()) for scan in scans]
            failed = metrics.maintenance_failures.labels("pods")._value

            async def counted() -> bool:
                return bool(failed.get() >= 3)

            await until(counted)
            assert source.lists == failed.get()  # one for each time the lock was free, however many workers
            assert 0 < await connections.control.pttl(LOCK_KEY) <= 200 * 0.9
            assert not any(task.done() for task in running)
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    monkeypatch.setattr("worker.orphan_scan.INTERVAL_S", 0.2)
    asyncio.run(test())


def test_while_redis_is_away_nobody_is_taken_for_forgotten() -> None:
    async def test() -> None:
        async with connect("redis://127.0.0.1:1/0") as connections:
            included: list[set[str]] = []
            scan = scanner(Pods(of("w")), connections, included.append)
            with pytest.raises(RedisUnavailable):
                await scan.scan()
            assert included == []

    asyncio.run(test())


def test_after_a_flush_the_pods_that_run_are_left_alone(redis_url: str) -> None:
    async def test() -> None:
        async with connect(redis_url) as connections:
            source = Pods(of("before"), of("me"))
            scan = scanner(source, connections, lambda _: None)
            await connections.control.zadd(wire.LEASES_KEY, {"before": 4e9, "me": 4e9})
            assert await scan.scan() == set()
            await connections.control.zrem(wire.LEASES_KEY, "before")
            assert await scan.scan() == {"before"}
            await connections.control.flushall()
            assert await scan.scan() == set()

    asyncio.run(test())

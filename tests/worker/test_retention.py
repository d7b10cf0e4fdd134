"""What the object store forgets, and what it must not."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.object_store import ObjectStore, StoreRefused, StoreUnavailable
from adapters.redis_server import Connections, connect
from runner_spec import storage
from runner_spec.policy import parse_policy
from tests.cluster.servers import BUCKET, S3_CREDENTIALS, s3_server
from worker.metrics import WorkerMetrics
from worker.retention import CURSOR_KEY, Retention, utc_now

pytestmark = pytest.mark.redis

DAYS = {"retention": "30d", "cache_retention": "10d"}


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    if request.param == "memory":
        yield ObjectStore.from_url("memory://")
    elif request.param == "folder":
        yield ObjectStore.from_url(str(tmp_path / "store"))
    else:
        with s3_server(tmp_path, "127.0.0.1") as endpoint:
            for name, value in {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
                monkeypatch.setenv(name, value)
            yield ObjectStore.from_url(f"s3://{BUCKET}/ci")


class Attic:
    """A store and a Redis, and the time passing over them."""

    def __init__(self, store: ObjectStore, connections: Connections) -> None:
        self.store = store
        self.redis: Any = connections.control
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.age = timedelta()

    def retention(self, *, store: ObjectStore | None = None, pass_folders: int = 500, **policy: object) -> Retention:
        rules = parse_policy({**DAYS, **policy})
        return Retention(
            store or self.store,
            self.redis,
            rules,
            self.metrics,
            now=lambda: utc_now() + self.age,
            pass_folders=pass_folders,
        )

    async def keep(self, job_id: str, *, attempts: int = 1, artifacts: int = 2, status: str = "") -> None:
        for attempt in range(1, attempts + 1):
            for number in range(artifacts):
                await self.store.put(storage.artifact_path(job_id, attempt, "dist", f"manifest.json/{number}"), b"x")
            await self.store.put(storage.log_path(job_id, attempt, "run", 0), b"line")
            await self.store.put(storage.manifest_path(job_id, attempt), b"{}")
        if status:
            await self.redis.hset(f"rq:job:{job_id}", "status", status)

    async def names(self, folder: str = "") -> list[str]:
        return sorted([found.path async for found in self.store.list(folder)])

    async def jobs(self) -> set[str | None]:
        return {storage.job_folder(name) for name in await self.names(storage.JOBS)}

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"dynapod_{name}_total", labels) or 0.0


def play(redis_url: str, store: ObjectStore, scenario: Callable[[Attic], Awaitable[None]]) -> None:
    async def run() -> None:
        connections = connect(redis_url)
        try:
            await scenario(Attic(store, connections))
        finally:
            await connections.aclose()

    asyncio.run(run())


def folder_of(job_id: str) -> str:
    return storage.job_prefix(job_id) + "/"


def test_jobs_that_have_ended_go_when_their_newest_object_is_too_old(redis_url: str, store: ObjectStore) -> None:
    async def scenario(attic: Attic) -> None:
        await attic.keep("forgotten", attempts=2)
        await attic.keep("failed", status="failed")
        for status in ("started", "queued", "scheduled", "deferred"):
            await attic.keep(status, status=status)
        attic.age = timedelta(days=29)
        await attic.retention().round()
        assert len(await attic.jobs()) == 6

        attic.age = timedelta(days=31)
        await attic.retention().round()
        live = {folder_of(status) for status in ("started", "queued", "scheduled", "deferred")}
        assert await attic.jobs() == live
        assert attic.counted("objects_deleted", kind="jobs") == 3 * 4

    play(redis_url, store, scenario)


def test_caches_go_by_their_own_age_each_for_itself(redis_url: str, store: ObjectStore) -> None:
    async def scenario(attic: Attic) -> None:
        await attic.keep("job")
        await attic.store.put(storage.cache_entry_path("scope", "key", "tar.zst"), b"x")
        attic.age = timedelta(days=11)
        await attic.retention(cache_retention="never").round()
        assert len(await attic.names(storage.CACHES)) == 1
        await attic.retention().round()
        assert await attic.names(storage.CACHES) == []
        assert await attic.jobs() == {folder_of("job")}

    play(redis_url, store, scenario)


def test_never_deletes_nothing_and_foreign_objects_stay(redis_url: str, store: ObjectStore) -> None:
    async def scenario(attic: Attic) -> None:
        await attic.keep("job")
        for name in ("jobs/readme", "jobs/somebody/else", "other/jobs/x"):
            await attic.store.put(name, b"x")
        attic.age = timedelta(days=3650)
        before = await attic.names()
        await attic.retention(retention="never", cache_retention=0).round()
        assert await attic.names() == before
        await attic.retention().round()
        assert await attic.names() == ["jobs/readme", "jobs/somebody/else", "other/jobs/x"]

    play(redis_url, store, scenario)


def test_a_round_sees_every_job_in_small_passes_and_another_worker_goes_on(redis_url: str, store: ObjectStore) -> None:
    async def scenario(attic: Attic) -> None:
        # One id's slug and hash are another one's slug: their folders are neighbours whose order is not that of ids.
        base = storage.job_prefix("a").removeprefix("jobs/")
        ids = ["a", base, *(f"job {number}" for number in range(9))]
        for job_id in ids:
            await attic.keep(job_id, artifacts=1)
        await attic.keep("alive", status="started")
        attic.age = timedelta(days=31)
        passes = 0
        more = True
        while more:  # each by another worker
            retention = attic.retention(pass_folders=3)
            before = await attic.jobs()
            more = await retention._pass(retention._kinds[0])
            assert len(before - await attic.jobs()) <= 3
            passes += 1
        assert passes == 4
        assert await attic.jobs() == {folder_of("alive")}
        assert await attic.redis.ttl(CURSOR_KEY) > 0

    play(redis_url, store, scenario)


def test_many_workers_at_once_delete_each_job_and_nothing_else(redis_url: str, store: ObjectStore) -> None:
    async def scenario(attic: Attic) -> None:
        for number in range(6):
            await attic.keep(f"old {number}")
        await attic.keep("alive", status="started")
        attic.age = timedelta(days=31)
        await asyncio.gather(*(attic.retention(pass_folders=2).round() for _ in range(5)))
        assert await attic.jobs() == {folder_of("alive")}
        assert attic.counted("maintenance_failures", task="retention") == 0

    play(redis_url, store, scenario)


class Failing(ObjectStore):
    """Lets some deletions through, then fails as told."""

    def __init__(self, store: ObjectStore, error: Exception, deletions: int) -> None:
        super().__init__(store._backing, store.url)
        self.error = error
        self.left = deletions

    async def delete_all(self, paths: Any) -> None:
        if not self.left:
            raise self.error
        self.left -= 1
        await super().delete_all(paths)


def test_a_job_that_is_half_deleted_has_no_manifest_and_the_next_round_ends_it(
    redis_url: str, store: ObjectStore
) -> None:
    async def scenario(attic: Attic) -> None:
        await attic.keep("job", attempts=2)
        attic.age = timedelta(days=31)
        with pytest.raises(StoreUnavailable):
            await attic.retention(store=Failing(store, StoreUnavailable("away"), 1)).round()
        left = await attic.names()
        assert len(left) == 6
        assert not [name for name in left if storage.is_manifest(name)]
        await attic.retention().round()
        assert await attic.names() == []

    play(redis_url, store, scenario)


def test_a_job_that_is_enqueued_again_meanwhile_keeps_what_its_new_attempt_writes(
    redis_url: str, tmp_path: Path
) -> None:
    async def scenario(attic: Attic) -> None:
        await attic.keep("job")
        attic.age = timedelta(days=31)
        retention = attic.retention()
        kind = retention._kinds[0]
        young = storage.log_path("job", 2, "run", 0)
        await attic.store.put(young, b"line")
        later = (utc_now() + attic.age).timestamp()
        os.utime(tmp_path / "store" / young, (later, later))

        # Looked at before the new attempt, deleted after it.
        await retention._delete(kind, folder_of("job"), utc_now() + timedelta(days=1))
        assert len(await attic.names()) == 5

    play(redis_url, ObjectStore.from_url(str(tmp_path / "store")), scenario)


def test_a_store_that_refuses_is_logged_and_counted_and_the_worker_lives(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(attic: Attic) -> None:
        await attic.keep("job")
        attic.age = timedelta(days=31)
        refusing = Failing(attic.store, StoreRefused("no right to delete"), 0)
        running = asyncio.create_task(attic.retention(store=refusing).run())
        async with asyncio.timeout(10):
            while not attic.counted("maintenance_failures", task="retention"):
                assert not running.done()
                await asyncio.sleep(0.01)
        running.cancel()
        assert "no right to delete" in caplog.text
        assert len(await attic.names()) == 4

    monkeypatch.setattr("worker.retention.INTERVAL_S", 0.02)
    caplog.set_level(logging.WARNING)
    play(redis_url, ObjectStore.from_url(str(tmp_path / "store")), scenario)


def test_an_artifact_called_manifest_is_no_manifest() -> None:
    assert storage.is_manifest(storage.manifest_path("job", 12))
    assert not storage.is_manifest(storage.artifact_path("job", 1, "dist", "manifest.json"))
    assert storage.job_folder(storage.manifest_path("a" * 500, 1)) == folder_of("a" * 500)
    assert storage.job_folder("caches/a/b") is None

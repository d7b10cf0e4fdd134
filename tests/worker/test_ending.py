"""From the end of an attempt to its record: on a real queue (in this process), with real logs of services."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from rq import Queue, Retry

from adapters import redis_server
from adapters.kubernetes_api import ApiError, KubernetesApi
from adapters.object_store import ObjectStore, StoreError
from adapters.redis_server import Connections
from runner_spec import wire
from runner_spec.description import parse_description
from runner_spec.log_cursor import LogCursor
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.policy import parse_policy
from tests.runner_spec import pods
from worker.attempt import Attempt, Pod
from worker.ending import LAST_LINES, WAITS_AT_FRONT, Ending
from worker.log_batch import LogBatch
from worker.log_store import LogReader
from worker.log_writer import LogWriter
from worker.metrics import WorkerMetrics
from worker.queue import JobQueue

POLICY = parse_policy({"platform_retries": 1, "platform_backoff": ["7s"], "job_backoff": ["7s"]})
FAILED = Outcome(Verdict.FAILED, Fault.JOB, "exit", "step test ended with exit code 3", 3)
EVICTED = Outcome(Verdict.FAILED, Fault.PLATFORM, "evicted", "the node evicted the pod")
SUCCEEDED = Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0)
CANCELED = Outcome(Verdict.CANCELED, Fault.USER, "canceled", "canceled by me")
NOT_READY = Outcome(Verdict.FAILED, Fault.JOB, "service", "service db is not ready on port 5432 within 3 s")


class NoLogs(LogReader):
    """Whoever reads a log here hears that the object store is away."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def last_lines(self, job_id: str, attempt: int, container: str, count: int) -> list[str]:
        del job_id, attempt, count
        self.asked.append(container)
        raise StoreError("the store is away")


class Api:
    """The API server's answer to deletions, and what was asked."""

    def __init__(self) -> None:
        self.error: ApiError | None = None
        self.deleted: list[tuple[str, str, int | None]] = []

    async def delete_pod(self, name: str, uid: str, *, grace_seconds: int | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.deleted.append((name, uid, grace_seconds))


class Scene:
    def __init__(self, connections: Connections, queue: JobQueue) -> None:
        self.redis: Any = connections.control
        self.queue = queue
        self.rq = Queue("jobs", connection=connections.sync, serializer="json")
        self.store = ObjectStore.from_url("memory://")
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.api = Api()

    def ending(self, logs: LogReader | None = None) -> Ending:
        reader = logs or LogReader(self.redis, self.store)
        return Ending(self.queue, cast("KubernetesApi", self.api), POLICY, reader, self.metrics)

    async def claimed(self, pod: Pod | None = None, *, retry: Retry | None = None, runs: int = 1) -> Attempt:
        """The only job's next attempt; enqueued first unless it is there already."""
        description = {"image": "app", "steps": [{"run": "x"}], "retry": {"attempts": runs}}
        if not await self.redis.exists("rq:job:j"):
            self.rq.enqueue(wire.RUN_FUNCTION, description, job_id="j", retry=retry)
        (claim,) = await self.queue.claim(1)
        attempt = Attempt(claim, f"dp-j-{claim.attempt}")
        attempt.describe(parse_description(description))
        attempt.pod = pod
        return attempt

    async def log(self, service: str, *lines: str) -> None:
        writer = LogWriter(LogBatch(self.redis), self.store, "j", 1, service)
        await writer.open()
        data = "".join(f"2026-01-01T00:00:01Z {line}\n" for line in lines)
        await writer.append(data.encode(), LogCursor("2026-01-01T00:00:01Z", len(lines)))
        await writer.close()

    async def entry(self, attempt: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.redis.hget(wire.attempts_key("j"), str(attempt)))
        return found

    async def status(self) -> str:
        return str((await self.redis.hget("rq:job:j", "status")).decode())

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with redis_server.embed() as connections, JobQueue(connections, ["jobs"], "w") as queue:
        yield Scene(connections, queue)


def play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def session() -> None:
        async with scene() as here:
            await scenario(here)

    asyncio.run(session())


def crashed_service() -> Pod:
    return pods.restarted(pods.over(3), "db", 2, pods.terminated(7, 2, 20))


def test_a_failure_is_recorded_with_the_last_lines_of_a_service_that_crashed() -> None:
    async def scenario(here: Scene) -> None:
        await here.log("db", *(f"line {number}" for number in range(LAST_LINES + 5)))
        assert await here.ending().record(await here.claimed(crashed_service()), FAILED)
        result = (await here.entry())["result"]
        (service,) = result["services"]
        assert service["lines"] == [f"line {number}" for number in range(5, LAST_LINES + 5)]
        assert result["message"] == FAILED.message  # a step failed: not for its service's want of words

    play(scenario)


def test_a_service_that_the_failure_is_about_has_the_last_word_in_its_message() -> None:
    async def scenario(here: Scene) -> None:
        await here.log("db", "starting", "FATAL: no password")
        assert await here.ending().record(await here.claimed(pods.failed_checkout(1)), NOT_READY)
        entry, said = await here.entry(), "; last line of db: FATAL: no password"
        assert entry["result"]["message"] == entry["outcome"]["message"] == NOT_READY.message + said
        assert here.rq.fetch_job("j").latest_result().exc_string.endswith(said)

    play(scenario)


def test_logs_that_cannot_be_read_do_not_keep_an_end_from_its_record(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(here: Scene) -> None:
        logs = NoLogs()
        with caplog.at_level(logging.WARNING):
            assert await here.ending(logs).record(await here.claimed(crashed_service()), FAILED)
        assert logs.asked == ["db"]
        assert await here.status() == "failed"
        assert (await here.entry())["result"]["services"][0]["lines"] == []
        assert "last lines not read: the store is away" in caplog.text

    play(scenario)


@pytest.mark.parametrize(("outcome", "status"), [(SUCCEEDED, "finished"), (CANCELED, "stopped")])
def test_services_are_asked_for_failures_only(outcome: Outcome, status: str) -> None:
    async def scenario(here: Scene) -> None:
        logs = NoLogs()
        assert await here.ending(logs).record(await here.claimed(crashed_service()), outcome)
        assert logs.asked == []
        assert await here.status() == status

    play(scenario)


def test_the_record_of_an_attempt_names_its_pod_and_its_times() -> None:
    async def scenario(here: Scene) -> None:
        attempt = await here.claimed()
        assert await here.ending().record(attempt, FAILED)
        entry = await here.entry()
        assert (entry["pod"], entry["outcome"]["reason"], entry["result"]["attempt"]) == ("dp-j-1", "exit", 1)
        assert attempt.claim.started_at == entry["started_at"] <= entry["ended_at"]

    play(scenario)


def test_the_platform_pays_for_its_own_fault_until_its_budget_is_used_up() -> None:
    async def scenario(here: Scene) -> None:
        assert await here.ending().record(await here.claimed(), EVICTED)
        assert await here.status() == "scheduled"
        await here.redis.zadd("rq:scheduled:jobs", {"j": 1})
        await here.queue.tick()
        attempt = await here.claimed()
        assert (attempt.claim.attempt, attempt.claim.platform_retries, attempt.claim.job_retries) == (2, 1, 0)
        assert await here.ending().record(attempt, EVICTED)
        assert await here.status() == "failed"
        assert here.counted("dynapod_attempts_retried_total", fault="platform") == 1
        facts = {"verdict": "failed", "fault": "platform", "reason": "evicted"}
        assert here.counted("dynapod_attempts_settled_total", **facts) == 2

    play(scenario)


@pytest.mark.parametrize(("retry", "runs"), [(Retry(max=1), 1), (None, 2)])
def test_a_job_pays_for_its_own_fault(retry: Retry | None, runs: int) -> None:
    async def scenario(here: Scene) -> None:
        assert await here.ending().record(await here.claimed(retry=retry, runs=runs), FAILED)
        if await here.status() == "scheduled":
            await here.redis.zadd("rq:scheduled:jobs", {"j": 1})
            await here.queue.tick()
        attempt = await here.claimed(runs=runs)
        assert (attempt.claim.platform_retries, attempt.claim.job_retries) == (0, 1)
        assert await here.ending().record(attempt, FAILED)
        assert await here.status() == "failed"

    play(scenario)


@pytest.mark.parametrize("outcome", [FAILED, EVICTED])
def test_a_job_that_failed_before_it_could_be_stopped_has_failed_and_is_not_tried_again(outcome: Outcome) -> None:
    async def scenario(here: Scene) -> None:
        attempt = await here.claimed(runs=3)
        attempt.stop = "me"
        assert await here.ending().record(attempt, outcome)
        assert await here.status() == "failed"
        assert (await here.entry())["result"]["verdict"] == "failed"

    play(scenario)


def test_a_job_without_room_waits_at_no_ones_cost() -> None:
    async def scenario(here: Scene) -> None:
        assert await here.ending().requeue(await here.claimed(), 0.0, "exceeded quota: jobs")
        outcome = (await here.entry())["outcome"]
        assert (outcome["reason"], outcome["message"]) == (
            "quota",
            "Kubernetes' quota is used up: exceeded quota: jobs",
        )
        claim = (await here.claimed()).claim
        assert (claim.attempt, claim.platform_retries, claim.job_retries) == (2, 0, 0)
        assert here.counted("dynapod_attempts_retried_total", fault="platform") is None

    play(scenario)


def test_a_job_that_never_finds_room_does_not_stand_before_the_others_for_ever() -> None:
    async def scenario(here: Scene) -> None:
        attempt = await here.claimed()
        here.rq.enqueue(wire.RUN_FUNCTION, {}, job_id="other")
        for _ in range(WAITS_AT_FRONT):
            assert await here.ending().requeue(attempt, 60.0, "exceeded quota: jobs")
            await here.redis.zadd("rq:scheduled:jobs", {"j": 1})
            await here.queue.tick()
            assert await here.redis.lrange("rq:queue:jobs", 0, -1) == [b"j", b"other"]
            attempt = await here.claimed()
        assert await here.ending().requeue(attempt, 60.0, "exceeded quota: jobs")
        await here.redis.zadd("rq:scheduled:jobs", {"j": 1})
        await here.queue.tick()
        assert await here.redis.lrange("rq:queue:jobs", 0, -1) == [b"other", b"j"]

    play(scenario)


def test_the_end_of_a_job_that_another_worker_owns_is_counted_as_fenced_only() -> None:
    async def scenario(here: Scene) -> None:
        attempt = await here.claimed()
        await here.redis.hset(f"rq:execution:j:{attempt.claim.execution_id}", "worker_name", "another")
        assert await here.ending().record(attempt, FAILED) is False
        assert await here.status() == "started"
        assert here.counted("dynapod_attempts_fenced_total") == 1
        assert not next(iter(here.metrics.settled.collect())).samples

    play(scenario)


def test_exactly_the_attempts_pod_is_deleted_and_a_refusal_is_no_end() -> None:
    async def scenario(here: Scene) -> None:
        attempt = await here.claimed()
        attempt.pod_uid = "9f2c"
        assert await here.ending().delete_pod(attempt, grace_seconds=5)
        assert (here.api.deleted, attempt.deletion_sent) == ([("dp-j-1", "9f2c", 5)], True)
        here.api.error = ApiError(500, "InternalError", "etcd is away")
        assert await here.ending().delete_pod(attempt) is False
        assert here.counted("dynapod_pod_writes_total", verb="delete") == 2

    play(scenario)

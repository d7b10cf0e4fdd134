"""Kubernetes does not create the pod: in the words that a real API server used (`tests/runner_spec/recorded`)."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from devcluster.audit import Fault, FaultPlan, RequestFacts
from devcluster.status_error import StatusError
from tests.integration.clusters import Site, site
from tests.integration.worlds import job
from worker.cli.waiting import why_it_waits
from worker.job_status import JobStatus

pytestmark = pytest.mark.redis

RECORDED = Path(__file__).parent.parent / "runner_spec" / "recorded"
PATIENCE_S = 60.0


def recorded(name: str) -> Fault:
    [seen] = json.loads((RECORDED / f"{name}.json").read_text())["seen"]
    refused = seen["refused"]
    return Fault(error=StatusError(refused["code"], refused["reason"], refused["message"]))


class Door:
    """Answers creations with a refusal for as long as it is shut."""

    def __init__(self, refusal: str) -> None:
        self.refusal: Fault | None = recorded(refusal)
        self.asked = 0

    def plan(self) -> FaultPlan:
        def plan(request: RequestFacts) -> Fault | None:
            if (request.verb, request.resource) != ("create", "pods"):
                return None
            self.asked += 1
            return self.refusal

        return plan


async def until(here: Site, job_id: str, wanted: Callable[[JobStatus], bool]) -> JobStatus:
    async with asyncio.timeout(PATIENCE_S):
        async for status in here.client.changes(job_id, interval=0.05):
            if wanted(status):
                return status
    raise AssertionError("the job ended before")


def test_a_job_without_quota_goes_back_to_the_queue_and_never_fails(tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        door = Door("quota")
        async with site(redis_url, tmp_path, faults=door.plan()) as here, here.worker():
            first, second = [await here.client.submit(job("true")) for _ in range(2)]
            waiting = await until(here, first, lambda status: status.status == "scheduled" and status.attempt >= 2)
            words = "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"
            assert f"waiting for room: Kubernetes' quota is used up: {words}; next try at " in why_it_waits(waiting)
            (waited,) = waiting.attempts
            assert (waited.result["reason"], waited.waits) == ("quota", waited.number)
            assert waiting.no_room == ""  # known of jobs in the queue only: this one has been told itself
            asked = door.asked
            door.refusal = None
            for job_id in (first, second):
                assert (await here.client.wait(job_id, interval=0.05)).result["verdict"] == "succeeded"
            assert asked < 20  # growing intervals, and no rush of those behind

    asyncio.run(test())


def test_jobs_behind_a_full_quota_wait_in_the_queue_and_say_why(tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        door = Door("quota")
        async with site(redis_url, tmp_path, faults=door.plan()) as here, here.worker():
            await until(here, await here.client.submit(job("true")), lambda status: status.status == "scheduled")
            asked = door.asked
            jobs = [await here.client.submit(job("true")) for _ in range(50)]
            behind = await until(here, jobs[-1], lambda status: bool(status.no_room))
            assert "jobs ahead; Kubernetes' quota is used up: exceeded quota" in why_it_waits(behind)
            assert door.asked - asked < 10

    asyncio.run(test())


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("pod-security", 'Kubernetes refused the pod: violates PodSecurity "restricted:latest"'),
        ("admission-policy", "denied request: every pod names its team"),
        ("limit-range", "maximum memory usage per Container is 32Mi"),
    ],
)
def test_a_pod_that_is_refused_is_a_rejected_job(refusal: str, words: str, tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        door = Door(refusal)
        async with site(redis_url, tmp_path, faults=door.plan()) as here, here.worker():
            status = await here.client.wait(await here.client.submit(job("true")), interval=0.05)
            result = status.result
            assert (result["verdict"], result["fault"], result["reason"]) == ("rejected", "job", "refused")
            assert words in result["message"]
            assert (door.asked, len(status.attempts)) == (1, 1)

    asyncio.run(test())


def test_what_the_operator_has_to_mend_is_waited_for(tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        door = Door("no-service-account")
        async with site(redis_url, tmp_path, faults=door.plan()) as here, here.worker():
            job_id = await here.client.submit(job("true"))
            words = 'serviceaccount "nobody" not found'
            await until(here, job_id, lambda status: words in why_it_waits(status))
            door.refusal = None
            ended = await here.client.wait(job_id, interval=0.05)
            assert (ended.result["verdict"], len(ended.attempts)) == ("succeeded", 1)

    asyncio.run(test())


def test_a_webhook_that_is_away_is_waited_for(tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        door = Door("webhook-away")
        async with site(redis_url, tmp_path, faults=door.plan()) as here, here.worker():
            job_id = await here.client.submit(job("true"))
            waiting = await until(here, job_id, lambda status: "webhook" in status.why)
            assert why_it_waits(waiting).startswith("waiting: Kubernetes cannot create the pod now: ")
            assert waiting.attempts == ()
            door.refusal = None
            status = await here.client.wait(job_id, interval=0.05)
            assert (status.result["verdict"], len(status.attempts)) == ("succeeded", 1)

    asyncio.run(test())


@pytest.mark.parametrize("refusal", ["no-service-account", "webhook-away"])
def test_a_job_whose_pod_is_not_created_can_be_canceled(refusal: str, tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        door = Door(refusal)
        async with site(redis_url, tmp_path, faults=door.plan()) as here, here.worker():
            job_id = await here.client.submit(job("true"))
            await until(here, job_id, lambda status: "Kubernetes cannot create the pod now" in why_it_waits(status))
            await here.client.cancel(job_id, by="the test")
            ended = await here.client.wait(job_id, interval=0.05)
            assert (ended.result["verdict"], ended.result["fault"]) == ("canceled", "user")
            door.refusal = None
            other = await here.client.wait(await here.client.submit(job("true")), interval=0.05)
            assert other.result["verdict"] == "succeeded"

    asyncio.run(test())


def test_a_job_that_is_too_large_for_kubernetes_is_refused_with_its_size(tmp_path: Path, redis_url: str) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker():
            env = {f"LONG_{number}": "x" * 100_000 for number in range(16)}
            status = await here.client.wait(await here.client.submit(job("true", env=env)), interval=0.05)
            assert (status.result["verdict"], status.result["reason"]) == ("rejected", "too-large")
            assert "of at most 1048576" in status.result["message"]

    asyncio.run(test())

"""`helm install` on a real cluster: workers come and go under sixty jobs in flight, and nothing is left behind."""

import asyncio
import json
import re
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from adapters import redis_server
from runner_spec import wire
from tests.charts.cluster import KubectlError, kubectl, manifests, require_cluster
from tests.cluster import images
from tests.cluster.pod_recorder import PodRecorder, recorded_pods
from tests.cluster.prometheus import Prometheus
from tests.cluster.release import Release, release
from tests.cluster.rendezvous import rendezvous
from tests.cluster.servers import BUCKET, S3_CREDENTIALS, s3_server
from tests.cluster.site import host_address
from worker.client import JobClient
from worker.job_status import JobStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(480)]

JOBS: Final = 60
WITH_ARTIFACT: Final = 3
CAPACITY: Final = 40
PATIENCE_S: Final = 180.0
POLL_S: Final = 0.2

# A service that knows rq and nothing of dynapod.
PRODUCER: Final = """
import json, os
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
queue = Queue("jobs", connection=Redis.from_url(os.environ["REDIS_URL"]), serializer=JSONSerializer)
for job in json.loads(os.environ["JOBS"]):
    print(queue.enqueue("worker.tasks.run", job).id)
"""


def descriptions(wait: str) -> list[dict[str, Any]]:
    """Jobs that wait, by that command, until the workers have come and gone."""
    jobs = []
    for number in range(JOBS):
        script = f"{wait}; echo job {number} > result.txt"
        job: dict[str, Any] = {
            "name": f"job-{number}",
            "image": images.JOB,
            "steps": [{"name": "wait", "run": script}],
        }
        if number < WITH_ARTIFACT:
            job["artifacts"] = [{"name": "result", "paths": ["result.txt"]}]
        jobs.append(job)
    return jobs


def produce(installed: Release, wait: str) -> list[str]:
    """Enqueue all jobs from a pod beside the installation; their ids."""
    here = {"name": "producer", "namespace": installed.outside}
    environment = [
        {"name": "REDIS_URL", "valueFrom": {"secretKeyRef": {"name": "producer", "key": "url"}}},
        {"name": "JOBS", "value": json.dumps(descriptions(wait))},
    ]
    container = {
        "name": "producer",
        "image": images.WORKER,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", PRODUCER],
        "env": environment,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": here,
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": here, "stringData": {"url": installed.redis_url()}}
    kubectl("apply", "-f", "-", stdin=manifests([secret, pod]))
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl("wait", ended, "pod/producer", "--namespace", installed.outside, "--timeout=60s")
    return kubectl("logs", "producer", "--namespace", installed.outside).split()


class Queue:
    """What the queue says about the jobs, seen through the forwarded port."""

    def __init__(self, client: JobClient) -> None:
        self._client = client

    async def waiting(self) -> int:
        """Jobs that no worker has claimed."""
        return int(await self._client.redis.llen("rq:queue:jobs"))

    async def ended(self) -> int:
        """How many ends of attempts were recorded."""
        return int(await self._client.redis.xlen(wire.EVENTS_KEY))

    async def wait_for_waiting(self, number: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while (last := await self.waiting()) != number:
            assert time.monotonic() < end, f"{last} jobs wait, not {number}"
            await asyncio.sleep(POLL_S)

    async def wait_for_ends(self, number: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while (last := await self.ended()) < number:
            assert time.monotonic() < end, f"{last} of {number} jobs have ended: {await self.in_words()}"
            await asyncio.sleep(POLL_S)

    async def in_words(self) -> Counter[str]:
        listing = await self._client.list(limit=JOBS)
        return Counter(f"{job.status} {job.stage} {job.why}" for job in listing.jobs)

    async def jobs(self) -> tuple[JobStatus, ...]:
        return (await self._client.list(limit=2 * JOBS)).jobs


async def follow(
    installed: Release, prometheus: Prometheus, url: str, host: str
) -> tuple[tuple[JobStatus, ...], PodRecorder]:
    """One worker, three, one: while the jobs are in flight. How every job ended, and which pods there were."""
    async with (
        rendezvous(host) as meeting,
        recorded_pods(installed.jobs) as pods,
        redis_server.connect(url) as connections,
    ):
        queue = Queue(JobClient(connections.control))
        ids = await asyncio.to_thread(produce, installed, meeting.script)
        assert len(set(ids)) == JOBS
        await queue.wait_for_waiting(JOBS - CAPACITY)

        await asyncio.to_thread(installed.scale, 3)
        await queue.wait_for_waiting(0)  # the capacity has grown
        await asyncio.to_thread(prometheus.wait_for, 'sum(up{job="worker"})', 3)
        await asyncio.to_thread(prometheus.wait_for, "sum(dynapod_jobs_capacity)", 3 * CAPACITY)
        assert await asyncio.to_thread(prometheus.ask, 'sum(up{job="gateway"})') == 1
        # The jobs of workers that go are taken over from whoever created their pods.
        await pods.wait_for(JOBS)

        await asyncio.to_thread(installed.scale, 1)
        assert await queue.ended() == 0, "the jobs have not waited"
        meeting.release()
        await queue.wait_for_ends(JOBS)
        await asyncio.to_thread(prometheus.wait_for, "sum(dynapod_jobs_in_flight)", 0)
        return await queue.jobs(), pods


def check(jobs: tuple[JobStatus, ...], seen: PodRecorder) -> None:
    """Every job: one attempt, one pod, green."""
    assert len(jobs) == JOBS
    for job in jobs:
        assert job.status == "finished", job
        (attempt,) = job.attempts
        assert attempt.number == 1
        assert (attempt.result["verdict"], attempt.result["attempt"]) == ("succeeded", 1)
    assert {job: len(uids) for job, uids in seen.uids.items()} == {job.id: 1 for job in jobs}
    assert len(set(seen.creators.values())) > 1, "only one worker ever created pods"
    adopted = [job.id for job in jobs if job.attempts[0].worker != seen.creators[job.id]]
    assert adopted, "every job was recorded by the worker that had created its pod: none was taken over"


def artifacts(endpoint: str) -> list[str]:
    """The names of all files of artifacts in the bucket."""
    with urllib.request.urlopen(f"{endpoint}/{BUCKET}?list-type=2", timeout=30) as answer:
        return re.findall(r"<Key>([^<]+/artifacts/[^<]+)</Key>", answer.read().decode())


def test_workers_come_and_go_under_sixty_jobs_and_an_uninstall_leaves_nothing(tmp_path: Path) -> None:
    require_cluster()
    host = host_address()
    with s3_server(tmp_path, host) as endpoint, release() as installed:
        installed.install(installed.values(endpoint, S3_CREDENTIALS))
        prometheus = Prometheus(installed.outside, installed.system)
        prometheus.start()
        prometheus.wait()
        with installed.forwarded_redis() as url:
            jobs, pods = asyncio.run(follow(installed, prometheus, url, host))
        check(jobs, pods)
        assert len(artifacts(endpoint)) == WITH_ARTIFACT, artifacts(endpoint)

        installed.uninstall()
        assert installed.traces() == []
        with pytest.raises(KubectlError, match="NotFound"):
            kubectl("get", "namespace", installed.jobs)

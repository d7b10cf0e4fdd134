"""`helm install` on a real cluster: workers come and go under sixty jobs in flight, and nothing is left behind."""

import asyncio
import json
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from adapters import redis_server
from runner_spec import anatomy, wire
from tests.charts.cluster import KubectlError, get, kubectl, manifests, require_cluster
from tests.cluster import images
from tests.cluster.prometheus import Prometheus
from tests.cluster.release import Release, release
from tests.cluster.servers import S3_ENVIRONMENT, s3_server
from worker.client import JobClient
from worker.job_status import JobStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(480)]

JOBS: Final = 60
WITH_ARTIFACT: Final = 3
CAPACITY: Final = 40
# Long enough that most jobs are still in flight when the workers have come and gone.
SLEEP_S: Final = 10
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


def descriptions() -> list[dict[str, Any]]:
    jobs = []
    for number in range(JOBS):
        script = f"sleep {SLEEP_S}; echo job {number} > result.txt"
        job: dict[str, Any] = {
            "name": f"job-{number}",
            "image": images.JOB,
            "steps": [{"name": "sleep", "run": script}],
        }
        if number < WITH_ARTIFACT:
            job["artifacts"] = [{"name": "result", "paths": ["result.txt"]}]
        jobs.append(job)
    return jobs


def produce(installed: Release) -> list[str]:
    """Enqueue all jobs from a pod beside the installation; their ids."""
    here = {"name": "producer", "namespace": installed.outside}
    environment = [
        {"name": "REDIS_URL", "valueFrom": {"secretKeyRef": {"name": "producer", "key": "url"}}},
        {"name": "JOBS", "value": json.dumps(descriptions())},
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


@contextmanager
def recorded_pods(namespace: str, file: Path) -> Iterator[None]:
    """Every event of the namespace's pods goes to `file` while the block runs."""
    command = ["kubectl", "get", "pods", "--namespace", namespace, "--watch", "--output-watch-events", "--output=json"]
    with file.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as watch:
        try:
            yield
            assert watch.poll() is None, f"the watch has ended: {file.read_text()[-500:]}"
        finally:
            watch.terminate()


@dataclass(frozen=True)
class Seen:
    """What a watch saw of the jobs' pods: by job the uids, and the workers that had created any."""

    pods: dict[str, set[str]]
    creators: Counter[str]

    @classmethod
    def read(cls, file: Path) -> "Seen":
        pods: dict[str, set[str]] = defaultdict(set)
        creators: dict[str, str] = {}
        text, decoder, position = file.read_text(), json.JSONDecoder(), 0
        while position < len(text):
            try:
                event, position = decoder.raw_decode(text, position)
            except json.JSONDecodeError:
                break  # kubectl was stopped in the middle of an event
            position = len(text) - len(text[position:].lstrip())
            metadata = event["object"]["metadata"]
            pods[metadata["annotations"][anatomy.ANNOTATION_JOB]].add(metadata["uid"])
            creators[metadata["uid"]] = metadata["labels"][anatomy.LABEL_WORKER]
        return cls(dict(pods), Counter(creators.values()))


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


async def follow(installed: Release, prometheus: Prometheus, url: str) -> tuple[JobStatus, ...]:
    """One worker, three, one: while the jobs are in flight. How every job ended."""
    async with redis_server.connect(url) as connections:
        queue = Queue(JobClient(connections.control))
        ids = await asyncio.to_thread(produce, installed)
        assert len(set(ids)) == JOBS
        await queue.wait_for_waiting(JOBS - CAPACITY)

        await asyncio.to_thread(installed.scale, 3)
        await queue.wait_for_waiting(0)  # the capacity has grown
        await asyncio.to_thread(prometheus.wait_for, 'sum(up{component="worker"})', 3)
        await asyncio.to_thread(prometheus.wait_for, "sum(dynapod_jobs_capacity)", 3 * CAPACITY)
        assert await asyncio.to_thread(prometheus.ask, 'sum(up{component="gateway"})') == 1

        at_most = JOBS // 2
        assert await queue.ended() < at_most, "most jobs have ended already: nothing would be disturbed any more"
        await asyncio.to_thread(installed.scale, 1)
        assert await queue.ended() < at_most, "most jobs have ended already: nothing was disturbed any more"
        await queue.wait_for_ends(JOBS)
        await asyncio.to_thread(prometheus.wait_for, "sum(dynapod_jobs_in_flight)", 0)
        return await queue.jobs()


def check(jobs: tuple[JobStatus, ...], seen: Seen) -> None:
    """Every job: one attempt, one pod, green."""
    assert len(jobs) == JOBS
    for job in jobs:
        assert job.status == "finished", job
        (attempt,) = job.attempts
        assert attempt.number == 1
        assert (attempt.result["verdict"], attempt.result["attempt"]) == ("succeeded", 1)
    assert {job: len(uids) for job, uids in seen.pods.items()} == {job.id: 1 for job in jobs}
    assert len(seen.creators) > 1, "only one worker ever created pods"
    recorders = {job.attempts[0].worker for job in jobs}
    assert recorders - set(seen.creators) or any(job.attempts[0].worker != "" for job in jobs), (
        "nobody recorded anything"
    )


def node_address() -> str:
    """Where pods reach a server of this machine, which is the node."""
    addresses = get("nodes")["items"][0]["status"]["addresses"]
    return str(next(item["address"] for item in addresses if item["type"] == "InternalIP"))


def test_workers_come_and_go_under_sixty_jobs_and_an_uninstall_leaves_nothing(tmp_path: Path) -> None:
    require_cluster()
    with s3_server(tmp_path, node_address()) as endpoint, release() as installed:
        installed.install(installed.values(endpoint, S3_ENVIRONMENT))
        prometheus = Prometheus(installed.outside, installed.system)
        prometheus.start()
        prometheus.wait()
        events = tmp_path / "pods.json"
        with recorded_pods(installed.jobs, events), installed.forwarded_redis() as url:
            jobs = asyncio.run(follow(installed, prometheus, url))
        check(jobs, Seen.read(events))

        installed.uninstall()
        assert installed.traces() == []
        with pytest.raises(KubectlError, match="NotFound"):
            kubectl("get", "namespace", installed.jobs)

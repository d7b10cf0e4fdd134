"""The contract with rq 3.0: our worker leaves the same keys, types, fields and expiries as rq's own on equal jobs.

When an upgrade of rq breaks one of these, the scripts (started) or `record.py` (ends) have to follow.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from rq import Callback, Queue, Repeat, Retry, SimpleWorker
from rq.group import Group
from rq.job import Job

from adapters.redis_server import connect
from runner_spec.outcome import Fault, Outcome, Verdict
from tests.worker.queue.scene import DESCRIPTION
from worker.queue import Action, Claim, Fail, Finish, JobQueue, Requeue, Settlement, Stop
from worker.queue.claim import JOB_FIELDS
from worker.queue.record import RecordedJob

pytestmark = pytest.mark.redis

FUNCTIONS = "tests.worker.queue.rq_functions."
# Workers are registered alike, but under other names and for other spans; locks come and go.
IGNORED = ("rq:worker", "rq:clean_", "dynapod:")
# Set by our sweep of due jobs and by rq's save alike, and not compared by value.
VOLATILE = re.compile(rb"(_at|_heartbeat|worker_name|birth|data|description|execution_\w+|exc_string|^id)$")


def picture(redis: Any) -> dict[str, Any]:
    """Every key of rq: type, fields, values that do not depend on the moment, and roughly when it expires."""
    keys: dict[str, Any] = {}
    for key in sorted(redis.keys("*")):
        name = re.sub(r"[0-9a-f]{32}", "<execution>", key.decode())
        if not name.startswith(IGNORED):
            keys[name] = (redis.type(key).decode(), _content(redis, key), round(redis.ttl(key) / 100))
    return keys


def _content(redis: Any, key: bytes) -> object:
    match redis.type(key):
        case b"hash":
            return _fields(redis.hgetall(key))
        case b"zset":
            # Scores are moments, or +inf and -1 for "never".
            return [
                (re.sub(rb"[0-9a-f]{32}", b"<execution>", member), score if score in {-1.0, float("inf")} else "moment")
                for member, score in redis.zrange(key, 0, -1, withscores=True)
            ]
        case b"list":
            return redis.lrange(key, 0, -1)
        case b"set":
            return sorted(redis.smembers(key))
        case b"stream":
            return [_fields(fields) for _, fields in redis.xrange(key)]
        case other:
            return other


def _fields(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {
        name: b"volatile" if VOLATILE.search(name) else value
        for name, value in sorted(fields.items())
        if not name.startswith(b"dynapod_")
    }


def without_ttl(picture: dict[str, Any], *names: str) -> dict[str, Any]:
    """Started executions expire at other times on purpose: an observer must never fail ours."""
    return {key: value[:2] if key.startswith(names) else value for key, value in picture.items()}


class RqSide:
    """The same job, worked on by rq's own worker."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url)
        self.queue = Queue("jobs", connection=self.redis, serializer="json")
        self.worker = SimpleWorker([self.queue], connection=self.redis, serializer="json")

    def start(self) -> None:
        self.worker.register_birth()
        dequeued = Queue.dequeue_any([self.queue], None, connection=self.redis, serializer="json")
        assert dequeued is not None
        self.worker.prepare_execution(dequeued[0])
        self.worker.prepare_job_execution(dequeued[0], remove_from_intermediate_queue=True)

    def run(self, *, stopped: bool = False) -> None:
        self.worker.log.setLevel("CRITICAL")
        if stopped:
            self.worker._stopped_job_id = "a"
        self.worker.work(burst=True, max_jobs=1, logging_level="CRITICAL")

    def close(self) -> None:
        self.redis.close()
        self.redis.connection_pool.disconnect()


def our_side(url: str, decide: Callable[[Claim], Action | None]) -> None:
    async def run() -> None:
        async with connect(url) as connections, JobQueue(connections, ["jobs"], uuid4().hex) as queue:
            (claim,) = await queue.claim(1)
            if (action := decide(claim)) is not None:
                outcome = Outcome(Verdict.FAILED, Fault.JOB, "exit", "exit 3")
                assert await queue.settle(Settlement(claim, outcome, action))

    asyncio.run(run())


Enqueue = Callable[[Queue, str], object]


def enqueue(**options: Any) -> Enqueue:
    def put(queue: Queue, function: str) -> object:
        return queue.enqueue(function, DESCRIPTION, job_id="a", description="d", **options)

    return put


def with_child(parent: Mapping[str, Any] | None = None, **options: Any) -> Enqueue:
    def put(queue: Queue, function: str) -> object:
        queue.enqueue(function, DESCRIPTION, job_id="a", description="d", **(parent or {}))
        return queue.enqueue(function, DESCRIPTION, job_id="child", description="d", **options)

    return put


def in_group(**options: Any) -> Enqueue:
    def put(queue: Queue, function: str) -> object:
        data = Queue.prepare_data(function, (DESCRIPTION,), job_id="a", description="d", **options)
        return Group(queue.connection, "release").enqueue_many(queue, [data])

    return put


def retried(claim: Claim) -> Action:
    assert claim.retries_left
    return Requeue(delay=claim.retry_interval or 0.0, consumes_retry=True)


def finished(_: Claim) -> Action:
    return Finish({"verdict": "succeeded"})


def failed(_: Claim) -> Action:
    return Fail("exit 3")


@pytest.mark.parametrize(
    "put",
    [enqueue(), enqueue(retry=Retry(2), meta={"k": "v"}, ttl=100, job_timeout=5), in_group()],
    ids=["plain", "options", "group"],
)
def test_a_started_job_looks_the_same(redis_url: str, put: Enqueue) -> None:
    rq = RqSide(redis_url)
    put(rq.queue, FUNCTIONS + "succeed")
    rq.start()
    theirs = picture(rq.redis)
    rq.redis.flushall()
    put(rq.queue, "worker.tasks.run")
    our_side(redis_url, lambda _: None)
    ours = picture(rq.redis)
    rq.close()

    longer = ("rq:execution",)
    assert without_ttl(ours, *longer) == without_ttl(theirs, *longer)
    assert {key: ours[key][2] > 0 for key in ours} == {key: theirs[key][2] > 0 for key in theirs}


ENDS = {
    "finished": (enqueue(), "succeed", finished),
    "finished, options": (enqueue(meta={"k": "v"}, ttl=1000, job_timeout=5, retry=Retry(2)), "succeed", finished),
    "finished, result_ttl": (enqueue(result_ttl=9000), "succeed", finished),
    "finished, result kept for ever": (enqueue(result_ttl=-1), "succeed", finished),
    "finished, result not kept": (enqueue(result_ttl=0), "succeed", finished),
    "finished in a group": (in_group(), "succeed", finished),
    "finished in a group, not kept": (in_group(result_ttl=0), "succeed", finished),
    "finished with a dependent": (with_child(depends_on="a"), "succeed", finished),
    "finished, to be repeated at once": (enqueue(repeat=Repeat(2)), "succeed", finished),
    "finished, to be repeated later": (enqueue(repeat=Repeat(3, [600, 900])), "succeed", finished),
    "failed": (enqueue(), "explode", failed),
    "failed, failure_ttl": (enqueue(failure_ttl=9000), "explode", failed),
    "failed, kept for ever": (enqueue(failure_ttl=-1), "explode", failed),
    "failed with a dependent": (with_child(depends_on="a"), "explode", failed),
    "retried": (enqueue(retry=Retry(2)), "explode", retried),
    "retried later": (enqueue(retry=Retry(3, [600, 1200, 1800])), "explode", retried),
    "retried at the front": (with_child(parent={"retry": Retry(1, enqueue_at_front=True)}), "explode", retried),
}


@pytest.mark.parametrize("case", list(ENDS))
def test_an_ended_attempt_leaves_the_same(redis_url: str, case: str) -> None:
    put, function, decide = ENDS[case]
    rq = RqSide(redis_url)
    put(rq.queue, FUNCTIONS + function)
    rq.run()
    theirs = picture(rq.redis)
    rq.redis.flushall()
    put(rq.queue, "worker.tasks.run")
    our_side(redis_url, decide)
    ours = picture(rq.redis)
    rq.close()

    assert ours == theirs


def test_a_stopped_job_leaves_the_same(redis_url: str) -> None:
    rq = RqSide(redis_url)
    enqueue(retry=Retry(2))(rq.queue, FUNCTIONS + "explode")
    rq.run(stopped=True)
    theirs = picture(rq.redis)
    rq.redis.flushall()
    enqueue(retry=Retry(2))(rq.queue, "worker.tasks.run")
    our_side(redis_url, lambda _: Stop("Stopped by request."))
    ours = picture(rq.redis)
    rq.close()

    assert theirs["rq:job:a"][1][b"status"] == b"stopped"
    assert ours == theirs


def test_a_worker_registers_like_rqs_own(redis_url: str) -> None:
    rq = RqSide(redis_url)
    rq.worker.register_birth()
    rq.worker.set_state("idle")
    theirs = set(rq.redis.hgetall(rq.worker.key))
    rq.redis.flushall()

    async def run() -> None:
        async with connect(redis_url) as connections, JobQueue(connections, ["jobs"], "ours"):
            assert set(rq.redis.hgetall("rq:worker:ours")) == theirs
            assert rq.redis.smembers("rq:workers") == rq.redis.smembers("rq:workers:jobs") == {b"rq:worker:ours"}
            assert rq.redis.ttl("rq:worker:ours") > 0
            assert [worker.name for worker in SimpleWorker.all(queue=rq.queue, serializer="json")] == ["ours"]

    asyncio.run(run())
    rq.close()


def test_a_claim_reads_every_field_that_rq_writes_back(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    full = Job.create(
        "worker.tasks.run",
        [DESCRIPTION],
        connection=redis,
        serializer="json",
        id="a",
        origin="jobs",
        ttl=1,
        result_ttl=1,
        failure_ttl=1,
        timeout=1,
        depends_on=["b"],
        group_id="g",
        status="queued",
        on_success=Callback("builtins.print"),
        on_failure=Callback("builtins.print"),
        on_stopped=Callback("builtins.print"),
    )
    full.retries_left = full.number_of_retries = full.repeats_left = 1
    full.retry_intervals = full.repeat_intervals = [1]
    full.enqueue_at_front = full.enqueue_at_front_on_retry = full.allow_dependency_failures = True
    full.rate_limit_key, full.rate_limit_concurrency, full.meta = "k", 1, {"m": 1}
    written = set(full.to_dict())
    redis.close()

    kept_as_they_are = {"meta", "result", "exc_info", "description"}
    assert written - kept_as_they_are - set(JOB_FIELDS) == set()
    assert "data" not in RecordedJob.to_dict(_recorded(redis))


def _recorded(redis: Redis) -> RecordedJob:
    job = RecordedJob(connection=redis, serializer="json")
    job.data = b"x"
    return job

"""The client against Redis in this process, and against a real server where it matters what rq itself would do."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.job import Job
from rq.suspension import suspend

from adapters import redis_server
from adapters.redis_server import Connections, RedisUnavailable
from runner_spec import wire
from worker.client import Cancellation, ClientError, DuplicateJobIdError, JobClient, UnknownJobError

DESCRIPTION = {"name": "test", "image": "python:3.12", "steps": [{"run": "true"}]}

Scenario = Callable[[JobClient, Connections], Coroutine[Any, Any, None]]


@asynccontextmanager
async def embedded_client() -> AsyncIterator[tuple[JobClient, Connections]]:
    async with redis_server.embed() as connections:
        yield JobClient(connections.control), connections


def play(scenario: Scenario) -> None:
    async def session() -> None:
        async with embedded_client() as (client, connections):
            await scenario(client, connections)

    asyncio.run(session())


def play_on(url: str, scenario: Scenario) -> None:
    async def session() -> None:
        async with redis_server.connect(url) as connections:
            await scenario(JobClient(connections.control), connections)

    asyncio.run(session())


def put_job(connections: Connections, job_id: str, status: str, **facts: str) -> None:
    fields: dict[Any, Any] = {"status": status, "origin": "jobs", **facts}
    connections.sync.hset(f"rq:job:{job_id}", mapping=fields)
    connections.sync.sadd("rq:queues", "rq:queue:jobs")


def test_a_submitted_job_can_be_claimed() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        job = await client.submit(DESCRIPTION)
        assert connections.sync.lrange("rq:queue:jobs", 0, -1) == [job.encode()]
        data = connections.sync.hget(f"rq:job:{job}", "data")
        assert isinstance(data, bytes)
        assert wire.decode_payload(data) == DESCRIPTION

    play(scenario)


@pytest.mark.redis
@pytest.mark.parametrize("unique", [False, True])
def test_submit_writes_what_rqs_own_enqueue_writes(redis_url: str, *, unique: bool) -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        await client.submit(DESCRIPTION, job_id="ours", unique=unique, queue="builds")
        queue = Queue("builds", connection=connections.sync, serializer="json")
        title = "worker.tasks.run('test')"
        queue.enqueue(wire.RUN_FUNCTION, DESCRIPTION, job_id="rqs", unique=unique, description=title)
        ours, rqs = connections.sync.hgetall("rq:job:ours"), connections.sync.hgetall("rq:job:rqs")
        moments = {b"created_at", b"enqueued_at"}
        assert moments <= ours.keys()
        assert {name: ours[name] for name in ours.keys() - moments} == {n: rqs[n] for n in rqs.keys() - moments}
        assert connections.sync.lrange("rq:queue:builds", 0, -1) == [b"ours", b"rqs"]
        assert connections.sync.ttl("rq:job:ours") == connections.sync.ttl("rq:job:rqs")
        keys = {b"rq:job:ours", b"rq:job:rqs", b"rq:queue:builds", b"rq:queues"}
        assert set(connections.sync.keys("*")) == keys
        fetched = Job.fetch("ours", connection=connections.sync, serializer="json")
        assert (fetched.args, fetched.get_position()) == ([DESCRIPTION], 0)

    play_on(redis_url, scenario)


def test_a_unique_job_is_enqueued_once() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        await client.submit(DESCRIPTION, job_id="nightly", unique=True)
        with pytest.raises(DuplicateJobIdError, match="nightly"):
            await client.submit(DESCRIPTION, job_id="nightly", unique=True)
        assert connections.sync.llen("rq:queue:jobs") == 1

    play(scenario)


@pytest.mark.parametrize("job_id", ["", "a b", "a:b", "a/b", "ü"])
def test_ids_that_rq_refuses_are_refused(job_id: str) -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        with pytest.raises(ValueError, match="letters, digits"):
            await client.submit(DESCRIPTION, job_id=job_id)
        assert connections.sync.keys("*") == []

    play(scenario)


def test_a_queued_job_knows_its_place_and_whether_anybody_serves_it() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        await client.submit(DESCRIPTION)
        job = await client.submit(DESCRIPTION)
        assert ((await client.status(job)).ahead, (await client.status(job)).workers) == (1, 0)
        connections.sync.zadd(wire.LEASES_KEY, {"alive": 4e9, "dead": 1.0})
        assert (await client.status(job)).workers == 1

    play(scenario)


def test_the_list_knows_of_waiting_jobs_what_their_own_status_says() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        jobs = [await client.submit(DESCRIPTION, queue=queue) for queue in ("jobs", "jobs", "jobs", "idle")]
        put_job(connections, "j", "started")
        connections.sync.zadd("rq:wip:jobs", {"j": 1})
        assert {job.workers for job in (await client.list(statuses=["queued"])).jobs} == {0}
        connections.sync.zadd(wire.LEASES_KEY, {"alive": 4e9, "dead": 1.0})
        load = {"queues": "jobs", wire.FIELD_CAPACITY: "5", wire.FIELD_IN_FLIGHT: "5", wire.FIELD_NO_ROOM: "quota"}
        connections.sync.hset("rq:worker:alive", mapping=load)  # type: ignore[arg-type]  # invariant in redis-py
        listed = {job.id: job for job in (await client.list()).jobs}
        assert [(listed[job].ahead, listed[job].workers) for job in jobs] == [(0, 1), (1, 1), (2, 1), (0, 0)]
        for job in jobs:
            assert listed[job] == await client.status(job)
        assert listed["j"].workers is None  # nobody asked
        put_job(connections, "later", "scheduled")
        connections.sync.zadd("rq:scheduled:jobs", {"later": 1800000000.0})
        (later,) = (await client.list(statuses=["scheduled"])).jobs
        assert (later.scheduled_at, later) == (1800000000.0, await client.status("later"))
        newest = {job.id: job.ahead for job in (await client.list(limit=1, queues=["jobs"])).jobs}
        assert newest == {jobs[2]: 2}

    play(scenario)


def test_a_status_gathers_everything_that_is_known() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        put_job(connections, "j", "started", worker_name="w")
        connections.sync.hset(wire.state_key("j"), mapping={"attempt": 2, "stage": "run", "pod": "dp-j-2"})
        outcome = {"verdict": "failed", "reason": "node-lost"}
        connections.sync.hset(wire.attempts_key("j"), "1", json.dumps({"outcome": outcome, "pod": "dp-j-1"}))
        connections.sync.set(wire.stop_key("j"), "me")
        status = await client.status("j")
        assert (status.stage, status.attempt, status.stop_requested_by, status.worker) == ("run", 2, "me", "w")
        assert status.attempts[0].result == outcome

    play(scenario)


def test_why_a_job_waits_and_how_often_it_did_is_loaded_with_it() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        put_job(connections, "j", "started")
        connections.sync.zadd("rq:wip:jobs", {"j": 1})
        state = {"attempt": 8, "stage": "waiting", "why": "0/3 nodes have room", "since": 1800000000.5}
        connections.sync.hset(wire.state_key("j"), mapping=state)  # type: ignore[arg-type]  # numbers, too
        entry = {"outcome": {"reason": "quota"}, "wait": {"attempt": 7, "count": 6, "since": 1799999000.0}}
        connections.sync.hset(wire.attempts_key("j"), "7", json.dumps(entry))
        for status in (await client.status("j"), (await client.list()).jobs[0]):
            assert (status.stage, status.why, status.since) == ("waiting", "0/3 nodes have room", 1800000000.5)
            (record,) = status.attempts
            assert (record.number, record.waits, record.waiting_since) == (7, 6, 1799999000.0)

    play(scenario)


def test_a_scheduled_job_knows_its_time() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        put_job(connections, "j", "scheduled")
        assert (await client.status("j")).scheduled_at is None
        connections.sync.zadd("rq:scheduled:jobs", {"j": 1800000000.0})
        assert (await client.status("j")).scheduled_at == 1800000000.0

    play(scenario)


def test_what_has_no_status_is_no_job() -> None:
    """Fields of a job that was deleted while somebody wrote to it: rq does not take them for one, either."""

    async def scenario(client: JobClient, connections: Connections) -> None:
        connections.sync.hset("rq:job:j", mapping={"dynapod_attempt": 3, "origin": "jobs"})
        connections.sync.sadd("rq:queues", "rq:queue:jobs")
        connections.sync.rpush("rq:queue:jobs", "j")
        with pytest.raises(UnknownJobError, match="'j'"):
            await client.status("j")
        assert (await client.list()).jobs == ()

    play(scenario)


def test_an_unknown_job_is_an_error_that_names_it() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        for request in (client.status("nope"), client.cancel("nope"), client.wait("nope")):
            with pytest.raises(UnknownJobError, match="'nope'"):
                await request
        assert connections.sync.keys("*") == []

    play(scenario)


@pytest.mark.redis
@pytest.mark.parametrize("status", ["queued", "deferred", "scheduled"])
def test_a_waiting_job_is_canceled_as_rq_cancels_it(redis_url: str, status: str) -> None:
    registries = {"deferred": "rq:deferred:jobs", "scheduled": "rq:scheduled:jobs"}

    async def scenario(client: JobClient, connections: Connections) -> None:
        queue = Queue("jobs", connection=connections.sync, serializer="json")
        for job_id in ("ours", "rqs"):
            queue.enqueue(wire.RUN_FUNCTION, DESCRIPTION, job_id=job_id)
            if status in registries:
                connections.sync.hset(f"rq:job:{job_id}", "status", status)
                connections.sync.lrem("rq:queue:jobs", 0, job_id)
                connections.sync.zadd(registries[status], {job_id: 4e9})
        assert await client.cancel("ours") is Cancellation.CANCELED
        Job.fetch("rqs", connection=connections.sync, serializer="json").cancel()
        ours, rqs = connections.sync.hgetall("rq:job:ours"), connections.sync.hgetall("rq:job:rqs")
        assert ours.keys() == rqs.keys()
        assert ours[b"status"] == rqs[b"status"] == b"canceled"
        assert connections.sync.zrange("rq:canceled:jobs", 0, -1) == [b"ours", b"rqs"]
        keys = {b"rq:job:ours", b"rq:job:rqs", b"rq:queues", b"rq:canceled:jobs"}
        assert set(connections.sync.keys("*")) == keys

    play_on(redis_url, scenario)


@pytest.mark.redis
def test_a_running_job_is_asked_to_stop_durably_and_at_once(redis_url: str) -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        put_job(connections, 'odd "id"', "started", worker_name="w1")
        pubsub = connections.sync.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        pubsub.subscribe(PUBSUB_CHANNEL_TEMPLATE % "w1")
        pubsub.get_message(timeout=5)
        assert await client.cancel('odd "id"', by="me@here") is Cancellation.STOPPING
        message = pubsub.get_message(timeout=5)
        pubsub.close()
        assert message is not None
        assert json.loads(message["data"]) == {"command": "stop-job", "job_id": 'odd "id"', "by": "me@here"}
        assert connections.sync.get(wire.stop_key('odd "id"')) == b"me@here"
        assert connections.sync.hget('rq:job:odd "id"', "status") == b"started"

    play_on(redis_url, scenario)


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled"])
def test_a_job_that_has_ended_is_left_alone(status: str) -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        put_job(connections, "j", status)
        assert await client.cancel("j") is Cancellation.ENDED
        assert connections.sync.exists(wire.stop_key("j")) == 0

    play(scenario)


def test_a_rate_limited_job_is_left_to_rq() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        put_job(connections, "j", "rate_limited")
        with pytest.raises(ClientError, match="rate_limited"):
            await client.cancel("j")
        assert connections.sync.hget("rq:job:j", "status") == b"rate_limited"

    play(scenario)


def test_every_change_is_seen_up_to_the_end() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        job = await client.submit(DESCRIPTION)
        seen = []
        async for status in client.changes(job, interval=0):
            seen.append(status.status)
            following = {"queued": "started", "started": "failed"}.get(status.status)
            if following:
                connections.sync.hset(f"rq:job:{job}", "status", following)
        assert seen == ["queued", "started", "failed"]
        assert (await client.wait(job)).status == "failed"

    play(scenario)


def test_the_list_has_jobs_of_all_statuses_newest_first() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        for number, status in enumerate(["finished", "failed", "canceled", "scheduled", "started"]):
            put_job(connections, status, status, created_at=f"2026-01-0{number + 1}T00:00:00Z")
        connections.sync.zadd("rq:finished:jobs", {"finished": 1})
        connections.sync.zadd("rq:failed:jobs", {"failed": 1, "expired": 2})
        connections.sync.zadd("rq:canceled:jobs", {"canceled": 1})
        connections.sync.zadd("rq:scheduled:jobs", {"scheduled": 1})
        connections.sync.zadd("rq:wip:jobs", {"started:" + "0" * 32: 1})
        job = await client.submit(DESCRIPTION)
        listing = await client.list()
        assert [found.id for found in listing.jobs] == [job, "started", "scheduled", "canceled", "failed", "finished"]
        assert [found.id for found in (await client.list(statuses=["failed", "started"])).jobs] == ["started", "failed"]
        limited = await client.list(limit=2)
        assert ([found.id for found in limited.jobs], limited.total) == ([job, "started"], 7)
        assert (await client.list(queues=["other"])).jobs == ()

    play(scenario)


def test_a_job_that_rq_suspend_holds_back_says_so_alone_and_in_the_list() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        job = await client.submit(DESCRIPTION)
        assert not (await client.status(job)).suspended
        suspend(connections.sync)
        assert (await client.status(job)).suspended
        assert [found.suspended for found in (await client.list()).jobs] == [True]

    play(scenario)


def test_ids_that_are_not_utf8_do_not_break_the_list() -> None:
    async def scenario(client: JobClient, connections: Connections) -> None:
        hostile = b"\xff:id"
        connections.sync.hset(b"rq:job:" + hostile, mapping={"status": "queued", "origin": "jobs"})
        connections.sync.sadd("rq:queues", "rq:queue:jobs")
        connections.sync.rpush("rq:queue:jobs", hostile)
        (job,) = (await client.list()).jobs
        assert await client.cancel(job.id) is Cancellation.CANCELED
        assert connections.sync.llen("rq:queue:jobs") == 0

    play(scenario)


def test_a_server_that_is_away_is_a_temporary_error(tmp_path: Path) -> None:
    async def session() -> None:
        async with redis_server.connect(f"unix://{tmp_path}/nobody") as connections:
            with pytest.raises(RedisUnavailable):
                await JobClient(connections.control).submit(DESCRIPTION)

    asyncio.run(session())


@pytest.mark.parametrize("turns", range(12))
def test_a_cancellation_ends_the_waiting_whenever_it_comes(turns: int) -> None:
    async def scenario(client: JobClient, _connections: Connections) -> None:
        job = await client.submit(DESCRIPTION)
        waiting = asyncio.create_task(client.wait(job, interval=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=5)
        assert waiting.cancelled()

    play(scenario)


def test_logs_need_a_store() -> None:
    async def scenario(client: JobClient, _connections: Connections) -> None:
        with pytest.raises(ClientError, match="--store"):
            client.logs("j", 1)

    play(scenario)

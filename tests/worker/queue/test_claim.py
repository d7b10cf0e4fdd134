"""Claiming: who gets a job, what the claim says, and what never gets to run."""

import asyncio
import json
import pickle
import shutil
import zlib

import pytest

from runner_spec.wire import Refusal
from tests.worker.queue.scene import DESCRIPTION, Place, Scene, Sender, claim_one, finish, play, raw_commands, redis_cli
from worker.queue import LeaseLost, QueueRefused

HOSTILE_IDS = [
    "a:b:c",
    "with space",
    "line\nbreak",
    "*?[glob]",
    "ünïcode-✓",
    ":",
    "rq:job:x",
    "nul\x00byte",
    "%s{0}",
    '"quoted\\"',
]


def payload(function: object = "worker.tasks.run", *arguments: object) -> bytes:
    return json.dumps([function, None, list(arguments) or [DESCRIPTION], {}]).encode()


def test_a_claim_carries_all_that_is_known_about_the_job(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await claim_one(queue)

        assert (claim.job_id, claim.attempt, claim.queue, claim.payload) == ("a", 1, "jobs", DESCRIPTION)
        assert (claim.adopted, claim.minted_by, claim.stop_requested) == (False, queue.worker, None)
        assert claim.enqueued_at is not None
        assert claim.enqueued_at <= claim.started_at <= claim.claimed_at
        assert await scene.status("a") == "started"
        assert queue.held == (claim,)

    play(place, scenario)


def test_queues_are_claimed_in_the_order_of_their_priority(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("low-1", "low-2")
        scene.rq.name, scene.rq._key = "urgent", "rq:queue:urgent"
        scene.enqueue("high-1")
        async with scene.worker("urgent", "jobs") as queue:
            claims = await queue.claim(2)

        assert [(claim.job_id, claim.queue) for claim in claims] == [("high-1", "urgent"), ("low-1", "jobs")]
        assert await scene.redis.zcard("rq:wip:urgent") == 1

    play(place, scenario)


def test_two_workers_racing_for_2000_jobs_claim_each_of_them_once(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        ids = [f"j{number}" for number in range(2000)]
        scene.rq.enqueue_many([scene.rq.prepare_data("worker.tasks.run", (DESCRIPTION,), job_id=name) for name in ids])
        async with scene.worker() as one, scene.worker() as other:

            async def drain(queue: object) -> list[str]:
                taken: list[str] = []
                while claims := await queue.claim(100):  # type: ignore[attr-defined]
                    taken += [claim.job_id for claim in claims]
                return taken

            first, second = await asyncio.gather(drain(one), drain(other))

        assert sorted(first + second) == sorted(ids)
        assert first
        assert second
        assert await scene.redis.zcard("rq:wip:jobs") == 2000

    play(place, scenario)


def test_what_is_not_queued_is_dropped(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("canceled", "good")
        await scene.redis.hset("rq:job:canceled", "status", "canceled")
        await scene.redis.set("rq:job:no-hash", "x")
        await scene.redis.lpush("rq:queue:jobs", "deleted", "no-hash", "good")
        async with scene.worker() as queue:
            claims = await queue.claim(10)

        assert [claim.job_id for claim in claims] == ["good"]
        assert await scene.redis.llen("rq:queue:jobs") == 0

    play(place, scenario)


@pytest.mark.parametrize("job_id", HOSTILE_IDS)
def test_a_job_id_may_hold_any_characters(place: Place, job_id: str) -> None:
    async def scenario(scene: Scene) -> None:
        fields = {"data": payload(), "status": "queued", "origin": "jobs"}
        await scene.redis.hset(f"rq:job:{job_id}", mapping=fields)
        await scene.redis.rpush("rq:queue:jobs", job_id)
        async with scene.worker() as dying, scene.worker() as queue:
            await claim_one(dying)
            await dying.release()
            (claim,) = await queue.adopt(10)
            assert (claim.job_id, claim.attempt) == (job_id, 1)
            assert await queue.settle(finish(claim))

        assert await scene.status(job_id) == "finished"
        assert await scene.redis.keys("rq:execution*") == []
        assert await scene.redis.zcard("rq:wip:jobs") == 0

    play(place, scenario)


def test_an_id_that_is_not_utf8_is_refused_and_harms_no_neighbour(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.redis.hset(b"rq:job:\xff\xfe", mapping={"data": payload(), "status": "queued"})
        await scene.redis.rpush("rq:queue:jobs", b"\xff\xfe")
        scene.enqueue("good")
        async with scene.worker() as queue:
            bad, good = await queue.claim(10)
            assert isinstance(bad.payload, Refusal)
            assert good.payload == DESCRIPTION
            assert all(await asyncio.gather(queue.settle(finish(bad)), queue.settle(finish(good))))

        assert await scene.redis.hget(b"rq:job:\xff\xfe", "status") == b"finished"

    play(place, scenario)


class Bomb:
    """A pickle that would betray its opening."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(pickle.dumps(("os.system", None, ("true",), {})), "payload", id="pickle"),
        pytest.param(zlib.compress(pickle.dumps(Bomb())), "payload", id="compressed pickle"),
        pytest.param(payload("os.system"), "function", id="foreign function"),
        pytest.param(payload(["worker.tasks.run"]), "function", id="function of a wrong type"),
        pytest.param(payload("worker.tasks.run", 1), "arguments", id="no description"),
        pytest.param(b"\xff\xff", "payload", id="no text"),
        pytest.param(b"[" * 100_000, "payload", id="nested too deep"),
        pytest.param(zlib.compress(b" " * (17 << 20)), "payload", id="decompresses to too much"),
        pytest.param(b"", "payload", id="nothing"),
    ],
)
def test_a_payload_that_must_not_run_is_refused_and_never_opened(place: Place, data: bytes, reason: str) -> None:
    async def scenario(scene: Scene) -> None:
        hostile = {"data": data, "status": "queued", "meta": pickle.dumps(Bomb()), "result": pickle.dumps(Bomb())}
        await scene.redis.hset("rq:job:x", mapping=hostile)
        await scene.redis.rpush("rq:queue:jobs", "x")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            assert isinstance(claim.payload, Refusal)
            assert claim.payload.reason == reason
            assert await queue.settle(finish(claim))

        assert await scene.redis.hget("rq:job:x", "meta") == hostile["meta"]

    play(place, scenario)


def test_fields_that_rq_cannot_read_do_not_stop_the_commit(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        nonsense = dict.fromkeys(("timeout", "result_ttl", "created_at", "retries_left", "retry_intervals"), "soon")
        fields = {"data": payload(), "status": "queued", "dependency_ids": "[1]", "dynapod_attempt": "x", **nonsense}
        await scene.redis.hset("rq:job:x", mapping=fields)
        await scene.redis.rpush("rq:queue:jobs", "x")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            assert (claim.attempt, claim.retries_left, claim.enqueued_at) == (1, None, None)
            assert await queue.settle(finish(claim))

        assert await scene.status("x") == "finished"

    play(place, scenario)


# redis-cli where there is one; a bare machine has none.
SENDERS = [raw_commands, *([redis_cli] if shutil.which("redis-cli") else [])]


@pytest.mark.redis
@pytest.mark.parametrize("send", SENDERS)
def test_a_job_enqueued_by_three_plain_commands_runs(server: Place, redis_url: str, send: Sender) -> None:
    async def scenario(scene: Scene) -> None:
        date = "2026-01-01T00:00:00.000000Z"
        fields = ["data", payload(), "status", "queued", "origin", "jobs", "created_at", date, "enqueued_at", date]
        await send(
            redis_url,
            ["HSET", "rq:job:raw", *fields],
            ["SADD", "rq:queues", "rq:queue:jobs"],
            ["RPUSH", "rq:queue:jobs", "raw"],
        )
        async with scene.worker() as queue:
            assert await queue.wait(5)
            claim = await claim_one(queue)
            assert claim.payload == DESCRIPTION
            assert claim.enqueued_at == 1767225600.0
            assert await queue.settle(finish(claim, {"answer": 42}))

        assert scene.job("raw").return_value() == {"answer": 42}

    play(server, scenario)


def test_a_worker_without_a_live_lease_claims_nothing(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as paused, scene.worker() as other:
            await scene.redis.zadd("dynapod:leases", {paused.worker: 0})
            with pytest.raises(LeaseLost):
                await paused.claim(1)
            assert [claim.job_id for claim in await other.claim(1)] == ["a"]

    play(place, scenario)


def test_a_suspended_queue_gives_nothing_until_it_is_resumed(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await scene.redis.set("rq:suspended", 1)
        async with scene.worker() as queue:
            assert await queue.claim(1) == []
            assert await queue.wait(0.05) is False
            await scene.redis.delete("rq:suspended")
            assert await queue.wait(5) is True
            assert len(await queue.claim(1)) == 1

    play(place, scenario)


def test_attempt_numbers_are_never_used_twice_for_an_id(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        attempts = []
        async with scene.worker() as queue:
            for _ in range(3):
                scene.enqueue("again", result_ttl=0)
                claim = await claim_one(queue)
                attempts.append(claim.attempt)
                assert await queue.settle(finish(claim))
                assert await scene.status("again") == "deleted"

        assert attempts == [1, 2, 3]
        assert sorted(await scene.ledger("again")) == [1, 2, 3]

    play(place, scenario)


def test_enqueuing_a_running_job_again_supersedes_its_attempt(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as first, scene.worker() as second:
            old = await claim_one(first)
            scene.enqueue("a")
            new = await claim_one(second)
            assert (old.attempt, new.attempt) == (1, 2)
            assert await scene.redis.zcard("rq:wip:jobs") == 1
            assert not await first.settle(finish(old))
            assert await second.settle(finish(new))

    play(place, scenario)


def test_waiting_takes_nothing_and_sees_every_queue(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.worker("urgent", "jobs") as queue:
            assert await queue.wait(0.05) is False
            waiting = asyncio.create_task(queue.wait(10))
            await asyncio.to_thread(scene.enqueue, "a", "b")
            assert await waiting is True
            assert await scene.redis.lrange("rq:queue:jobs", 0, -1) == [b"a", b"b"]
            assert len(await queue.claim(10)) == 2

    play(place, scenario)


@pytest.mark.redis
def test_an_idle_worker_waits_without_asking_again_and_again(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.worker("urgent", "jobs") as queue:
            await queue.wait(0.1)
            before = (await scene.redis.info("stats"))["total_commands_processed"]
            assert await queue.wait(1.0) is False
            after = (await scene.redis.info("stats"))["total_commands_processed"]

        assert after - before <= 2  # our own INFO, and maybe a PING

    play(server, scenario)


def test_keys_of_a_foreign_type_lose_no_job(place: Place) -> None:
    """Redis rolls no script back: what fails after the pop would be gone."""

    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        for key in ("dynapod:attempts:a", "rq:executions:a"):
            await scene.redis.set(key, "not what it should be")
        await scene.redis.rpush("dynapod:stop:a", "neither")
        async with scene.worker() as queue:
            assert [claim.job_id for claim in await queue.claim(5)] == ["a", "b"]

    play(place, scenario)


def test_a_registry_of_a_foreign_type_stops_the_claim_before_anything_is_taken(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await scene.redis.set("rq:wip:jobs", "no sorted set")
        async with scene.worker() as queue:
            with pytest.raises(QueueRefused):
                await queue.claim(5)
        assert await scene.redis.llen("rq:queue:jobs") == 1

    play(place, scenario)

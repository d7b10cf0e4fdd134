"""Settling: the end of an attempt is on record as a whole, once, and only by its owner."""

import asyncio
import json
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rq import Queue

from adapters.redis_server import connect, embed, start_server
from runner_spec import wire
from tests.worker.queue.scene import DESCRIPTION, Place, Scene, claim_one, fail, finish, play, requeue, stop
from worker.queue import Fail, Finish, JobQueue, LogsForgotten, QueueRefused, QueueUnavailable, Requeue, Settlement
from worker.queue.claim import JOB_FIELDS, read_reply
from worker.queue.record import Recorder, flatten, needs_transaction


def test_a_finished_job_gives_its_result_to_the_producer(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(finish(await claim_one(queue), {"artifacts": ["wheel"]}))
            assert queue.held == ()

        job = scene.job("a")
        assert (job.get_status(), job.return_value()) == ("finished", {"artifacts": ["wheel"]})
        entry = (await scene.ledger("a"))[1]
        assert (entry["outcome"]["verdict"], entry["pod"], entry["worker"]) == ("succeeded", "pod-1", queue.worker)
        assert entry["started_at"] <= entry["ended_at"]

    play(place, scenario)


def test_a_failed_job_shows_the_sentence_for_people_and_keeps_the_result(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(fail(await claim_one(queue)))

        result = scene.job("a").latest_result()
        assert result is not None
        assert result.exc_string == "Step 'test' failed with exit code 3."
        assert (await scene.ledger("a"))[1]["result"] == {"verdict": "failed"}
        assert scene.rq.failed_job_registry.get_job_ids() == ["a"]

    play(place, scenario)


def test_each_end_is_one_event(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(requeue(await claim_one(queue), platform_fault=True))
            assert await queue.settle(finish(await claim_one(queue)))
        events = [fields for _, fields in await scene.redis.xrange(wire.EVENTS_KEY)]

        assert [(e[b"job"], e[b"attempt"], e[b"status"], e[b"verdict"], e[b"fault"]) for e in events] == [
            (b"a", b"1", b"queued", b"failed", b"platform"),
            (b"a", b"2", b"finished", b"succeeded", b"none"),
        ]

    play(place, scenario)


@pytest.mark.parametrize("count", [250])
def test_many_settlements_share_round_trips(place: Place, count: int) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue(*(f"j{number}" for number in range(count)))
        async with scene.worker() as queue:
            claims = [claim for _ in range(3) for claim in await queue.claim(100)]
            assert all(await asyncio.gather(*(queue.settle(finish(claim)) for claim in claims)))

        assert scene.rq.finished_job_registry.get_job_count() == count
        assert await scene.redis.xlen(wire.EVENTS_KEY) == count

    play(place, scenario)


def test_one_fenced_settlement_does_not_hold_up_its_neighbours(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b", "c")
        async with scene.worker() as queue:
            claims = await queue.claim(3)
            await scene.redis.hset(f"rq:execution:b:{claims[1].execution_id}", "worker_name", "somebody-else")
            recorded = await asyncio.gather(*(queue.settle(finish(claim)) for claim in claims))

        assert recorded == [True, False, True]
        assert await scene.status("b") == "started"

    play(place, scenario)


def test_a_settlement_that_redis_refuses_fails_alone(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as queue:
            broken, good = await queue.claim(2)
            await scene.redis.delete("rq:execution:a")
            await scene.redis.set("dynapod:attempts:a", "not a hash")
            await scene.redis.hset(f"rq:execution:a:{broken.execution_id}", "worker_name", "somebody-else")
            answers = await asyncio.gather(*(queue.settle(finish(c)) for c in (broken, good)), return_exceptions=True)

        assert isinstance(answers[0], QueueRefused)
        assert answers[1] is True

    play(place, scenario)


def test_requeue_counts_what_it_was_for(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            seen = []
            for options in ({"platform_fault": True}, {"consumes_retry": True}, {}):
                claim = await claim_one(queue)
                seen.append((claim.attempt, claim.platform_retries, claim.job_retries))
                assert await queue.settle(requeue(claim, **options))
            claim = await claim_one(queue)
            seen.append((claim.attempt, claim.platform_retries, claim.job_retries))
            assert await queue.settle(fail(claim))
            await asyncio.to_thread(scene.job("a").requeue)
            claim = await claim_one(queue)
            seen.append((claim.attempt, claim.platform_retries, claim.job_retries))

        assert seen == [(1, 0, 0), (2, 1, 0), (3, 1, 1), (4, 1, 1), (5, 0, 0)]

    play(place, scenario)


def test_requeue_may_go_to_the_front(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as queue:
            assert await queue.settle(requeue(await claim_one(queue), at_front=True))
            assert (await claim_one(queue)).job_id == "a"

    play(place, scenario)


def test_requeue_with_a_delay_waits_in_the_scheduled_registry(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(requeue(await claim_one(queue), delay=30.0))
            await queue.tick()
            assert await scene.status("a") == "scheduled"
            due = await scene.redis.zscore("rq:scheduled:jobs", "a")
            assert 25 < due - time.time() <= 31
            await scene.redis.zadd("rq:scheduled:jobs", {"a": 1})
            await queue.tick()
            assert (await claim_one(queue)).attempt == 2

    play(place, scenario)


def test_a_job_canceled_while_it_ran_stays_canceled(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            await asyncio.to_thread(scene.job("a").cancel)
            assert await queue.settle(finish(claim)) is True

        assert await scene.status("a") == "canceled"
        assert scene.rq.canceled_job_registry.get_job_ids() == ["a"]
        assert scene.rq.finished_job_registry.get_job_ids() == []
        (event,) = [fields for _, fields in await scene.redis.xrange(wire.EVENTS_KEY)]
        assert (event[b"status"], event[b"verdict"]) == (b"canceled", b"succeeded")
        assert await scene.redis.keys("rq:execution*") == []

    play(place, scenario)


def test_a_deleted_job_does_not_come_back_by_its_commit(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("by-rq", "by-hand")
        async with scene.worker() as queue:
            by_rq, by_hand = await queue.claim(2)
            await asyncio.to_thread(scene.job("by-rq").delete)
            await scene.redis.delete("rq:job:by-hand")
            assert await queue.settle(finish(by_rq)) is False
            assert await queue.settle(finish(by_hand)) is True

        assert await scene.redis.keys("rq:job:*") == []
        assert await scene.redis.zcard("rq:wip:jobs") == 0

    play(place, scenario)


def test_a_durable_stop_flag_is_cleared_by_the_end_of_the_job_only(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await scene.redis.set(wire.stop_key("a"), "alice")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            assert claim.stop_requested == "alice"
            assert await queue.settle(requeue(claim))
            claim = await claim_one(queue)
            assert claim.stop_requested == "alice"
            assert await queue.settle(stop(claim))

        assert await scene.status("a") == "stopped"
        assert await scene.redis.exists(wire.stop_key("a")) == 0

    play(place, scenario)


def test_a_ledger_outlives_its_job_but_not_for_ever(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("short", result_ttl=1)
        scene.enqueue("forever", result_ttl=-1)
        async with scene.worker() as queue:
            for claim in await queue.claim(2):
                assert await queue.settle(finish(claim))

        assert 6 * 86400 < await scene.redis.ttl(wire.attempts_key("short")) <= 7 * 86400
        assert await scene.redis.ttl(wire.attempts_key("forever")) == -1

    play(place, scenario)


def test_a_large_payload_is_neither_lost_nor_sent_again_by_the_commit(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        script = {"steps": [{"run": "x" * (1 << 20)}]}
        scene.rq.enqueue("worker.tasks.run", {**DESCRIPTION, **script}, job_id="a", retry=None)
        before = await scene.redis.hget("rq:job:a", "data")
        async with scene.worker() as queue:
            assert await queue.settle(requeue(await claim_one(queue)))
            claim = await claim_one(queue)
            assert isinstance(claim.payload, dict)
            assert claim.payload["steps"] == script["steps"]

        assert await scene.redis.hget("rq:job:a", "data") == before

    play(place, scenario)


def test_ledger_entries_keep_what_the_supervisor_adds_but_not_in_place_of_the_fence(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            settlement = finish(claim)
            forged = {"execution": "x", "worker": "x", "action": "x", "node": "n1"}
            assert await queue.settle(
                Settlement(claim, settlement.outcome, Finish({}), forged, ended_at=claim.started_at + 5)
            )
            assert await queue.settle(settlement) is True  # sent again: recognised by its head

        entry = (await scene.ledger("a"))[1]
        assert (entry["worker"], entry["node"], entry["ended_at"] - entry["started_at"]) == (queue.worker, "n1", 5.0)

    play(place, scenario)


@pytest.mark.parametrize("action", [Finish({"v": 1}), Fail("no"), Requeue()])
def test_dependents_and_the_end_of_their_dependency_are_one_transaction(place: Place, action: object) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("parent")
        scene.enqueue("child", depends_on="parent")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            await scene.redis.hset(f"rq:execution:parent:{claim.execution_id}", "worker_name", "somebody-else")
            settlement = Settlement(claim, finish(claim).outcome, action)  # type: ignore[arg-type]  # one of the three
            assert await queue.settle(settlement) is False

        assert await scene.status("child") == "deferred"
        assert await scene.status("parent") == "started"

    play(place, scenario)


def test_events_and_ledger_are_plain_json(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(finish(await claim_one(queue), {"text": "ünïcode \udcff"}))
        raw = await scene.redis.hget(wire.attempts_key("a"), "1")

        assert json.loads(raw)["result"] == {"text": "ünïcode \udcff"}

    play(place, scenario)


def test_dependents_that_rq_cannot_read_do_not_keep_a_job_from_ending(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("parent")
        scene.enqueue("child", depends_on="parent")
        await scene.redis.hset("rq:job:child", "timeout", "soon")
        async with scene.worker() as queue:
            assert await queue.settle(finish(await claim_one(queue)))

        assert await scene.status("parent") == "finished"

    play(place, scenario)


def test_a_broken_key_of_the_job_does_not_keep_it_from_ending(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await scene.redis.set("rq:results:a", "not a stream")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            await asyncio.gather(queue.settle(finish(claim)), return_exceptions=True)
            assert await queue.settle(finish(claim)) is True

        assert await scene.status("a") == "finished"
        assert await scene.redis.keys("rq:execution*") == []

    play(place, scenario)


def test_a_queue_without_redis_says_so_at_the_start() -> None:
    async def scenario() -> None:
        async with connect("redis://127.0.0.1:1/0") as nobody:
            with pytest.raises(QueueUnavailable):
                await JobQueue(nobody, ["jobs"], "w").start()

    asyncio.run(scenario())


@pytest.mark.redis
def test_settling_waits_for_redis_to_come_back(tmp_path: Path) -> None:
    async def scenario(first: ExitStack) -> None:
        url = first.enter_context(start_server(tmp_path, durable=True)).url
        async with connect(url) as connections, JobQueue(connections, ["jobs"], "w") as queue:
            rq = Queue("jobs", connection=connections.sync, serializer="json")
            await asyncio.to_thread(rq.enqueue, "worker.tasks.run", DESCRIPTION, job_id="a")
            claim = await claim_one(queue)
            await asyncio.to_thread(first.close)
            settling = asyncio.create_task(queue.settle(finish(claim)))
            assert await queue.renew() is False
            port = int(url.rsplit(":", 1)[1].removesuffix("/0"))
            with start_server(tmp_path, port=port, durable=True):
                assert await settling is True
                assert await queue.renew() is True

    with ExitStack() as first:
        asyncio.run(scenario(first))


@settings(deadline=None)  # the machine is shared
@given(
    fields=st.dictionaries(st.sampled_from(JOB_FIELDS), st.binary(max_size=30) | st.integers().map(lambda n: b"%d" % n))
)
def test_whatever_a_hash_holds_a_claim_can_be_read_and_recorded(fields: dict[str, bytes]) -> None:
    reply = [b"a", b"e" * 32, b"1", b"w", b"1.5", None, None, None, [fields.get(name) for name in JOB_FIELDS]]
    held = read_reply(reply, 1.5, adopted=False)
    sync = embed().sync
    pipeline = sync.pipeline()
    for settlement in (finish(held.claim), fail(held.claim), requeue(held.claim, delay=1.0, consumes_retry=True)):
        if not needs_transaction(held, settlement):
            Recorder(sync, "w", lambda: 2.0).record(held, settlement, pipeline)
    assert all(isinstance(words[0], str) for words in flatten(pipeline))


def test_an_end_is_not_recorded_by_who_lost_the_execution_and_got_it_back_unseen(place: Place) -> None:
    """The worker knows nothing of the job any more: rq's own writes would go to registries without a name."""

    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            execution, mine = f"rq:execution:a:{claim.execution_id}", f"rq:worker:{queue.worker}:executions"
            await scene.redis.zadd("dynapod:leases", {"somebody-else": time.time() + 100})
            await scene.redis.hset(execution, "worker_name", "somebody-else")
            assert await queue.adopt(1) == []  # the audit lets go of it
            await scene.redis.hset(execution, "worker_name", queue.worker)
            await scene.redis.sadd(mine, claim.member)

            assert not await queue.settle(finish(claim))
            assert await scene.status("a") == "started"

            (again,) = await queue.adopt(1)
            assert await queue.settle(finish(again))
            assert await queue.settle(finish(claim))  # it is on record, by this worker
        assert await scene.redis.zscore("rq:finished:jobs", "a") is not None
        assert await scene.redis.zcard("rq:wip:jobs") == 0

    play(place, scenario)


@pytest.mark.parametrize("dependents", [False, True], ids=["by the script", "by rq's own transaction"])
def test_an_end_is_not_recorded_without_the_logs_that_belong_to_it(place: Place, *, dependents: bool) -> None:
    """A failover may forget that a log was complete, after its writer was told so and before the commit."""

    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        if dependents:
            scene.enqueue("b", depends_on="a")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            settlement = replace(finish(claim), logs=("run", "upload"))
            index = wire.log_index_key("a", claim.attempt)
            await scene.redis.hset(index, mapping={"run": '{"complete":true}', "upload": '{"complete":false}'})
            with pytest.raises(LogsForgotten):
                await queue.settle(settlement)
            assert await scene.status("a") == "started"
            assert await scene.ledger("a") == {}

            await scene.redis.hset(index, "upload", '{"complete":true}')
            assert await queue.settle(settlement)
            assert await scene.status("a") == "finished"

    play(place, scenario)

"""Attempts that are given back for want of room: one entry for all of a wait, and what had happened before it stays."""

import asyncio
import json
from typing import Any

import pytest

from runner_spec import wire
from runner_spec.outcome import NO_ROOM, Fault, Outcome, Verdict
from tests.worker.queue.scene import Place, Scene, claim_one, fail, finish, play, requeue, stop
from worker.client import JobClient
from worker.queue import JobQueue, Requeue, Settlement
from worker.queue.claim import Claim, Wait
from worker.queue.job_queue import LEDGER_ENTRIES

# Nobody's choice: far more than a ledger keeps.
HOURS = LEDGER_ENTRIES + 50


def give_back(claim: Claim, reason: str = NO_ROOM) -> Settlement:
    outcome = Outcome(Verdict.FAILED, Fault.PLATFORM, reason, "There is no room.")
    return Settlement(claim, outcome, Requeue(reason="There is no room.", at_front=True))


async def wait(queue: JobQueue, times: int, reason: str = NO_ROOM) -> Claim:
    """Give the only job back so often; the claim that follows."""
    for _ in range(times):
        assert await queue.settle(give_back(await claim_one(queue), reason))
    return await claim_one(queue)


async def failed_count(scene: Scene, queue: JobQueue) -> int:
    return int(await scene.redis.hget(f"rq:worker:{queue.worker}", "failed_job_count") or 0)


def test_a_wait_of_hours_is_one_entry_and_every_attempt_has_a_number_of_its_own(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            first = await claim_one(queue)
            assert await queue.settle(give_back(first))
            numbers = []
            for _ in range(HOURS - 1):
                claim = await claim_one(queue)
                numbers.append(claim.attempt)
                assert await queue.settle(give_back(claim))
                assert list(await scene.ledger("a")) == [claim.attempt]
            assert numbers == list(range(2, HOURS + 1))

        entry = (await scene.ledger("a"))[HOURS]
        assert entry["wait"] == {"attempt": HOURS, "reason": NO_ROOM, "count": HOURS, "since": first.started_at}

    play(place, scenario)


def test_what_happened_before_a_wait_of_hours_stays_on_record(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(requeue(await claim_one(queue), platform_fault=True))
            claim = await wait(queue, HOURS)
            assert (claim.attempt, claim.platform_retries) == (HOURS + 2, 1)
            assert await queue.settle(finish(claim))

        ledger = await scene.ledger("a")
        reasons = {number: entry["outcome"]["reason"] for number, entry in ledger.items()}
        assert reasons == {1: "evicted", HOURS + 1: NO_ROOM, HOURS + 2: "exit"}
        assert "wait" not in ledger[1]
        assert "wait" not in ledger[HOURS + 2]

    play(place, scenario)


def test_a_wait_is_no_failure_of_the_worker(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await wait(queue, 3)
            assert await failed_count(scene, queue) == 0
            assert await queue.settle(requeue(claim, consumes_retry=True))
            assert await queue.settle(requeue(await claim_one(queue), platform_fault=True))
            assert await queue.settle(fail(await claim_one(queue)))
            assert await failed_count(scene, queue) == 3

    play(place, scenario)


@pytest.mark.parametrize("between", [{"platform_fault": True}, {"consumes_retry": True}])
def test_another_end_begins_a_new_wait(place: Place, between: dict[str, Any]) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await wait(queue, 2)
            assert claim.wait is not None
            assert claim.wait.count == 2
            assert await queue.settle(requeue(claim, **between))
            claim = await claim_one(queue)
            assert claim.wait is None
            assert await queue.settle(give_back(claim))
            assert await queue.settle(give_back(await claim_one(queue)))

        counts = {number: entry.get("wait", {}).get("count") for number, entry in (await scene.ledger("a")).items()}
        assert counts == {2: 2, 3: None, 5: 2}

    play(place, scenario)


def test_waits_for_different_reasons_are_told_apart(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(give_back(await wait(queue, 2), "shutdown"))
            assert await queue.settle(stop(await claim_one(queue)))

        ledger = await scene.ledger("a")
        told = {
            number: (entry["outcome"]["reason"], entry.get("wait", {}).get("count")) for number, entry in ledger.items()
        }
        assert told == {2: (NO_ROOM, 2), 3: ("shutdown", 1), 4: ("stopped", None)}

    play(place, scenario)


def test_an_attempt_that_was_superseded_is_not_taken_for_a_wait(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as queue:
            claim = await wait(dead, 2)
            await scene.lapse(dead)
            (adopted,) = await queue.adopt(1)
            assert adopted.wait == claim.wait
            minted = await queue.mint(adopted)
            assert minted is not None
            assert minted.wait is None
            assert await queue.settle(give_back(minted))

        ledger = await scene.ledger("a")
        told = {number: (entry["outcome"]["reason"], "wait" in entry) for number, entry in ledger.items()}
        assert told == {2: (NO_ROOM, True), 3: ("worker-lost", False), 4: (NO_ROOM, True)}

    play(place, scenario)


def test_a_job_that_has_ended_takes_no_wait_with_it(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(fail(await wait(queue, 2)))
            assert await scene.redis.hget("rq:job:a", wire.FIELD_WAIT) is None
            await asyncio.to_thread(scene.job("a").requeue)
            claim = await claim_one(queue)
            assert (claim.attempt, claim.wait) == (4, None)

    play(place, scenario)


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        "{",
        '{"attempt": 1}',
        '{"attempt": 1, "reason": "quota", "count": 0, "since": 1}',
        '{"attempt": 1, "reason": "quota", "count": 1e999, "since": 1}',
        '{"attempt": 1, "reason": "quota", "count": 1, "since": NaN}',
    ],
)
def test_a_damaged_field_counts_as_no_wait(place: Place, damage: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(give_back(await claim_one(queue)))
            sound = json.loads(await scene.redis.hget("rq:job:a", wire.FIELD_WAIT))
            await scene.redis.hset("rq:job:a", wire.FIELD_WAIT, damage)
            claim = await claim_one(queue)
            assert claim.wait is None
            await scene.redis.hset("rq:job:a", wire.FIELD_WAIT, json.dumps({**sound, "attempt": 2}))
            assert await queue.settle(requeue(claim))
            assert (await claim_one(queue)).wait == Wait(2, "evicted", 1, claim.started_at)

    play(place, scenario)


def test_the_status_tells_how_often_and_since_when_a_job_waits(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            first = await claim_one(queue)
            assert await queue.settle(give_back(first))
            await wait(queue, 4)
            (record,) = (await JobClient(scene.redis).status("a")).attempts

        assert (record.number, record.waits, record.waiting_since) == (5, 5, first.started_at)

    play(place, scenario)


def test_a_ledger_keeps_the_newest_ends_however_often_an_id_is_enqueued(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            for attempt in range(1, LEDGER_ENTRIES + 6):
                if attempt == LEDGER_ENTRIES // 2:  # from somebody else; no number is smaller or larger than NaN
                    await scene.redis.hset(wire.attempts_key("a"), mapping={"nan": "{}", "nonsense": "{}"})
                assert await queue.settle(requeue(await claim_one(queue), platform_fault=True))

        assert sorted(await scene.ledger("a")) == list(range(6, LEDGER_ENTRIES + 6))

    play(place, scenario)

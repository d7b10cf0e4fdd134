"""Leases, adoption and minting: a worker may die at any moment, and be taken for dead when it is not."""

import asyncio
import os
import signal
import sys

import pytest

from runner_spec import wire
from tests.worker.queue.scene import Place, Scene, claim_one, finish, next_command, play, stop
from worker.queue import Claim, CommandKind, JobQueue, LeaseLost


def test_a_dead_workers_executions_are_adopted_with_the_same_attempt(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as dead, scene.worker() as heir:
            old = await dead.claim(10)
            await scene.lapse(dead)
            adopted = await heir.adopt(10)

            assert {claim.execution_id for claim in adopted} == {claim.execution_id for claim in old}
            assert {(claim.attempt, claim.adopted, claim.minted_by) for claim in adopted} == {(1, True, dead.worker)}
            assert await scene.redis.zcard("rq:wip:jobs") == 2
            assert all(await asyncio.gather(*(heir.settle(finish(claim)) for claim in adopted)))

        assert await scene.status("a") == "finished"
        assert (await scene.ledger("a"))[1]["worker"] == heir.worker

    play(place, scenario)


def test_adoption_keeps_to_its_limit_and_goes_on_later(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue(*(f"j{number}" for number in range(5)))
        async with scene.worker() as dead, scene.worker() as heir:
            await dead.claim(10)
            await scene.lapse(dead)
            counts = [len(await heir.adopt(2)) for _ in range(4)]

        assert counts == [2, 2, 1, 0]

    play(place, scenario)


def test_two_heirs_share_an_inheritance_without_overlap(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue(*(f"j{number}" for number in range(20)))
        async with scene.worker() as dead, scene.worker() as one, scene.worker() as other:
            await dead.claim(20)
            await scene.lapse(dead)
            halves = await asyncio.gather(one.adopt(15), other.adopt(15))

        ids = [claim.job_id for half in halves for claim in half]
        assert len(ids) == len(set(ids)) == 20

    play(place, scenario)


def test_a_live_worker_keeps_its_executions(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as alive, scene.worker() as other:
            claim = await claim_one(alive)
            assert await other.adopt(10) == []
            assert await alive.settle(finish(claim))

    play(place, scenario)


def test_executions_of_other_queues_are_left_for_their_own_workers(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker("jobs") as dead, scene.worker("arm64") as stranger, scene.worker("jobs") as heir:
            await dead.claim(1)
            await scene.lapse(dead)
            assert await stranger.adopt(10) == []
            assert [claim.job_id for claim in await heir.adopt(10)] == ["a"]

    play(place, scenario)


def test_a_released_worker_is_adopted_from_at_once_and_its_death_is_registered(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as leaving, scene.worker() as heir:
            await leaving.claim(1)
            await leaving.release()

            assert await scene.redis.hexists(f"rq:worker:{leaving.worker}", "death")
            assert await scene.redis.smembers("rq:workers") == {f"rq:worker:{heir.worker}".encode()}
            assert [claim.job_id for claim in await heir.adopt(10)] == ["a"]
            assert await heir.adopt(10) == []
            assert await heir.lapsed() == {leaving.worker}  # remembered for a while: it may have left pods behind

    play(place, scenario)


def test_a_paused_worker_is_fenced_once_others_have_adopted(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as paused, scene.worker() as heir:
            old, _ = await paused.claim(2)
            await scene.lapse(paused)
            adopted = await heir.adopt(10)

            assert await paused.settle(finish(old)) is False
            assert await scene.status("a") == "started"
            with pytest.raises(LeaseLost):
                await paused.renew()
            with pytest.raises(LeaseLost):
                await paused.claim(1)
            assert all([await heir.settle(finish(claim)) for claim in adopted])
            assert await paused.settle(finish(old)) is False

        assert await scene.redis.xlen("rq:results:a") == 1
        assert await scene.redis.xlen(wire.EVENTS_KEY) == 2  # what was refused is announced to nobody

    play(place, scenario)


def test_a_worker_is_over_from_the_moment_on_at_which_anything_was_taken_from_it(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as paused, scene.worker() as heir:
            await claim_one(paused)
            # Only just: a dead lease without executions is forgotten after a minute, and this one must be remembered.
            await scene.redis.zadd(wire.LEASES_KEY, {paused.worker: heir.lease.now() - 0.001})
            assert [claim.job_id for claim in await heir.adopt(10)] == ["a"]
            with pytest.raises(LeaseLost):
                await paused.renew()
            with pytest.raises(LeaseLost):
                await paused.claim(1)

    play(place, scenario)


def test_a_paused_worker_is_fenced_also_where_the_record_takes_rqs_own_transaction(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", result_ttl=0)
        async with scene.worker() as paused, scene.worker() as heir:
            old = await claim_one(paused)
            await scene.lapse(paused)
            (adopted,) = await heir.adopt(10)

            assert await paused.settle(finish(old)) is False
            assert await scene.status("a") == "started"
            assert await heir.settle(finish(adopted))
            assert await scene.status("a") == "deleted"
            assert await scene.redis.xlen(wire.EVENTS_KEY) == 1

    play(place, scenario)


def test_a_lapsed_lease_may_be_renewed_while_nothing_was_taken(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as worker, scene.worker() as neighbour:
            claim = await claim_one(worker)
            await scene.lapse(worker)
            await scene.lapse(neighbour)  # Redis was away for everybody
            assert await worker.renew() is True
            assert await worker.adopt(10) == []  # the neighbour gets its chance to renew
            assert await neighbour.renew() is True
            assert worker.lease.remaining > 0
            assert await worker.settle(finish(claim))
            assert len(await worker.claim(1)) == 1

    play(place, scenario)


def test_the_next_lapse_is_the_soonest_end_of_another_workers_lease(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.worker() as worker, scene.worker() as neighbour, scene.worker() as other:
            now, nearest = worker.lease.now(), {worker.worker: 1.0, neighbour.worker: 2.0, other.worker: 3.0}
            await scene.redis.zadd(wire.LEASES_KEY, {name: now + seconds for name, seconds in nearest.items()})
            assert await worker.next_lapse(4.0) == pytest.approx(2.0, abs=0.5)
            await scene.lapse(neighbour)  # it is over: nothing to wait for
            assert await worker.next_lapse(4.0) == pytest.approx(3.0, abs=0.5)
            assert await worker.next_lapse(0.5) == 0.5

    play(place, scenario)


def test_an_execution_whose_worker_has_no_lease_at_all_is_found(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead:
            await dead.claim(1)
            await scene.redis.delete(wire.LEASES_KEY, f"rq:worker:{dead.worker}:executions")
            async with scene.worker() as heir:
                (claim,) = await heir.adopt(10)
                assert (claim.job_id, claim.attempt) == ("a", 1)
                assert await heir.settle(finish(claim))

    play(place, scenario)


def test_an_execution_that_expired_while_everybody_was_away_is_rebuilt(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as heir:
            old = await claim_one(dead)
            await scene.redis.delete(f"rq:execution:a:{old.execution_id}")
            await scene.lapse(dead)
            (claim,) = await heir.adopt(10)
            assert (claim.execution_id, claim.attempt, claim.minted_by) == (old.execution_id, 1, dead.worker)
            assert await heir.settle(finish(claim))

    play(place, scenario)


def test_minting_gives_the_next_attempt_and_records_the_old_one(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as heir:
            await dead.claim(1)
            await scene.lapse(dead)
            (adopted,) = await heir.adopt(10)
            minted = await heir.mint(adopted)

            assert minted is not None
            assert (minted.attempt, minted.adopted, minted.minted_by) == (2, False, heir.worker)
            assert minted.platform_retries == 0
            assert await heir.mint(adopted) is None
            assert await heir.settle(finish(adopted)) is False
            assert (await scene.ledger("a"))[1]["outcome"]["reason"] == "worker-lost"
            assert await heir.settle(finish(minted)) is True

        assert sorted(await scene.ledger("a")) == [1, 2]

    play(place, scenario)


def test_minting_is_fenced(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as paused, scene.worker() as heir:
            await dead.claim(1)
            await scene.lapse(dead)
            (adopted,) = await paused.adopt(10)
            await scene.lapse(paused)
            await heir.adopt(10)
            with pytest.raises(LeaseLost):
                await paused.mint(adopted)
            await scene.redis.zadd(wire.LEASES_KEY, {paused.worker: 1e12})  # even with a lease: not the owner
            assert await paused.mint(adopted) is None

        assert await scene.redis.hget("rq:job:a", wire.FIELD_ATTEMPT) == b"1"

    play(place, scenario)


def test_a_canceled_running_job_is_adopted_too_and_says_that_it_must_stop(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as heir:
            await dead.claim(1)
            await asyncio.to_thread(scene.job("a").cancel)
            await scene.lapse(dead)
            (claim,) = await heir.adopt(10)
            assert claim.stop_requested is not None
            assert await heir.settle(stop(claim))

        assert await scene.status("a") == "canceled"

    play(place, scenario)


def test_the_audit_tells_a_worker_what_it_has_lost(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("adopted", "deleted")
        async with scene.worker(audit_seconds=0) as worker, scene.worker() as heir:
            adopted, deleted = await worker.claim(2)
            await asyncio.to_thread(scene.job("deleted").delete)
            await scene.redis.hset(f"rq:execution:adopted:{adopted.execution_id}", "worker_name", heir.worker)
            await worker.tick()
            commands = {(await next_command(worker)).kind: None for _ in range(2)}

            assert set(commands) == {CommandKind.FENCED, CommandKind.GONE}
            assert worker.held == ()
            assert await worker.settle(finish(deleted)) is False

    play(place, scenario)


WORKER_PROGRAM = """
import asyncio, sys
from adapters.redis_server import connect
from runner_spec.outcome import Fault, Outcome, Verdict
from worker.queue import Finish, JobQueue, LeaseLost, Settlement

async def main():
    async with connect(sys.argv[1]) as connections, JobQueue(
        connections, ["jobs"], sys.argv[2], lease_seconds=1.0
    ) as queue:
        (claim,) = await queue.claim(1)
        print("claimed", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        outcome = Outcome(Verdict.SUCCEEDED, Fault.NONE, "exit", "ok")
        print("settled", await queue.settle(Settlement(claim, outcome, Finish({}))), flush=True)
        try:
            await queue.renew()
        except LeaseLost:
            print("lease lost", flush=True)

asyncio.run(main())
"""


@pytest.mark.redis
def test_a_process_stopped_beyond_its_lease_is_fenced_when_it_wakes_up(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        zombie = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", WORKER_PROGRAM, redis_url, "zombie"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert zombie.stdin is not None
        assert zombie.stdout is not None
        try:
            assert await zombie.stdout.readline() == b"claimed\n"
            os.kill(zombie.pid, signal.SIGSTOP)
            async with scene.worker() as heir:
                claim = await adopt_soon(heir)
                os.kill(zombie.pid, signal.SIGCONT)
                zombie.stdin.write(b"go on\n")
                assert await zombie.stdout.readline() == b"settled False\n"
                assert await zombie.stdout.readline() == b"lease lost\n"
                assert await heir.settle(finish(claim))
        finally:
            if zombie.returncode is None:
                zombie.kill()
            await zombie.wait()

        assert await scene.redis.xlen("rq:results:a") == 1

    play(server, scenario)


async def adopt_soon(queue: JobQueue) -> Claim:
    async with asyncio.timeout(30):
        while True:
            if claims := await queue.adopt(10):
                return claims[0]
            await asyncio.sleep(0.1)  # the lease of a stopped process ends by the server's clock: nothing tells

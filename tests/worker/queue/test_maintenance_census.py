"""Partial states: whatever is lost of what belongs to an execution, its job goes on, and nothing is left for ever."""

import asyncio
from itertools import combinations

import pytest

from tests.worker.queue.scene import Place, Scene, claim_one, finish, play, stop
from worker.queue import Claim, JobQueue
from worker.queue.maintenance import CENSUS_LOCK_KEY

# What belongs to an execution, each in a key of its own.
PARTS = ("job", "execution", "executions of the job", "started registry", "executions of the worker")
SUBSETS = [lost for count in range(len(PARTS) + 1) for lost in combinations(PARTS, count)]
LEFTOVERS = ("rq:execution*", "rq:wip:*", "rq:worker:*:executions", "dynapod:stop:*")


def name_of(lost: tuple[str, ...]) -> str:
    return "+".join(lost) or "nothing"


async def census(queue: JobQueue) -> int:
    """One walk, now."""
    return await queue._maintenance._census.take()


async def lose(scene: Scene, claim: Claim, worker: str, lost: tuple[str, ...]) -> None:
    for part in lost:
        match part:
            case "job":
                await scene.redis.delete(f"rq:job:{claim.job_id}")
            case "execution":
                await scene.redis.delete(f"rq:execution:{claim.member}")
            case "executions of the job":
                await scene.redis.zrem(f"rq:executions:{claim.job_id}", claim.execution_id)
            case "started registry":
                await scene.redis.zrem("rq:wip:jobs", claim.member)
            case "executions of the worker":
                await scene.redis.srem(f"rq:worker:{worker}:executions", claim.member)


async def leftovers(scene: Scene) -> list[bytes]:
    return [key for pattern in LEFTOVERS for key in await scene.redis.keys(pattern)]


async def everything(queue: JobQueue) -> list[Claim]:
    """What a worker comes to hold by adoption and by claims."""
    return [*await queue.adopt(100), *await queue.claim(100)]


@pytest.mark.parametrize("lease", ["lapsed", "forgotten"])
@pytest.mark.parametrize("lost", SUBSETS, ids=name_of)
def test_whatever_is_lost_of_a_dead_workers_execution_its_job_goes_on(
    place: Place, lost: tuple[str, ...], lease: str
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as other:
            claim = await claim_one(dead)
            await lose(scene, claim, dead.worker, lost)
            await (scene.lapse(dead) if lease == "lapsed" else scene.redis.zrem("dynapod:leases", dead.worker))

            await census(other)
            assert await census(other) == 0  # all is settled, or left to adoption
            held = await everything(other)

            if "job" in lost:
                assert held == []
            else:
                assert [(h.job_id, h.attempt, h.adopted) for h in held] == [("a", 1, True)]
                assert await other.settle(finish(held[0]))
                assert await scene.status("a") == "finished"
            assert await leftovers(scene) == []

    play(place, scenario)


@pytest.mark.parametrize("lost", SUBSETS, ids=name_of)
def test_whatever_is_lost_of_a_living_workers_execution_its_job_goes_on(place: Place, lost: tuple[str, ...]) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as alive:
            claim = await claim_one(alive)
            await lose(scene, claim, alive.worker, lost)

            await census(alive)
            assert await census(alive) == 0
            again = await everything(alive)  # its audit among them

            if "job" in lost:
                assert again == []
                if alive.held:
                    assert await alive.settle(stop(claim))
            elif "execution" in lost:  # the fence itself: this attempt can never be recorded
                assert [(held.job_id, held.attempt) for held in again] == [("a", 2)]
                assert not await alive.settle(finish(claim))
                assert await alive.settle(finish(again[0]))
            else:
                assert again == []
                assert await alive.settle(finish(claim))
            assert await scene.status("a") == ("deleted" if "job" in lost else "finished")
            assert await leftovers(scene) == []

    play(place, scenario)


@pytest.mark.parametrize("lost", [s for s in SUBSETS if "job" not in s and len(s) < 4], ids=name_of)
def test_a_canceled_job_of_a_dead_worker_is_adopted_so_that_its_pod_is_ended(
    place: Place, lost: tuple[str, ...]
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as other:
            claim = await claim_one(dead)
            await asyncio.to_thread(scene.job("a").cancel)
            await lose(scene, claim, dead.worker, lost)
            await scene.redis.zrem("dynapod:leases", dead.worker)
            await census(other)
            held = await everything(other)

            if {"execution", "executions of the job", "executions of the worker"} <= set(lost):
                assert held == []  # nothing says that it ever ran
            else:
                assert [(h.job_id, h.attempt, h.stop_requested) for h in held] == [("a", 1, "canceled through rq")]
                assert await other.settle(stop(held[0]))
            assert await scene.status("a") == "canceled"
            assert await leftovers(scene) == []

    play(place, scenario)


def test_a_worker_whose_job_was_rebuilt_cannot_come_back_and_create_its_pod_again(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as paused, scene.worker() as other:
            claim = await claim_one(paused)
            await lose(scene, claim, paused.worker, PARTS[1:])
            await scene.lapse(paused)
            await census(other)

            with pytest.raises(Exception, match="lease is gone"):
                await paused.renew()

    play(place, scenario)


def test_an_attempt_that_a_later_one_has_superseded_is_fenced(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as old, scene.worker() as new:
            first = await claim_one(old)
            await lose(scene, first, old.worker, ("executions of the job",))  # so that the next claim overlooks it
            scene.enqueue("a")
            second = await claim_one(new)
            await census(new)

            assert not await old.settle(finish(first))
            assert await new.settle(finish(second))
            assert await leftovers(scene) == []

    play(place, scenario)


def test_the_jobs_of_other_installations_and_of_rqs_own_workers_are_left_alone(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as theirs, scene.worker("other") as ours:
            claim = await claim_one(theirs)
            await lose(scene, claim, theirs.worker, PARTS[1:])
            await scene.redis.zrem("dynapod:leases", theirs.worker)
            await scene.redis.hset("rq:job:rq", mapping={"status": "started", "origin": "other", "worker_name": "w"})
            await scene.redis.hset("rq:worker:w", "state", "busy")
            await scene.redis.zadd("rq:executions:rq", {"e": 2e9})
            await scene.redis.zadd("rq:wip:other", {"rq:e": 2e9})

            assert await census(ours) == 1  # the rq worker's hash never expires
            assert (await scene.status("a"), await scene.status("rq")) == ("started", "started")
            assert await scene.redis.zcard("rq:executions:rq") == await scene.redis.zcard("rq:wip:other") == 1

            await scene.redis.delete("rq:worker:w", "rq:executions:rq", "rq:wip:other")
            await census(ours)
            assert [held.job_id for held in await everything(ours)] == ["rq"]

    play(place, scenario)


def test_what_a_deleted_job_leaves_behind_ends_with_it(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("gone", "kept")
        await scene.redis.set("dynapod:stop:gone", "somebody")
        await scene.redis.set("dynapod:stop:kept", "somebody")
        for job_id in ("gone", "kept"):
            await scene.redis.hset(f"dynapod:attempts:{job_id}", "1", "{}")
        await scene.redis.hset("rq:worker:dead", "total_working_time", 1)
        async with scene.worker() as queue:
            await asyncio.to_thread(scene.job("gone").delete)
            assert await census(queue) == 3
            assert await census(queue) == 0

            assert await scene.redis.keys("dynapod:stop:*") == [b"dynapod:stop:kept"]
            assert await scene.redis.ttl("dynapod:attempts:gone") > 6 * 86400  # as long as its logs
            assert await scene.redis.ttl("dynapod:attempts:kept") == -1
            assert await scene.redis.ttl("rq:worker:dead") > 0
            assert await scene.redis.ttl(f"rq:worker:{queue.worker}") > 60

    play(place, scenario)


@pytest.mark.redis
def test_many_workers_that_clean_at_once_do_everything_once(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        ids = [f"j{number}" for number in range(60)]
        scene.enqueue(*ids)
        async with scene.worker() as dead:
            claims = await dead.claim(100)
            for number, claim in enumerate(claims):
                lost = SUBSETS[number % 32]
                await lose(scene, claim, dead.worker, tuple(part for part in lost if part != "job"))
            await scene.redis.zrem("dynapod:leases", dead.worker)
            workers = [scene.incarnate() for _ in range(6)]
            for worker in workers:
                await worker.start()
            try:
                for _ in range(3):
                    await asyncio.gather(*(census(worker) for worker in workers))
                    await scene.redis.delete("dynapod:maintenance:jobs", f"{CENSUS_LOCK_KEY}:jobs")
                    await asyncio.gather(*(worker._maintenance.clean(60) for worker in workers))
                held = [claim for worker in workers for claim in await everything(worker)]
                assert sorted((claim.job_id, claim.attempt) for claim in held) == sorted((name, 1) for name in ids)
                owners = {claim.execution_id: worker for worker in workers for claim in worker.held}
                assert all([await owners[claim.execution_id].settle(finish(claim)) for claim in held])
                assert await leftovers(scene) == []
                assert await scene.redis.zcard("rq:failed:jobs") == 0
            finally:
                for worker in workers:
                    await worker.aclose()

    play(server, scenario)


def test_one_worker_of_many_takes_the_census(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.worker() as one, scene.worker() as other:
            await scene.redis.hset("dynapod:attempts:gone", "1", "{}")
            await one.tick()
            assert one._maintenance._walk is not None
            await one._maintenance._walk
            assert await scene.redis.ttl("dynapod:attempts:gone") > 0
            await scene.redis.persist("dynapod:attempts:gone")
            await other.tick()
            assert other._maintenance._walk is None
            assert await scene.redis.ttl("dynapod:attempts:gone") == -1  # within the same ten minutes

    play(place, scenario)

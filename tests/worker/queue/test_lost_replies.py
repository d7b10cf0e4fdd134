"""A reply that never comes: the command was executed, its sender cannot know. Nothing may be lost or done twice."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from adapters.redis_server import connect
from tests.worker.queue.lossy_proxy import LossyProxy
from tests.worker.queue.scene import Place, Scene, claim_one, finish, play, requeue
from worker.queue import JobQueue, QueueUnavailable
from worker.queue.script import load

pytestmark = pytest.mark.redis


def play_behind_proxy(place: Place, scenario: Callable[[Scene, LossyProxy, JobQueue], Awaitable[None]]) -> None:
    async def run(scene: Scene) -> None:
        assert place.url is not None
        async with LossyProxy(place.url) as proxy, connect(proxy.url) as connections:
            for script in ("claim", "adopt", "mint", "commit", "sweep"):
                await scene.redis.script_load(load(script).text)
            async with JobQueue(connections, ["jobs"], uuid4().hex) as queue:
                await scenario(scene, proxy, queue)
        assert proxy.lost == 1

    play(place, run)


def test_jobs_of_a_claim_whose_reply_was_lost_are_found_again(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        scene.enqueue("a", "b")
        proxy.lose_reply_of(load("claim").digest)
        with pytest.raises(QueueUnavailable):
            await queue.claim(10)
        assert queue.held == ()
        claims = await queue.adopt(10)

        assert sorted((claim.job_id, claim.attempt, claim.adopted) for claim in claims) == [
            ("a", 1, True),
            ("b", 1, True),
        ]
        assert await queue.adopt(10) == []
        assert all([await queue.settle(finish(claim)) for claim in claims])

    play_behind_proxy(server, scenario)


def test_a_commit_whose_reply_was_lost_is_known_to_be_recorded(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        scene.enqueue("a")
        claim = await claim_one(queue)
        proxy.lose_reply_of(load("commit").digest)

        assert await queue.settle(finish(claim)) is True
        assert await scene.redis.xlen("rq:results:a") == 1
        assert await scene.redis.xlen("dynapod:events") == 1
        assert await queue.settle(finish(claim)) is True  # and said again by its caller

    play_behind_proxy(server, scenario)


def test_a_requeue_whose_reply_was_lost_puts_the_job_back_once(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        scene.enqueue("a")
        claim = await claim_one(queue)
        proxy.lose_reply_of(load("commit").digest)

        assert await queue.settle(requeue(claim)) is True
        assert await scene.redis.lrange("rq:queue:jobs", 0, -1) == [b"a"]

    play_behind_proxy(server, scenario)


def test_a_transaction_whose_reply_was_lost_is_known_to_be_recorded(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        scene.enqueue("a", result_ttl=0)
        claim = await claim_one(queue)
        proxy.lose_reply_of(b"EXEC\r\n")

        assert await queue.settle(finish(claim)) is True
        assert await scene.redis.xlen("dynapod:events") == 1

    play_behind_proxy(server, scenario)


def test_executions_of_an_adoption_whose_reply_was_lost_are_found_again(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        async with scene.worker() as dead:
            scene.enqueue("a")
            await dead.claim(1)
            await scene.lapse(dead)
            proxy.lose_reply_of(load("adopt").digest)
            with pytest.raises(QueueUnavailable):
                await queue.adopt(10)
            (claim,) = await queue.adopt(10)

        assert (claim.job_id, claim.attempt, claim.adopted) == ("a", 1, True)

    play_behind_proxy(server, scenario)


def test_a_mint_whose_reply_was_lost_is_repeated_without_another_attempt(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        async with scene.worker() as dead:
            scene.enqueue("a")
            await dead.claim(1)
            await scene.lapse(dead)
            (adopted,) = await queue.adopt(10)
            proxy.lose_reply_of(load("mint").digest)
            with pytest.raises(QueueUnavailable):
                await queue.mint(adopted)
            minted = await queue.mint(adopted)

        assert minted is not None
        assert (minted.attempt, minted.platform_retries) == (2, 0)

    play_behind_proxy(server, scenario)


def test_a_server_that_forgot_the_scripts_is_taught_them_again(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as queue:
            first = await claim_one(queue)
            await scene.redis.script_flush()
            second = await claim_one(queue)
            await scene.redis.script_flush()
            assert all(await asyncio.gather(queue.settle(finish(first)), queue.settle(finish(second))))

    play(server, scenario)


def test_maintenance_that_an_outage_has_cut_short_is_done_at_the_next_tick(server: Place) -> None:
    async def scenario(scene: Scene, proxy: LossyProxy, queue: JobQueue) -> None:
        scene.enqueue("a")
        await scene.redis.delete("rq:queue:jobs")
        await scene.redis.hset("rq:job:a", "status", "ready_to_enqueue")
        await scene.redis.zadd("rq:ready:jobs", {"a": 1})
        proxy.lose_reply_of(load("sweep").digest)
        with pytest.raises(QueueUnavailable):
            await queue.tick()
        assert await scene.redis.llen("rq:queue:jobs") == 0
        await queue.tick()

        assert await scene.redis.lrange("rq:queue:jobs", 0, -1) == [b"a"]

    play_behind_proxy(server, scenario)

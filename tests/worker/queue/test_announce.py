"""What workers say of their room with every heartbeat, and what a waiting job's status makes of it."""

from tests.worker.queue.scene import Place, Scene, play
from worker.client import JobClient


def test_the_status_of_a_queued_job_tells_that_the_workers_are_full(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        client = JobClient(scene.redis)
        room: dict[str, str | int] = {"dynapod_capacity": 5, "dynapod_in_flight": 3, "dynapod_no_room": ""}
        queue, other = scene.incarnate(), scene.incarnate("other")
        for worker in (queue, other):
            worker.announce(lambda: room)
        async with queue, other:
            status = await client.status("a")
            assert (status.workers, status.capacity, status.in_flight, status.no_room) == (1, 5, 3, "")
            room |= {"dynapod_in_flight": 5, "dynapod_no_room": "exceeded quota: pods"}
            assert await queue.renew()
            status = await client.status("a")
            assert (status.capacity, status.in_flight, status.no_room) == (5, 5, "exceeded quota: pods")

    play(place, scenario)


def test_a_worker_with_nothing_to_announce_beats_all_the_same(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.renew()
            status = await JobClient(scene.redis).status("a")
            assert (status.workers, status.capacity, status.in_flight) == (1, None, None)

    play(place, scenario)


def test_a_hash_that_had_expired_is_announced_anew(place: Place) -> None:
    async def scenario(scene: Scene) -> None:
        queue = scene.incarnate()
        queue.announce(lambda: {"dynapod_capacity": 5})
        async with queue:
            await scene.redis.delete(f"rq:worker:{queue.worker}")
            assert await queue.renew()
            assert await scene.redis.hget(f"rq:worker:{queue.worker}", "dynapod_capacity") == b"5"

    play(place, scenario)

"""Producers and operators use stock rq, in processes of their own, and notice no difference."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.queue.scene import Place, Scene, claim_one, fail, finish, next_command, play, produce, requeue, stop
from worker.queue import CommandKind, JobQueue

pytestmark = pytest.mark.redis


async def rq_console(*arguments: str) -> str:
    """The `rq` console script, from the environment of this interpreter."""
    script = Path(sys.executable).with_name("rq")
    assert script.exists()
    command = [str(script), *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    return str(done.stdout)


async def make_due(scene: Scene, queue: JobQueue, job_id: str) -> None:
    """The clock's part: a scheduled job becomes due now."""
    assert await scene.redis.zscore("rq:scheduled:jobs", job_id) is not None
    await scene.redis.zadd("rq:scheduled:jobs", {job_id: 1})
    await queue.tick()


def test_enqueue_and_read_the_result(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        job_id = await produce(redis_url, "out = q.enqueue(RUN, SPEC).id")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            assert claim.job_id == job_id
            assert await produce(redis_url, f"out = q.fetch_job({job_id!r}).get_status().value") == "started"
            assert await queue.settle(finish(claim, {"artifacts": ["wheel"]}))

        code = f"j = q.fetch_job({job_id!r}); out = [j.get_status().value, j.return_value(), j.is_finished]"
        assert await produce(redis_url, code) == ["finished", {"artifacts": ["wheel"]}, True]

    play(server, scenario)


def test_enqueue_many(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = "out = [j.id for j in q.enqueue_many([q.prepare_data(RUN, (SPEC,)) for _ in range(25)])]"
        ids = await produce(redis_url, code)
        async with scene.worker() as queue:
            assert [claim.job_id for claim in await queue.claim(100)] == ids

    play(server, scenario)


def test_enqueue_in_and_enqueue_at(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = (
            "q.enqueue_in(timedelta(hours=1), RUN, SPEC, job_id='in')\n"
            "q.enqueue_at(datetime(2020, 1, 1, tzinfo=timezone.utc), RUN, SPEC, job_id='at')"
        )
        await produce(redis_url, code)
        async with scene.worker() as queue:
            await queue.tick()
            assert [claim.job_id for claim in await queue.claim(10)] == ["at"]
            await make_due(scene, queue, "in")
            assert [claim.job_id for claim in await queue.claim(10)] == ["in"]
            assert await scene.redis.zcard("rq:scheduled:jobs") == 0

    play(server, scenario)


def test_retry_with_intervals(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        await produce(redis_url, "q.enqueue(RUN, SPEC, job_id='a', retry=Retry(max=2, interval=[10, 60]))")
        async with scene.worker() as queue:
            seen = []
            for _ in range(2):
                claim = await claim_one(queue)
                seen.append((claim.attempt, claim.retries_left, claim.retry_interval))
                assert await queue.settle(requeue(claim, delay=claim.retry_interval, consumes_retry=True))
                assert await scene.status("a") == "scheduled"
                await make_due(scene, queue, "a")
            claim = await claim_one(queue)
            seen.append((claim.attempt, claim.retries_left, claim.retry_interval))
            assert await queue.settle(fail(claim, "Step 'test' failed."))

        assert seen == [(1, 2, 10.0), (2, 1, 60.0), (3, 0, None)]
        code = "j = q.fetch_job('a'); out = [j.get_status().value, j.latest_result().exc_string]"
        assert await produce(redis_url, code) == ["failed", "Step 'test' failed."]

    play(server, scenario)


def test_repeat(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        await produce(redis_url, "q.enqueue(RUN, SPEC, job_id='a', repeat=Repeat(times=2, interval=[0, 60]))")
        async with scene.worker() as queue:
            assert await queue.settle(finish(await claim_one(queue)))
            assert await queue.settle(finish(await claim_one(queue)))
            await make_due(scene, queue, "a")
            assert await queue.settle(finish(await claim_one(queue)))
            assert await queue.claim(1) == []

        assert await produce(redis_url, "out = len(q.fetch_job('a').results())") == 3

    play(server, scenario)


def test_dependents_run_after_success(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = "a = q.enqueue(RUN, SPEC, job_id='a'); q.enqueue(RUN, SPEC, job_id='b', depends_on=a)"
        await produce(redis_url, code)
        async with scene.worker() as queue:
            (claim,) = await queue.claim(10)
            assert await queue.settle(finish(claim))
            assert [claim.job_id for claim in await queue.claim(10)] == ["b"]

    play(server, scenario)


@pytest.mark.parametrize(("end", "ready"), [(fail, ["tolerant"]), (stop, []), (finish, ["strict", "tolerant"])])
def test_dependents_follow_rqs_rules(server: Place, redis_url: str, end: object, ready: list[str]) -> None:
    async def scenario(scene: Scene) -> None:
        code = (
            "from rq.job import Dependency\n"
            "a = q.enqueue(RUN, SPEC, job_id='a'); q.enqueue(RUN, SPEC, job_id='strict', depends_on=a)\n"
            "q.enqueue(RUN, SPEC, job_id='tolerant', depends_on=Dependency(jobs=[a], allow_failure=True))"
        )
        await produce(redis_url, code)
        async with scene.worker() as queue:
            assert await queue.settle(end(await claim_one(queue)))  # type: ignore[operator]
            assert sorted(claim.job_id for claim in await queue.claim(10)) == ready

    play(server, scenario)


def test_a_dependent_of_two_jobs_waits_for_both(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = (
            "a, b = q.enqueue(RUN, SPEC, job_id='a'), q.enqueue(RUN, SPEC, job_id='b')\n"
            "q.enqueue(RUN, SPEC, job_id='c', depends_on=[a, b])"
        )
        await produce(redis_url, code)
        async with scene.worker() as queue:
            claims = await queue.claim(10)
            assert all(await asyncio.gather(*(queue.settle(finish(claim)) for claim in claims)))
            assert [claim.job_id for claim in await queue.claim(10)] == ["c"]

    play(server, scenario)


def test_unique_is_unique_while_the_job_runs(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        await produce(redis_url, "q.enqueue(RUN, SPEC, job_id='a', unique=True)")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            code = (
                "from rq.exceptions import DuplicateJobError\n"
                "try:\n    q.enqueue(RUN, SPEC, job_id='a', unique=True)\n"
                "except DuplicateJobError:\n    out = 'duplicate'"
            )
            assert await produce(redis_url, code) == "duplicate"
            assert await queue.settle(finish(claim))

    play(server, scenario)


def test_stop_job_reaches_any_execution_not_only_the_first(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b", "c")
        async with scene.worker() as queue:
            claims = {claim.job_id: claim for claim in await queue.claim(3)}
            code = "from rq.command import send_stop_job_command as s; s(r, 'c', serializer='json')"
            await produce(redis_url, code)
            command = await next_command(queue)
            assert (command.kind, command.job_id) == (CommandKind.STOP, "c")
            assert command.execution_id == claims["c"].execution_id
            assert await queue.settle(stop(claims["c"]))

        code = "j = q.fetch_job('c'); out = [j.get_status().value, j.is_stopped, 'c' in q.failed_job_registry]"
        assert await produce(redis_url, code) == ["stopped", True, True]

    play(server, scenario)


def test_stop_job_reaches_the_worker_that_has_adopted_it(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as dead, scene.worker() as heir:
            await dead.claim(1)
            await scene.lapse(dead)
            await heir.adopt(1)
            code = "from rq.command import send_stop_job_command as s; s(r, 'a', serializer='json')"
            await produce(redis_url, code)
            assert (await next_command(heir)).kind is CommandKind.STOP

    play(server, scenario)


def test_stop_execution_shutdown_and_kill_horse(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            code = (
                "from rq.command import *\n"
                f"send_stop_execution_command(r, 'a', {claim.execution_id!r})\n"
                f"send_shutdown_command(r, {queue.worker!r}); send_kill_horse_command(r, {queue.worker!r})\n"
                f"r.publish('rq:pubsub:{queue.worker}', b'\\xff not json')\n"
                f"r.publish('rq:pubsub:{queue.worker}', '[]')"
            )
            await produce(redis_url, code)
            kinds = [(await next_command(queue)).kind for _ in range(3)]

        assert kinds == [CommandKind.STOP, CommandKind.SHUTDOWN, CommandKind.KILL]

    play(server, scenario)


def test_cancel_of_a_running_job_is_a_request_to_stop(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker(audit_seconds=0) as queue:
            claim = await claim_one(queue)
            await produce(redis_url, "q.fetch_job('a').cancel()")
            await queue.tick()
            await queue.tick()  # asked for once, not at every tick
            command = await next_command(queue)
            assert (command.kind, command.job_id) == (CommandKind.STOP, "a")
            assert await queue.settle(stop(claim))

        code = "out = [q.fetch_job('a').get_status().value, len(q.canceled_job_registry), len(q.failed_job_registry)]"
        assert await produce(redis_url, code) == ["canceled", 1, 0]

    play(server, scenario)


def test_a_durable_stop_flag_is_noticed_at_the_tick(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker(audit_seconds=0) as queue:
            await queue.claim(1)
            await scene.redis.set("dynapod:stop:a", "alice")
            await queue.tick()
            command = await next_command(queue)

        assert (command.kind, command.by) == (CommandKind.STOP, "alice")

    play(server, scenario)


def test_rq_info_shows_running_jobs_and_fails_none(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a", "b")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            shown = await rq_console("info", "--url", redis_url)
            assert "1 executing" in shown
            assert "1 workers" in shown
            code = (
                "from rq.registry import clean_registries; from rq.serializers import JSONSerializer\n"
                "clean_registries(q); out = q.started_job_registry.count"
            )
            assert await produce(redis_url, code) == 1
            assert await scene.status("a") == "started"
            assert await queue.settle(finish(claim))

        assert "1 finished" in await rq_console("info", "--url", redis_url)

    play(server, scenario)


def test_rq_requeue_runs_a_failed_job_again(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            assert await queue.settle(fail(await claim_one(queue)))
            await rq_console("requeue", "--url", redis_url, "--queue", "jobs", "--serializer", "json", "a")
            claim = await claim_one(queue)
            assert (claim.job_id, claim.attempt) == ("a", 2)
            assert await queue.settle(finish(claim))

    play(server, scenario)


def test_a_group_counts_its_jobs(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = (
            "from rq.group import Group\n"
            "Group.create(r, 'g').enqueue_many(q, [q.prepare_data(RUN, (SPEC,), job_id=i, result_ttl=t)"
            " for i, t in (('kept', 500), ('gone', 0))])"
        )
        await produce(redis_url, code)
        async with scene.worker() as queue:
            claims = await queue.claim(10)
            assert all(await asyncio.gather(*(queue.settle(finish(claim)) for claim in claims)))

        code = "out = sorted(x.decode() for x in r.smembers('rq:group:g'))"
        assert await produce(redis_url, code) == ["kept"]

    play(server, scenario)


def test_rate_limits_let_the_next_job_through_when_one_ends(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = (
            "from rq.rate_limit import RateLimit\n"
            "for i in 'abc': q.enqueue(RUN, SPEC, job_id=i, rate_limit=RateLimit('k', 1))"
        )
        await produce(redis_url, code)
        async with scene.worker() as queue:
            order = []
            while claims := await queue.claim(10):
                assert len(claims) == 1
                order.append(claims[0].job_id)
                assert await queue.settle(finish(claims[0]))

        assert order == ["a", "b", "c"]

    play(server, scenario)


def test_callbacks_are_not_imported_and_it_is_said(
    server: Place, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        await produce(redis_url, "from rq import Callback; q.enqueue(RUN, SPEC, on_success=Callback('os.getcwd'))")
        async with scene.worker() as queue:
            claim = await claim_one(queue)
            assert claim.foreign_hooks == ("success_callback_name",)
            assert await queue.settle(finish(claim))

    play(server, scenario)
    assert "success_callback_name" in caplog.text


def test_a_producer_that_pickles_is_refused_and_its_neighbours_run(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        code = (
            "p = Queue('jobs', connection=r)\n"
            "p.enqueue('os.system', 'true', job_id='pickled', meta={'k': 1}, retry=Retry(2))\n"
            "q.enqueue(RUN, SPEC, job_id='good')"
        )
        await produce(redis_url, code)
        async with scene.worker() as queue:
            bad, good = await queue.claim(10)
            assert not isinstance(bad.payload, dict)
            assert await queue.settle(fail(bad, bad.payload.message))
            assert await queue.settle(finish(good))

        code = "p = Queue('jobs', connection=r); j = p.fetch_job('pickled'); out = [j.get_status().value, j.meta]"
        assert await produce(redis_url, code) == ["failed", {"k": 1}]

    play(server, scenario)


def test_a_stock_worker_says_why_it_cannot_run_our_jobs(server: Place, redis_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        await rq_console("worker", "--url", redis_url, "--serializer", "json", "--burst", "--path", ".", "jobs")

        result = scene.job("a").latest_result()
        assert result is not None
        assert result.exc_string is not None
        assert "Start `dynapod worker`" in result.exc_string

    play(server, scenario)


def test_commands_are_heard_again_after_the_connection_was_cut(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        scene.enqueue("a")
        async with scene.worker() as queue:
            await queue.claim(1)
            assert await queue.wait(0.05) is False  # its watcher is parked in a blocking peek
            assert await scene.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            message = json.dumps({"command": "stop-job", "job_id": "a"})
            async with asyncio.timeout(20):
                while not await scene.redis.publish(f"rq:pubsub:{queue.worker}", message):  # noqa: ASYNC110 - only Redis knows when the worker is back
                    await asyncio.sleep(0.05)
            assert (await next_command(queue)).kind is CommandKind.STOP

    play(server, scenario)


def test_waiting_goes_on_after_the_connection_was_cut(server: Place) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.worker() as queue:
            assert await queue.wait(0.05) is False
            assert await scene.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 1
            await asyncio.to_thread(scene.rq.connection.connection_pool.disconnect)
            await scene.redis.rpush("rq:queue:jobs", "x")
            assert await queue.wait(20) is True

    play(server, scenario)

"""The least rights of docs/redis-users.acl: enough for the whole life of jobs, and for nothing else."""

import asyncio
import base64
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from rq import Queue, Retry
from rq.suspension import resume, suspend

from adapters.redis_fitness import until_fit
from adapters.redis_server import RedisRefused, connect, translated
from gateway.masks import RedisMasks
from runner_spec import wire
from tests.integration.clusters import Site, site
from tests.integration.worlds import job
from tests.redis_production.servers import RedisProcess, client
from tests.worker.queue.scene import fail, finish
from worker.client import Cancellation, JobClient, NotReplicatedError
from worker.job_status import JobStatus
from worker.queue import JobQueue

ROOT: Final = Path(__file__).parent.parent.parent
RIGHTS: Final = ROOT / "docs" / "redis-users.acl"
PATIENCE_S = 25.0


def users() -> dict[str, list[str]]:
    """Each user's rules, as words."""
    lines = [line.split() for line in RIGHTS.read_text().splitlines() if line.startswith("user ")]
    return {words[1]: words[2:] for words in lines}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "redis", "appendonly yes") as process:
        with client(process.port) as own:
            for name, rules in users().items():
                own.execute_command("ACL", "SETUSER", name, "reset", *rules)
        yield process
        with client(process.port) as own:
            assert own.info("replication")["role"] == "master"


def url(server: RedisProcess, role: str) -> str:
    return f"redis://dynapod-{role}:{role}-password@127.0.0.1:{server.port}/0"


def refused(server: RedisProcess) -> list[dict[str, Any]]:
    """What Redis itself has noted down as denied, but for the name that redis-py gives itself and can do without."""
    with client(server.port) as own:
        return [entry for entry in own.acl_log() if entry["object"] not in {"client", "client|setinfo"}]


def producer_queue(server: RedisProcess) -> tuple[Any, Queue]:
    own: Any = redis.Redis.from_url(url(server, "producer"), protocol=2)
    return own, Queue("jobs", connection=own, serializer="json")


async def ended(jobs: JobClient, job_id: str) -> JobStatus:
    async with asyncio.timeout(PATIENCE_S):
        return await jobs.wait(job_id, interval=0.05)


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_jobs_live_their_whole_life_under_the_least_rights(server: RedisProcess, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(url(server, "worker"), tmp_path) as here, connect(url(server, "producer")) as connections:
            await until_fit(here.connections)
            jobs = JobClient(connections.control, here.store)
            own, queue = producer_queue(server)
            with own:
                await live(here, jobs, queue)

    asyncio.run(scenario())
    assert refused(server) == []


async def live(here: Site, jobs: JobClient, queue: Queue) -> None:
    later = queue.enqueue_in(timedelta(seconds=1), "worker.tasks.run", job("echo scheduled"))
    first = queue.enqueue("worker.tasks.run", job("echo one"), result_ttl=0)
    after = queue.enqueue("worker.tasks.run", job("echo two"), depends_on=first)
    again = queue.enqueue("worker.tasks.run", job("exit 3"), retry=Retry(max=1, interval=1))
    plain = await jobs.submit(job("echo plain"))
    idle = await jobs.submit(job("true"), queue="unserved", unique=True)
    assert await jobs.cancel(idle) is Cancellation.CANCELED
    async with here.worker() as worker:
        for job_id, end in ((later.id, "finished"), (after.id, "finished"), (again.id, "failed"), (plain, "finished")):
            assert (await ended(jobs, job_id)).status == end, job_id
        assert b"plain" in [line.text async for line in jobs.logs(plain, 1, container="run", follow=True)]
        long = await jobs.submit(job("sleep 60"))
        async with asyncio.timeout(PATIENCE_S):
            async for status in jobs.changes(long, interval=0.05):
                if status.stage == "run":
                    break
        assert await worker.queue.adopt(1) == []
        await worker.queue._maintenance.clean(60.0)
    async with here.worker():  # it adopts
        assert await jobs.cancel(long) is Cancellation.STOPPING
        assert (await ended(jobs, long)).status == "stopped"
        suspend(queue.connection)
        held = await jobs.submit(job("echo resumed"))
        assert (await jobs.status(held)).status == "queued"
        resume(queue.connection)
        assert (await ended(jobs, held)).status == "finished"
    assert (await jobs.list()).total >= 5
    with pytest.raises(NotReplicatedError):
        await jobs.submit(job("true"), replicas=1, replicas_timeout=0.1)


@pytest.mark.redis
def test_the_rarer_calls_of_the_queue_need_no_more(server: RedisProcess) -> None:
    async def scenario() -> None:
        own, producer = producer_queue(server)
        with own:
            producer.enqueue("worker.tasks.run", job("true"), job_id="a")
            producer.enqueue("worker.tasks.run", job("true"), job_id="b")
        async with connect(url(server, "worker")) as connections:
            async with JobQueue(connections, ["jobs"], "dead") as dead:
                assert len(await dead.claim(2)) == 2
            async with JobQueue(connections, ["jobs"], "heir") as heir:
                await connections.control.zadd(wire.LEASES_KEY, {"dead": 1})
                claims = {claim.job_id: claim for claim in await heir.adopt(2)}
                minted = await heir.mint(claims["a"])
                assert minted is not None
                heir._refresh_due = 0.0
                await heir.tick()
                assert await heir.settle(finish(minted))
                assert await heir.settle(fail(claims["b"]))
                await heir.release()

    asyncio.run(scenario())
    assert refused(server) == []


@pytest.mark.redis
def test_the_gateway_may_hand_over_secrets_and_the_worker_alone_may_read_them(server: RedisProcess) -> None:
    key = wire.masks_key("a", 1)

    async def scenario() -> None:
        async with connect(url(server, "gateway")) as gateway, connect(url(server, "worker")) as worker:
            await until_fit(gateway)
            await RedisMasks(gateway.control).put("a", 1, [b"secret"])
            assert base64.b64encode(b"secret") in (await worker.control.get(key) or b"")
            for role in ("gateway", "producer"):
                async with connect(url(server, role)) as other:
                    with pytest.raises(RedisRefused, match="permissions"), translated():
                        await other.control.get(key)

    asyncio.run(scenario())


@pytest.mark.redis
@pytest.mark.parametrize("role", ["worker", "gateway", "producer"])
@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "SHUTDOWN", "GET foreign"])
def test_what_is_no_part_of_the_work_is_refused_with_a_remedy(server: RedisProcess, role: str, command: str) -> None:
    async def scenario() -> None:
        async with connect(url(server, role)) as connections:
            execute: Any = connections.control.execute_command  # redis-py leaves it untyped
            with pytest.raises(RedisRefused, match=r"permission.*redis-users\.acl.*ACL LOG"), translated():
                await execute(*command.split())

    asyncio.run(scenario())


def test_every_command_of_the_scripts_is_among_the_workers_rights() -> None:
    sources = [*(ROOT / "worker").rglob("*.lua"), *(ROOT / "worker").rglob("*.py")]
    called = {name.lower() for path in sources for name in re.findall(r"redis\.p?call\('(\w+)'", path.read_text())}

    assert len(called) > 20
    assert called <= {rule.removeprefix("+") for rule in users()["dynapod-worker"]}


def test_the_operators_guide_names_the_file_and_quotes_each_user_as_tested() -> None:
    guide = " ".join((ROOT / "docs" / "operations.md").read_text().replace("\\\n", " ").split())

    assert "redis-users.acl" in guide
    for name, rules in users().items():
        assert f"ACL SETUSER {name} {' '.join(rules)}" in guide

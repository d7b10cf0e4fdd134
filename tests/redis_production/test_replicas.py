"""Submitting with --replicas: a job that returned is on as many servers as were asked for."""

import asyncio
import signal
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from rq import Queue
from rq.exceptions import DuplicateJobError

from adapters.redis_server import connect
from tests.integration.worlds import job
from tests.redis_production.servers import RedisProcess, client, eventually
from worker.cli.main import cli
from worker.client import DuplicateJobIdError, JobClient, NotReplicatedError

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

GUIDE = Path(__file__).parent.parent.parent / "docs" / "operations.md"
JOB = job("true")
Pair = tuple[RedisProcess, RedisProcess]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        primary = stack.enter_context(RedisProcess(tmp_path / "primary"))
        replica = stack.enter_context(RedisProcess(tmp_path / "replica", f"replicaof 127.0.0.1 {primary.port}"))
        eventually(lambda: linked(replica), "the replica has its copy")
        yield primary, replica


def linked(replica: RedisProcess) -> bool:
    with client(replica.port) as own:
        return bool(own.info("replication")["master_link_status"] == "up")


def queued(server: RedisProcess) -> list[bytes]:
    with client(server.port) as own:
        return list(own.lrange("rq:queue:jobs", 0, -1))


def test_on_return_the_replica_has_the_job(pair: Pair) -> None:
    primary, replica = pair

    async def scenario() -> None:
        async with connect(primary.url) as connections:
            await JobClient(connections.control).submit(job("true"), job_id="a", replicas=1)
            assert queued(replica) == [b"a"]

    asyncio.run(scenario())


def test_a_job_that_is_not_safe_yet_is_enqueued_and_may_be_submitted_again(pair: Pair) -> None:
    primary, replica = pair

    async def scenario() -> None:
        async with connect(primary.url) as connections:
            jobs = JobClient(connections.control)
            replica.send(signal.SIGSTOP)
            for _ in range(2):
                with pytest.raises(NotReplicatedError, match="'a' is enqueued, but is not safe yet: 0 of 1 replicas"):
                    await jobs.submit(job("true"), job_id="a", replicas=1, replicas_timeout=0.2)
            assert queued(primary) == [b"a"]
            replica.send(signal.SIGCONT)
            assert await jobs.submit(job("true"), job_id="a", replicas=1) == "a"
            assert queued(replica) == queued(primary) == [b"a"]
            with pytest.raises(DuplicateJobIdError):
                await jobs.submit(job("true"), job_id="a", replicas=1, unique=True)

    asyncio.run(scenario())


def test_submitting_again_leaves_a_job_that_has_ended_as_it_is(pair: Pair) -> None:
    primary, _ = pair

    async def scenario() -> None:
        async with connect(primary.url) as connections:
            jobs = JobClient(connections.control)
            await jobs.submit(job("true"), job_id="a", queue="other", replicas=1)
            await jobs.cancel("a")
            before = await jobs.status("a")
            await jobs.submit(job("false"), job_id="a", replicas=1)
            assert await jobs.status("a") == before
            assert queued(primary) == []

    asyncio.run(scenario())


def test_the_operators_guides_recipe_for_plain_rq_does_what_it_says(pair: Pair) -> None:
    primary, replica = pair
    code = textwrap.dedent(GUIDE.read_text().split("```python\n")[1].split("```")[0])

    with client(primary.port) as connection:
        names = {"connection": connection, "Queue": Queue, "DuplicateJobError": DuplicateJobError, "job": JOB}
        for _ in range(2):
            exec(code, names)
            assert queued(replica) == queued(primary) == [b"build-7"]
        replica.send(signal.SIGSTOP)
        patient = code.replace("4000", "200")
        with pytest.raises(RuntimeError, match="not safe yet"):
            exec(patient, names)
        replica.send(signal.SIGCONT)


@pytest.mark.parametrize(("replicas", "seconds"), [(-1, 1.0), (1, 0.0), (1, 60.0)])
def test_a_wait_that_makes_no_sense_is_refused(pair: Pair, replicas: int, seconds: float) -> None:
    async def scenario() -> None:
        async with connect(pair[0].url) as connections:
            with pytest.raises(ValueError, match=f"replicas {replicas}"):
                await JobClient(connections.control).submit(job("true"), replicas=replicas, replicas_timeout=seconds)

    asyncio.run(scenario())
    assert queued(pair[0]) == []


def test_the_command_line_says_that_the_job_is_enqueued_and_ends_with_status_3(pair: Pair, tmp_path: Path) -> None:
    primary, _ = pair
    (tmp_path / "job.yaml").write_text("image: busybox\nsteps: [{run: 'true'}]\n")
    words = ["submit", str(tmp_path / "job.yaml"), "--redis", primary.url, "--job-id", "a", "--replicas"]

    assert CliRunner().invoke(cli, [*words, "1"]).exit_code == 0
    done = CliRunner().invoke(cli, [*words, "2"])
    assert done.exit_code == 3, done.output
    assert "job 'a' is enqueued, but is not safe yet: 1 of 2 replicas" in done.output
    assert "--job-id a" in done.output

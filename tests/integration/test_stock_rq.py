"""Producers that know only rq, in a process of their own, and a real Redis."""

import asyncio
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.clusters import site
from tests.integration.worlds import call, job

pytestmark = pytest.mark.redis

# Next to the interpreter: rq's own command.
RQ = Path(sys.executable).with_name("rq")


async def output(*words: str) -> str:
    """A command's standard output; it must succeed."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, env=environment)
    text, _ = await process.communicate()
    assert process.returncode == 0
    return text.decode()


def test_rqs_own_producer_sees_what_it_expects(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker():
            seen = json.loads(
                await output(sys.executable, "-m", "tests.integration.producer", redis_url, str(tmp_path))
            )
        assert "exit code 3" in seen.pop("error")
        assert seen == {
            "enqueue": "finished",
            "return_value": "succeeded",
            "enqueue_many": ["finished"] * 5,
            "scheduled": "scheduled",
            "enqueue_in": "finished",
            "waited": True,
            "retry": "failed",
            "tries": 3,
            "deferred": "deferred",
            "depends_on": ["finished", "finished"],
            "in_order": True,
            "unique": "refused",
            "stop": "stopped",
        }

    asyncio.run(test())


def test_rq_info_counts_a_running_job_and_does_not_harm_it(redis_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        go = tmp_path / "go"
        async with site(redis_url, tmp_path) as here, here.worker():
            submitted = await here.client.submit(job(f"while [ ! -e {go} ]; do sleep 0.05; done"))
            async for status in here.client.changes(submitted, interval=0.05):
                if status.stage == "run":
                    break
            text = await output(str(RQ), "info", "--url", redis_url, "--raw")
            assert "queue jobs 0, 1 executing, 0 finished, 0 failed" in text, text
            go.touch()
            assert (await here.client.wait(submitted)).status == "finished"

    asyncio.run(test())


def redis_protocol(*words: bytes) -> bytes:
    """One command as any client writes it (RESP)."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def test_a_job_of_three_plain_commands_runs(redis_url: str, tmp_path: Path) -> None:
    """As redis-cli would send them, by redis-cli itself where it is installed."""
    address = urlsplit(redis_url)
    assert address.hostname
    assert address.port
    now = b"2026-01-01T00:00:00.000000Z"
    fields = {
        b"data": call(job("true")),
        b"status": b"queued",
        b"origin": b"jobs",
        b"created_at": now,
        b"enqueued_at": now,
    }
    commands = [
        [b"HSET", b"rq:job:plain", *(word for pair in fields.items() for word in pair)],
        [b"SADD", b"rq:queues", b"rq:queue:jobs"],
        [b"RPUSH", b"rq:queue:jobs", b"plain"],
    ]

    async def send() -> None:
        client = shutil.which("redis-cli")
        for words in commands:
            if client:
                await output(client, "-h", str(address.hostname), "-p", str(address.port), *map(os.fsdecode, words))
            else:
                with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
                    connection.sendall(redis_protocol(*words))
                    assert connection.recv(64).startswith(b":")

    async def test() -> None:
        async with site(redis_url, tmp_path) as here, here.worker():
            await send()
            assert (await here.client.wait("plain")).status == "finished"

    asyncio.run(test())

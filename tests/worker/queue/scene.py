"""What the queue's tests share: a place (real or embedded Redis), workers in it, and ends of attempts."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from rq import Queue
from rq.job import Job

from adapters.redis_server import Connections, SyncClient, connect, embed
from runner_spec.outcome import Fault, Outcome, Verdict
from worker.queue import Claim, Command, Fail, Finish, JobQueue, Requeue, Settlement, Stop

DESCRIPTION: dict[str, Any] = {"name": "test", "image": "busybox", "steps": [{"run": "true"}]}
PRODUCER_PREAMBLE = """
import json, sys
from datetime import timedelta, datetime, timezone
from redis import Redis
from rq import Queue, Retry, Repeat
from rq.job import Job
r = Redis.from_url(sys.argv[1])
q = Queue("jobs", connection=r, serializer="json")
RUN, SPEC = "worker.tasks.run", {"name": "test"}
out = None
"""


class Place:
    """One Redis. `connect` gives the connections of one more process; embedded, all share one store."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        self._embedded = embed() if url is None else None
        self._opened: list[Connections] = [self._embedded] if self._embedded else []

    def connect(self) -> Connections:
        if self._embedded is not None:
            return self._embedded
        assert self.url is not None
        self._opened.append(connect(self.url))
        return self._opened[-1]

    async def aclose(self) -> None:
        for connections in self._opened:
            await connections.aclose()


class Scene:
    """A place inside a running test: clients to look around with, and workers."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._own = place.connect()
        self.redis: Any = self._own.control
        self.sync: SyncClient = self._own.sync
        self.rq = Queue("jobs", connection=self.sync, serializer="json")

    @asynccontextmanager
    async def worker(self, *queues: str, **options: Any) -> AsyncIterator[JobQueue]:
        async with self.incarnate(*queues, **options) as queue:
            yield queue

    def incarnate(self, *queues: str, **options: Any) -> JobQueue:
        return JobQueue(self.place.connect(), queues or ("jobs",), uuid4().hex, **options)

    def enqueue(self, *ids: str, **options: Any) -> None:
        for job_id in ids:
            self.rq.enqueue("worker.tasks.run", DESCRIPTION, job_id=job_id, **options)

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.sync, serializer="json")

    async def status(self, job_id: str) -> str:
        return ((await self.redis.hget(f"rq:job:{job_id}", "status")) or b"deleted").decode()

    async def ledger(self, job_id: str) -> dict[int, dict[str, Any]]:
        entries = await self.redis.hgetall(f"dynapod:attempts:{job_id}")
        return {int(attempt): json.loads(entry) for attempt, entry in entries.items()}

    async def lapse(self, queue: JobQueue) -> None:
        """Let a lease end, as if its worker had been paused for longer."""
        await self.redis.zadd("dynapod:leases", {queue.worker: 1})


def play(place: Place, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    """Run a scenario and close everything that was opened."""

    async def run() -> None:
        try:
            await scenario(Scene(place))
        finally:
            await place.aclose()

    asyncio.run(run())


def finish(claim: Claim, result: Mapping[str, Any] | None = None) -> Settlement:
    outcome = Outcome(Verdict.SUCCEEDED, Fault.NONE, "exit", "All steps succeeded.", 0)
    return Settlement(claim, outcome, Finish(result or {"verdict": "succeeded"}), {"pod": "pod-1"})


def fail(claim: Claim, message: str = "Step 'test' failed with exit code 3.") -> Settlement:
    outcome = Outcome(Verdict.FAILED, Fault.JOB, "exit", message, 3)
    return Settlement(claim, outcome, Fail(message, {"verdict": "failed"}))


def stop(claim: Claim) -> Settlement:
    outcome = Outcome(Verdict.CANCELED, Fault.USER, "stopped", "Stopped by request.")
    return Settlement(claim, outcome, Stop("Stopped by request.", {"verdict": "canceled"}))


def requeue(claim: Claim, **options: Any) -> Settlement:
    outcome = Outcome(Verdict.FAILED, Fault.PLATFORM, "evicted", "The node was drained.")
    return Settlement(claim, outcome, Requeue(reason="The node was drained.", **options))


async def claim_one(queue: JobQueue) -> Claim:
    (claim,) = await queue.claim(1)
    return claim


async def next_command(queue: JobQueue) -> Command:
    async with asyncio.timeout(10):
        return await anext(queue.commands())


async def produce(url: str, code: str) -> Any:
    """Run a producer that uses stock rq in a process of its own; returns what it assigns to `out`."""
    return await asyncio.to_thread(_produce, url, code)


def _produce(url: str, code: str) -> Any:
    program = f"{PRODUCER_PREAMBLE}\n{code}\nprint(json.dumps(out))"
    command = [sys.executable, "-c", program, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


async def raw_commands(redis_url: str, *commands: list[bytes | str]) -> None:
    """Send commands in Redis' own protocol over a socket, as a producer without any library would."""
    host, _, port = redis_url.removeprefix("redis://").removesuffix("/0").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for command in commands:
        words = [word.encode() if isinstance(word, str) else word for word in command]
        writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        reply = await reader.readline()
        assert reply.startswith(b":"), reply
    writer.close()
    await writer.wait_closed()


async def redis_cli(redis_url: str, *commands: list[bytes | str]) -> None:
    """Send commands with redis-cli."""
    for command in commands:
        await asyncio.to_thread(subprocess.run, ["redis-cli", "-u", redis_url, *command], check=True)


Sender = Callable[..., Awaitable[None]]

"""The whole of dynapod in one process, for tests: queue, worker, API, pods as processes, gateway, object store."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runner_spec import storage
from worker.cli.embedded import Embedded, embedded
from worker.client import JobClient
from worker.job_status import JobStatus

PATIENCE_S = 60.0

Description = dict[str, Any]


class World:
    """An embedded world with what tests ask of it."""

    def __init__(self, parts: Embedded, folder: Path) -> None:
        self.parts = parts
        self.folder = folder
        self.client = JobClient(parts.redis, parts.store)

    async def run(self, description: Description, job_id: str | None = None) -> JobStatus:
        job = await self.client.submit(description, job_id=job_id)
        return await self.end(job)

    async def end(self, job: str) -> JobStatus:
        async with asyncio.timeout(PATIENCE_S):
            return await self.client.wait(job, interval=0.05)

    async def log(self, job: str, container: str | None = None, attempt: int = 1) -> list[bytes]:
        return [line.text async for line in self.client.logs(job, attempt, container=container)]

    async def artifact_names(self, job: str) -> list[str]:
        found = [meta.path async for meta in self.parts.store.list(storage.artifacts_prefix(job, 1))]
        return sorted(path.split("/artifacts/")[1] for path in found)

    async def enqueue_raw(self, job_id: str | bytes, data: bytes) -> None:
        """What a producer in any language does: three commands."""
        key = b"rq:job:" + (job_id if isinstance(job_id, bytes) else job_id.encode())
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        fields = {"data": data, "status": "queued", "origin": "jobs", "created_at": now, "enqueued_at": now}
        await self.parts.redis.hset(key, mapping=fields)  # type: ignore[arg-type]
        await self.parts.redis.sadd("rq:queues", "rq:queue:jobs")
        await self.parts.redis.rpush("rq:queue:jobs", job_id)


@asynccontextmanager
async def world(
    folder: Path, *, secrets: Mapping[str, Mapping[str, str]] | None = None, **policy: object
) -> AsyncIterator[World]:
    quick: dict[str, object] = {"grace": 1, "platform_retries": 0, **policy}
    async with embedded(folder / "state", secrets=secrets, policy=quick) as parts:
        yield World(parts, folder)


def job(*scripts: str, **more: Any) -> Description:
    """A description whose steps are the scripts."""
    steps = [{"name": f"step {number}", "run": script} for number, script in enumerate(scripts, 1)]
    return {"name": "test", "image": "local", "steps": steps, **more}


def call(description: Description) -> bytes:
    """rq's `data` field for a description."""
    return json.dumps(["worker.tasks.run", None, [description], {}]).encode()


def git_repository(folder: Path, files: Mapping[str, str]) -> Path:
    """A repository with one commit, tagged v1."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "one"],
        ["tag", "v1"],
    ):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder

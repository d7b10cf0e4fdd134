"""What scenarios wait for: states of Redis and of the cluster."""

from runner_spec import wire
from tests.kill_points.stage import Stage


async def says(stage: Stage, job: str, words: bytes) -> bool:
    return words in (await stage.redis.hget(wire.state_key(job), "why") or b"")


async def logged(stage: Stage, job: str) -> bool:
    return bool(await stage.redis.exists(f"dynapod:log:{job}:1:run"))


async def claimed(stage: Stage, job: str) -> bool:
    return await stage.status(job) == "started"


async def finished(stage: Stage, job: str) -> bool:
    return await stage.status(job) == "finished"


async def failed(stage: Stage, job: str) -> bool:
    return await stage.status(job) == "failed"


async def taken(stage: Stage, job: str, owner: bytes) -> bool:
    return bool(await stage.redis.hget(f"rq:job:{job}", "worker_name") != owner)


def runs_again(stage: Stage, job: str) -> bool:
    return any(container.ran.attempt == 2 for container in stage.world.runtime.of(job))


def service_starts(stage: Stage, job: str) -> int:
    return sum((ran.job, ran.container) == (job, "db") for ran in stage.world.runtime.ledger)

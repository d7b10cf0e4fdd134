"""Whether the world is clean after a run, by Redis, the API's own log and the containers' ledger: no worker's word."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from runner_spec import anatomy, storage, wire
from runner_spec.names import pod_name
from tests.kill_points.containers import Script
from tests.kill_points.world import World
from worker.log_store import LogReader

_ENDS: Final = {"finished": "succeeded", "stopped": "canceled"}
_LEFT: Final = ("rq:execution*", "rq:worker:*:executions")


async def left_keys(redis: Any) -> list[str]:
    """What must not stay in Redis."""
    keys = [key.decode() for pattern in _LEFT for key in [found async for found in redis.scan_iter(pattern)]]
    for queue in ("jobs",):
        keys += [f"{member.decode()} in rq:wip:{queue}" for member in await redis.zrange(f"rq:wip:{queue}", 0, -1)]
        keys += [f"{member.decode()} in rq:queue:{queue}" for member in await redis.lrange(f"rq:queue:{queue}", 0, -1)]
    return keys


async def problems(here: World, scripts: Mapping[str, Script]) -> list[str]:
    """Everything that is not as it should be, one line each."""
    found = [f"left in Redis: {key}" for key in await left_keys(here.redis)]
    if here.cluster.pods:
        found.append(f"{here.cluster.pods} pods are left")
    created = Counter(e.name for e in here.cluster.audit if (e.verb, e.resource, e.code) == ("create", "pods", 201))
    ends = Counter(
        fields[b"job"].decode()
        for _, fields in await here.redis.xrange(wire.EVENTS_KEY)
        if fields[b"status"] in {b"finished", b"stopped", b"failed"}
    )
    for job, script in scripts.items():
        found += [f"{job}: {problem}" for problem in await _problems_of(here, job, script, created, ends[job])]
    return found


async def _problems_of(here: World, job: str, script: Script, created: Counter[str], ends: int) -> list[str]:
    if script.deleted:
        return []  # nothing is left to say of it, but that no pod is
    status = (await here.redis.hget(f"rq:job:{job}", "status") or b"no status").decode()
    newest = int(await here.redis.hget(f"rq:job:{job}", wire.FIELD_ATTEMPT) or 0)
    entries = await here.redis.hgetall(wire.attempts_key(job))
    ledger = {int(number): json.loads(entry) for number, entry in entries.items()}
    found = [
        f"the pod of attempt {number} was created {count} times"
        for number in range(1, newest + 2)
        if (count := created[pod_name(job, number)]) > (number <= newest)
    ]
    if status == "canceled" and script.canceled:
        return found + ([f"canceled before it was claimed, and has {len(ledger)} attempts"] if ledger else [])
    if status not in {"finished", "failed", "stopped"} or newest not in ledger:
        return [*found, f"status {status!r}, attempt {newest}, of which the ledger has {sorted(ledger)}"]
    if ends != 1:
        found.append(f"{ends} events of its end")
    outcome = ledger[newest]["outcome"]
    if _ENDS.get(status, outcome["verdict"]) != outcome["verdict"]:
        found.append(f"status {status}, but the ledger says {outcome['verdict']}")
    found += _disagreements(here, job, newest, outcome)
    for number, entry in ledger.items():
        # Of an attempt that was given up without a pod, nobody has followed the pod that came up all the same.
        unseen = entry.get("action") == "mint"
        succeeded = entry["outcome"]["verdict"] == "succeeded"
        may_have_gaps = unseen or script.may_have_gaps or script.canceled
        found += await _log_problems(here, job, number, script, may_have_gaps=may_have_gaps, succeeded=succeeded)
    return found


def _disagreements(here: World, job: str, attempt: int, outcome: Mapping[str, Any]) -> list[str]:
    """Whether the recorded end is what its pod did."""
    found = []
    script, verdict = here.runtime.scripts[job], outcome["verdict"]
    codes = [r.exit_code for r in here.runtime.ledger if (r.job, r.attempt, r.container) == (job, attempt, "run")]
    if len(codes) > 1:
        found.append(f"run of attempt {attempt} was started {len(codes)} times")
    if verdict == "succeeded" and codes != [0]:
        found.append(f"FALSE GREEN: run ended with {codes}")
    manifest = here.folder / "store" / storage.manifest_path(job, attempt)
    if verdict == "succeeded" and "artifacts" in job and not manifest.exists():
        found.append("FALSE GREEN: succeeded without its artifacts")
    if verdict == "canceled" and not script.canceled:
        found.append("canceled, and nobody asked for it")
    if verdict == "failed" and codes == [0] and outcome["reason"] not in script.excuses:
        found.append(f"failed ({outcome['reason']}: {outcome['message']}), but run ended with 0")
    return found


async def _log_problems(
    here: World, job: str, attempt: int, script: Script, *, may_have_gaps: bool, succeeded: bool
) -> list[str]:
    """Each container's stored log is what the container printed, or says what is missing; that of `run` always."""
    printed: dict[str, list[str]] = {}
    for ran in here.runtime.ledger:
        if (ran.job, ran.attempt) == (job, attempt):
            printed.setdefault(ran.container, []).extend(ran.lines)
    reader, found = LogReader(here.redis, here.store), []
    states = await reader.entries(job, attempt)
    for container, lines in printed.items():
        for mask in script.masks:
            lines = [line.replace(mask, "[masked]") for line in lines]  # noqa: PLW2901 - masked
        stored, gaps = list[str](), list[str]()
        async for chunk in reader.read(job, attempt, container=container):
            (gaps if chunk.notice else stored).append(chunk.text.decode())
        if container in states and not states[container].complete:
            found.append(f"log of {container}, attempt {attempt}, is not complete")
        if container not in states and container != anatomy.RUN and may_have_gaps and not succeeded:
            continue  # its pod was deleted before any worker had seen the container start
        if stored != lines and not (gaps and _is_part(stored, lines)):
            found.append(f"log of {container}, attempt {attempt}: {stored!r:.300} of {lines!r:.300}, gaps {gaps}")
        if gaps and not may_have_gaps:
            found.append(f"log of {container}, attempt {attempt}: gap declared without need: {gaps}")
    return found


def _is_part(stored: list[str], lines: list[str]) -> bool:
    """Whether all that is stored was printed, in this order."""
    rest = iter(lines)
    return all(line in rest for line in stored)

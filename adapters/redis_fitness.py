"""Whether a Redis can hold jobs: asked once, when a worker or a gateway starts.

What is wrong for good is refused with its remedy; what may pass (no answer, a failover under way) is waited for; what
merely costs something is said.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.redis_connections import AsyncClient, Connections
from adapters.redis_errors import RedisError, RedisRefused, RedisUnavailable, translated

log = logging.getLogger(__name__)

# BLMOVE, by which a worker waits for jobs, came with it; so did the rules of ACLs for channels.
OLDEST_VERSION: Final = (6, 2)


class UnfitRedis(RedisError):  # noqa: N818 - a state, as its siblings
    """This server cannot be used as it is configured; the message says what was found, and the remedy."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What was found: `refusals` for good, `wait` what may pass (empty: nothing), `warnings` what it costs."""

    refusals: tuple[str, ...]
    wait: str
    warnings: tuple[str, ...]


def judge(info: Mapping[str, Any]) -> Fitness:
    """Judge by a server's INFO, as redis-py parses it; what a hosted server leaves out is not held against it."""
    memory, memory_hidden = _memory(info)
    refusals = (_version(info), _mode(info), memory)
    return Fitness(tuple(filter(None, refusals)), _wait(info), tuple(filter(None, (memory_hidden, _log(info)))))


async def until_fit(connections: Connections) -> None:
    """Return once the server is there and can be used; waits for it as long as it takes.

    Raises:
        UnfitRedis: it is there, and cannot be used.
    """
    while True:
        try:
            warnings = await _warnings(connections.control)
        except RedisUnavailable as error:
            await connections.outage.pause(error)
        except RedisRefused as error:
            raise UnfitRedis(f"{error} (Are the URL's user and password right?)") from error
        else:
            break
    connections.outage.over()
    for warning in warnings:
        log.warning("%s", warning, extra={"action": "redis_warning"})


async def _warnings(client: AsyncClient) -> tuple[str, ...]:
    """One try."""
    found = judge(await _info(client))
    if found.refusals:
        raise UnfitRedis("\n".join(found.refusals))
    if found.wait:
        raise RedisUnavailable(found.wait)
    return found.warnings


async def _info(client: AsyncClient) -> Mapping[str, Any]:
    """INFO's reply; empty where the server does not tell us."""
    with translated():
        await client.ping()  # what fails here is not INFO's fault
    try:
        with translated():
            reply: Mapping[str, Any] = await client.info()
    except RedisRefused as error:
        log.warning("the server cannot be checked: %s", error, extra={"action": "redis_warning"})
        return {}
    return reply


def _version(info: Mapping[str, Any]) -> str:
    text = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
    if not numbers or numbers >= OLDEST_VERSION:
        return ""
    oldest = ".".join(map(str, OLDEST_VERSION))
    return f"redis_version is {text!r}: dynapod needs {oldest} or newer (it waits with BLMOVE). Upgrade the server."


def _mode(info: Mapping[str, Any]) -> str:
    if info.get("redis_mode") != "cluster" and not info.get("cluster_enabled"):
        return ""
    return (
        "redis_mode is 'cluster': a job's keys would lie on several servers, and no script could change them together. "
        "Use one primary, with sentinels for failover (redis+sentinel://…)."
    )


def _memory(info: Mapping[str, Any]) -> tuple[str, str]:
    """The refusal and the warning."""
    limit, policy = info.get("maxmemory"), info.get("maxmemory_policy")
    if policy == "noeviction" or (limit == 0 and policy is not None):
        return "", ""
    if limit is None or policy is None:
        return "", "The server does not say its maxmemory-policy: make sure that it is 'noeviction', or it drops jobs."
    return (
        f"maxmemory is {limit} bytes and maxmemory_policy is {policy!r}: a full server would drop jobs in silence. "
        "Set `maxmemory-policy noeviction`."
    ), ""


def _wait(info: Mapping[str, Any]) -> str:
    if info.get("loading"):
        return "the server is loading its data"
    if info.get("role", "master") == "master":
        return ""
    primary = f"{info.get('master_host', 'unknown')}:{info.get('master_port', 'unknown')}"
    return (
        f"the server is a replica (of {primary}); waiting for it to become the primary. If it never does, name the "
        "primary in the URL, or the sentinels (redis+sentinel://…)"
    )


def _log(info: Mapping[str, Any]) -> str:
    if info.get("aof_enabled", 1):
        return ""
    return (
        "The server writes no append-only file (aof_enabled is 0): when it ends without warning, the jobs enqueued and "
        "the ends recorded since its last snapshot are lost. Set `appendonly yes`."
    )

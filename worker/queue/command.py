"""Commands: what others ask of this worker, however they asked (rq's channel, a durable flag, a change in Redis)."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CommandKind(StrEnum):
    """What is asked for.

    `STOP`: end this execution's pod, then settle it with `Stop` (or by what the pod proved meanwhile).
    `GONE`: the execution is no longer in Redis, since its job was deleted or superseded by a newer attempt: end the
    pod, there is nothing to settle. `FENCED`: another incarnation has adopted it: let go, do not touch the pod.
    `SHUTDOWN`: release and leave. `KILL`: rq's kill-horse, which names no job.
    """

    STOP = "stop"
    GONE = "gone"
    FENCED = "fenced"
    SHUTDOWN = "shutdown"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Command:
    """One request; the ids are None for `SHUTDOWN` and `KILL`. `by` says who or what asked, for people."""

    kind: CommandKind
    by: str
    job_id: str | None = None
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message on rq's channel; `name` is rq's word. `by` is who asked: our own clients say so, rq's do not."""

    name: str
    job_id: str | None
    execution_id: str | None
    by: str = ""


def parse_message(data: object) -> Message | None:
    """Read a message of rq's channel; None for anything else, since whoever reaches Redis may publish."""
    try:
        payload: Any = json.loads(data) if isinstance(data, bytes | str) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict) or not isinstance(payload.get("command"), str):
        return None
    job_id, execution_id, by = payload.get("job_id"), payload.get("execution_id"), payload.get("by")
    return Message(
        payload["command"],
        job_id if isinstance(job_id, str) else None,
        execution_id if isinstance(execution_id, str) else None,
        by if isinstance(by, str) else "",
    )

"""How an attempt is put on record: a value, made by the supervisor and written by `JobQueue.settle`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runner_spec.outcome import Outcome
from worker.queue.claim import Claim, Wait


@dataclass(frozen=True, slots=True)
class Finish:
    """The job succeeded; `result` (JSON) is what `job.return_value()` gives to its producer."""

    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fail:
    """The job failed for good; `message` is what rq's dashboards show as its error.

    rq's `Retry` is not consulted: who wants a retry settles with `Requeue`.
    """

    message: str
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """The job was ended on request; never retried."""

    message: str
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Requeue:
    """This attempt is over, the job is not: back to its queue, after `delay` seconds if any.

    `consumes_retry`: the job's own fault: uses up one of rq's `retries_left`, if it has any, and counts as one of
    `Claim.job_retries`. `platform_fault` counts it as one of `Claim.platform_retries`. Neither: it only waits (quota,
    full cluster, shutdown before the pod was created). `reason` is one line for people.
    """

    delay: float = 0.0
    reason: str = ""
    consumes_retry: bool = False
    platform_fault: bool = False
    at_front: bool = False


Action = Finish | Fail | Stop | Requeue


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one attempt: its outcome, what becomes of the job, and more entries for the ledger (JSON: `pod`, …).

    `ended_at` is in Unix seconds, None for now. `logs` are the containers whose logs must be complete in Redis at that
    very moment: stored before, they may have been forgotten since, in a failover.
    """

    claim: Claim
    outcome: Outcome
    action: Action
    ledger: Mapping[str, Any] = field(default_factory=dict)
    ended_at: float | None = None
    logs: Sequence[str] = ()

    @property
    def wait(self) -> Wait | None:
        """The waits in a row of which this is the newest; None when it is the end of an attempt that was none."""
        action, claim = self.action, self.claim
        if not isinstance(action, Requeue) or action.consumes_retry or action.platform_fault:
            return None
        if claim.wait is None or claim.wait.reason != self.outcome.reason:
            return Wait(claim.attempt, self.outcome.reason, 1, claim.started_at)
        return replace(claim.wait, attempt=claim.attempt, count=claim.wait.count + 1)


def ledger_head(execution_id: str, worker: str) -> str:
    """How a ledger entry begins when this worker has settled this execution; commit.lua compares it byte by byte."""
    return '{"execution":' + json.dumps(execution_id) + ',"worker":' + json.dumps(worker) + ',"action":'


def ledger_entry(settlement: Settlement, worker: str, ended_at: float) -> str:
    """The ledger's JSON: outcome, times, result, worker and whatever the settlement adds."""
    claim = settlement.claim
    return ledger_head(claim.execution_id, worker) + _tail(
        type(settlement.action).__name__.lower(), settlement, ended_at, settlement.wait
    )


def superseded_entry(settlement: Settlement, worker: str, ended_at: float) -> str:
    """The entry of an attempt that its own execution has left behind (`mint`): nobody has settled it."""
    return '{"superseded_by":' + json.dumps(worker) + ',"action":' + _tail("mint", settlement, ended_at, None)


def _tail(action: str, settlement: Settlement, ended_at: float, wait: Wait | None) -> str:
    result = getattr(settlement.action, "result", None)
    entry = {
        **{name: value for name, value in settlement.ledger.items() if name not in {"execution", "worker", "action"}},
        "outcome": settlement.outcome.as_dict(),
        "started_at": settlement.claim.started_at,
        "ended_at": ended_at,
        "minted_by": settlement.claim.minted_by,
        **({"result": dict(result)} if result else {}),
        **({"wait": asdict(wait)} if wait else {}),
    }
    return json.dumps(action) + "," + json.dumps(entry, default=dict)[1:]


def event_fields(settlement: Settlement, worker: str, status: str, ended_at: float) -> dict[str, str | int | float]:
    """One entry of the events stream; `status` is rq's word for the job from now on."""
    claim, outcome = settlement.claim, settlement.outcome
    return {
        "job": claim.job_id,
        "attempt": claim.attempt,
        "queue": claim.queue,
        "status": status,
        "verdict": outcome.verdict.value,
        "fault": outcome.fault.value,
        "reason": outcome.reason,
        "message": outcome.message[:1000],
        "worker": worker,
        "ended_at": ended_at,
    }

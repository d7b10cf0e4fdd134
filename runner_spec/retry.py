"""Whether an attempt that failed is followed by another one, when, and out of whose budget. Pure, without chance.

There are three budgets. The platform's faults are the operator's to pay: `policy.platform_retries`. The job's own
faults are paid by the description (`retry.attempts`, all runs counted) and by the producer (rq's `Retry`): either
suffices. When the platform's budget is used up, the producer's is used.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from runner_spec.outcome import POISON, Fault, Outcome, Verdict
from runner_spec.policy import Policy

JITTER: Final = 0.2  # of a delay at most is added, so that a thousand evicted jobs do not come back at once
# Seconds until a job for which the namespace had no room asks again: doubled each time, up to the longest. More would
# leave room unused, less would ask for nothing.
QUOTA_FIRST_S: Final = 2
QUOTA_LONGEST_S: Final = 60
Budget = Literal["rq", "job", "platform"]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay` seconds; `consumes` is the budget that pays. `why` is one line for people."""

    delay: float
    consumes: Budget
    why: str


@dataclass(frozen=True, slots=True)
class Stand:
    """The outcome stands. `why` is one line for people."""

    why: str


Decision = Retry | Stand


def decide(
    outcome: Outcome,
    *,
    job_id: str,
    attempt: int,
    platform_retries: int,
    job_retries: int,
    allowed: int,
    policy: Policy,
    rq_retries_left: int | None = None,
    rq_interval: float | None = None,
) -> Decision:
    """What follows an outcome.

    Args:
        outcome: how the attempt ended.
        job_id: only spreads the delays.
        attempt: the attempt's number; only spreads the delays.
        platform_retries: how often the job was tried again so far because of the platform's faults.
        job_retries: how often because of its own.
        allowed: `retry.attempts` of the description: runs in all that its own faults may cost.
        policy: budget and delays.
        rq_retries_left: what is left of the producer's `Retry`, None without one.
        rq_interval: seconds that it wants to wait, None when it does not say.
    """
    if outcome.verdict is not Verdict.FAILED:
        return Stand(f"{outcome.verdict} is final")
    if outcome.reason == POISON:
        return Stand("it has cost enough workers")
    if outcome.fault is Fault.PLATFORM and platform_retries < policy.platform_retries:
        delay = _spread(_step(policy.platform_backoff, platform_retries), job_id, attempt)
        why = f"the platform's fault: retry {platform_retries + 1} of {policy.platform_retries}"
        return Retry(delay, "platform", why)
    if rq_retries_left:
        why = f"the producer's Retry: {rq_retries_left} left"
        delay = _spread(_step(policy.job_backoff, job_retries), job_id, attempt) if rq_interval is None else rq_interval
        return Retry(max(0.0, delay), "rq", why)
    if outcome.fault is Fault.JOB and job_retries + 1 < allowed:
        delay = _spread(_step(policy.job_backoff, job_retries), job_id, attempt)
        return Retry(delay, "job", f"retry.attempts: run {job_retries + 2} of {allowed}")
    return Stand("no retries are left" if job_retries or platform_retries else "no retries were asked for")


def quota_delay(job_id: str, attempt: int, waits: int) -> float:
    """Seconds until a job asks for room again that was given back `waits` times before for want of it."""
    doubled = QUOTA_FIRST_S * 2 ** min(waits, 16)  # 2 ** 16 is beyond the longest, and stays a small number
    return _spread(min(doubled, QUOTA_LONGEST_S), job_id, attempt)


def _step(backoff: Sequence[int], retries: int) -> int:
    return backoff[min(retries, len(backoff) - 1)]


def _spread(seconds: int, job_id: str, attempt: int) -> float:
    """The delay and up to a fifth more, the same for the same attempt whoever computes it."""
    digest = hashlib.sha256(f"{attempt}:{job_id}".encode("utf-8", "surrogatepass")).digest()
    return round(seconds * (1 + JITTER * int.from_bytes(digest[:4], "big") / 2**32), 3)

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.policy import parse_policy
from runner_spec.retry import JITTER, Decision, Retry, Stand, decide, quota_delay

POLICY = parse_policy({"platform_retries": 2, "platform_backoff": [10, 60], "job_backoff": [1, 5]})
FAILED = Outcome(Verdict.FAILED, Fault.JOB, "exit", "exit code 3", 3)
EVICTED = Outcome(Verdict.FAILED, Fault.PLATFORM, "evicted", "low on memory")


def decided(outcome: Outcome, **facts: Any) -> Decision:
    given_facts: dict[str, Any] = {"job_id": "a", "attempt": 1, "platform_retries": 0, "job_retries": 0, "allowed": 1}
    return decide(outcome, policy=POLICY, **given_facts | facts)


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.CANCELED, Verdict.REJECTED])
def test_what_did_not_fail_is_never_tried_again(verdict: Verdict) -> None:
    outcome = Outcome(verdict, Fault.PLATFORM, "x", "x")
    assert isinstance(decided(outcome, allowed=9, rq_retries_left=9), Stand)


def test_the_jobs_own_fault_is_final_by_default() -> None:
    assert decided(FAILED) == Stand("no retries were asked for")


def test_the_description_allows_so_many_runs_in_all() -> None:
    first = decided(FAILED, allowed=3)
    assert isinstance(first, Retry)
    assert (first.consumes, first.why) == ("job", "retry.attempts: run 2 of 3")
    assert isinstance(decided(FAILED, allowed=3, job_retries=1), Retry)
    assert decided(FAILED, allowed=3, job_retries=2) == Stand("no retries are left")


def test_the_producers_retry_is_used_first_and_keeps_its_interval() -> None:
    assert decided(FAILED, rq_retries_left=1, rq_interval=7.0) == Retry(7.0, "rq", "the producer's Retry: 1 left")
    assert decided(FAILED, rq_retries_left=1, rq_interval=0.0) == Retry(0.0, "rq", "the producer's Retry: 1 left")
    assert isinstance(decided(FAILED, rq_retries_left=0), Stand)


def test_the_platforms_fault_is_the_operators_to_pay() -> None:
    first = decided(EVICTED)
    second = decided(EVICTED, platform_retries=1)
    assert isinstance(first, Retry)
    assert isinstance(second, Retry)
    assert first.consumes == second.consumes == "platform"
    assert 10 <= first.delay <= 10 * (1 + JITTER)
    assert 60 <= second.delay <= 60 * (1 + JITTER)
    assert decided(EVICTED, platform_retries=2) == Stand("no retries are left")


def test_the_platforms_fault_never_costs_the_jobs_attempts() -> None:
    assert decided(EVICTED, platform_retries=2, allowed=9) == Stand("no retries are left")
    third = decided(EVICTED, platform_retries=2, rq_retries_left=3, rq_interval=1.0)
    assert isinstance(third, Retry)
    assert third.consumes == "rq"


@given(st.text(st.characters()), st.integers(1, 99), st.integers(0, 1))
def test_delays_are_spread_the_same_way_every_time(job_id: str, attempt: int, retries: int) -> None:
    facts = {"job_id": job_id, "attempt": attempt, "platform_retries": retries}
    decision = decided(EVICTED, **facts)
    assert decision == decided(EVICTED, **facts)
    assert isinstance(decision, Retry)
    base = (10, 60)[retries]
    assert base <= decision.delay <= base * (1 + JITTER)


def test_a_thousand_jobs_do_not_come_back_at_once() -> None:
    delays = [decided(EVICTED, job_id=f"job-{n}") for n in range(1000)]
    assert len({decision.delay for decision in delays if isinstance(decision, Retry)}) > 500


def test_a_job_without_room_asks_again_at_growing_intervals_up_to_a_minute() -> None:
    delays = [quota_delay("j", 1, waits) for waits in range(40)]
    assert delays == sorted(delays)
    assert 2 <= delays[0] <= 2.4
    assert 60 <= delays[-1] <= 72


def test_jobs_without_room_do_not_all_ask_at_once() -> None:
    assert len({quota_delay(f"j{number}", 1, 9) for number in range(50)}) > 40

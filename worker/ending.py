"""From an attempt's end to its record: decide on a retry, commit, delete the pod."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from adapters.kubernetes_api import ApiError, KubernetesApi
from adapters.object_store import StoreError
from adapters.redis_server import RedisError
from runner_spec.outcome import NO_ROOM, Fault, Outcome, Verdict
from runner_spec.policy import Policy
from runner_spec.result import job_result, suspects, with_last_words
from runner_spec.retry import Retry, decide
from worker.attempt import Attempt
from worker.log_store import LogReader
from worker.metrics import WorkerMetrics
from worker.queue import Action, Fail, Finish, JobQueue, Requeue, Settlement, Stop

# Of a service's log, in the result: enough to show why it crashed, little enough for Redis.
LAST_LINES: Final = 10
LAST_LINES_S: Final = 10.0

# A job without room goes to the front of its queue again, since its turn had come; but not for ever: those that ask for
# more than the quota will ever give must not stand before those that fit.
WAITS_AT_FRONT: Final = 5

log = logging.getLogger(__name__)


class Ending:
    """Records ends and cleans up after them."""

    def __init__(
        self, queue: JobQueue, api: KubernetesApi, policy: Policy, logs: LogReader, metrics: WorkerMetrics
    ) -> None:
        self._queue = queue
        self._logs = logs
        self._api = api
        self._policy = policy
        self._metrics = metrics

    async def record(self, attempt: Attempt, outcome: Outcome, logs: Sequence[str] = ()) -> bool:
        """Commit the end; waits for Redis as long as it takes. False: another worker owns the job now.

        Raises:
            LogsForgotten: the log of one of `logs` is not complete in Redis.
        """
        last_words = await self._last_words(attempt, outcome)
        settlement = self._settlement(attempt, with_last_words(outcome, last_words), last_words)
        settlement = replace(settlement, logs=logs)
        recorded = await self._queue.settle(settlement)
        if not recorded:
            self._metrics.fenced.inc()
            log.warning("fenced: another worker owns this job", extra={"action": "fenced", **attempt.log_extra})
            return False
        self._count(attempt, outcome, settlement.action)
        return True

    async def _last_words(self, attempt: Attempt, outcome: Outcome) -> dict[str, list[str]]:
        """The last log lines of services that may have had a part in a failure, masked as they are stored."""
        if attempt.pod is None or outcome.verdict is not Verdict.FAILED:
            return {}
        claim = attempt.claim
        words: dict[str, list[str]] = {}
        try:
            async with asyncio.timeout(LAST_LINES_S):
                for service in suspects(outcome, attempt.pod):
                    words[service] = await self._logs.last_lines(claim.job_id, claim.attempt, service, LAST_LINES)
        except (RedisError, StoreError, TimeoutError) as error:  # for display: the end is recorded without them
            log.warning("last lines not read: %s", error, extra={"action": "last_lines", **attempt.log_extra})
        return words

    def _settlement(self, attempt: Attempt, outcome: Outcome, last_words: Mapping[str, Sequence[str]]) -> Settlement:
        result = job_result(outcome, attempt.claim.attempt, attempt.pod, last_words)
        ledger = {
            "outcome": outcome.as_dict(),
            "result": result,
            "started_at": attempt.claim.claimed_at,
            "ended_at": self._queue.lease.now(),
            "pod": attempt.pod_name,
        }
        return Settlement(
            claim=attempt.claim, outcome=outcome, action=self._action(attempt, outcome, result), ledger=ledger
        )

    def _action(self, attempt: Attempt, outcome: Outcome, result: dict[str, object]) -> Action:
        if outcome.verdict is Verdict.SUCCEEDED:
            return Finish(result)
        if outcome.verdict is Verdict.CANCELED:
            return Stop(outcome.message, result)
        if attempt.stop:
            # It had failed by itself before it was stopped: a failure, but nobody wants another attempt.
            return Fail(outcome.message, result)
        decision = decide(
            outcome,
            job_id=attempt.claim.job_id,
            attempt=attempt.claim.attempt,
            platform_retries=attempt.claim.platform_retries,
            job_retries=attempt.claim.job_retries,
            allowed=attempt.allowed_attempts,
            rq_retries_left=attempt.claim.retries_left,
            rq_interval=attempt.claim.retry_interval,
            policy=self._policy,
        )
        if isinstance(decision, Retry):
            platform = decision.consumes == "platform"
            return Requeue(
                decision.delay, decision.why, consumes_retry=not platform, platform_fault=platform, at_front=True
            )
        return Fail(outcome.message, result)

    async def requeue(self, attempt: Attempt, delay: float, why: str) -> bool:
        """Give the job back to its queue: its namespace has no room for it now, in Kubernetes' words."""
        outcome = Outcome(Verdict.FAILED, Fault.PLATFORM, NO_ROOM, f"Kubernetes' quota is used up: {why}")
        waits = 0 if attempt.claim.wait is None else attempt.claim.wait.count
        settlement = Settlement(attempt.claim, outcome, Requeue(delay, why, at_front=waits < WAITS_AT_FRONT))
        return await self._queue.settle(settlement)

    async def delete_pod(self, attempt: Attempt, *, grace_seconds: int | None = None) -> bool:
        """Delete exactly the attempt's pod; one that is gone already is fine. False: it could not be done now."""
        attempt.deletion_sent = True
        return await self.delete(attempt.pod_name, attempt.pod_uid, grace_seconds=grace_seconds)

    async def delete(self, name: str, uid: str, *, grace_seconds: int | None = None) -> bool:
        """Delete exactly this pod; one that is gone already is fine. False: it could not be done now."""
        self._metrics.api_requests.labels("delete").inc()
        try:
            await self._api.delete_pod(name, uid, grace_seconds=grace_seconds)
        except ApiError as error:
            log.warning("pod not deleted: %s", error, extra={"action": "delete_failed", "pod": name})
            return False
        return True

    def _count(self, attempt: Attempt, outcome: Outcome, action: Action) -> None:
        self._metrics.settled.labels(outcome.verdict, outcome.fault, outcome.reason).inc()
        seconds = max(0.0, self._queue.lease.now() - attempt.claim.claimed_at)
        self._metrics.duration.labels(outcome.verdict).observe(seconds)
        if isinstance(action, Requeue):
            self._metrics.retried.labels(outcome.fault).inc()
        log.info(
            "attempt ended: %s (%s)",
            outcome.verdict,
            outcome.reason,
            extra={"action": "settled", "verdict": outcome.verdict, "reason": outcome.reason, **attempt.log_extra},
        )

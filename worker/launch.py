"""From a claim to its pod: read the description, apply the policy, render, create."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec import names, wire
from runner_spec.admission import admit
from runner_spec.description import JobDescription, parse_description
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.ownership import Meeting, Start, after_silence, meet
from runner_spec.pod_check import check_pod
from runner_spec.policy import Policy
from runner_spec.problem import InvalidDescription, InvalidPolicy, Problem
from runner_spec.refusal import Answer, may_exist, read_answer, refusal_outcome, words_of
from runner_spec.render import Attempt, render
from worker.metrics import WorkerMetrics
from worker.queue import Claim

log = logging.getLogger(__name__)

_CONFLICT: Final = 409
_INTERNAL_ERROR: Final = 500
# etcd takes 1.5 MiB, with what the API server adds and with the status that the kubelet will write.
POD_LIMIT_BYTES: Final = 1024 * 1024
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
_EVIDENCE_PROBLEMS: Final = 50


# Waits until the creation may be tried again: for people, why; and for how many seconds.
Wait = Callable[[str, float], Awaitable[None]]


class RejectedError(Exception):
    """This job never gets a pod; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class UnansweredError(Exception):
    """The creation was sent, and nobody knows whether there is a pod now: look for it, and never send it again."""


class QuotaExceededError(Exception):
    """The namespace is full at the moment: the job goes back to the queue."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a claim says, and the pod to create for it."""

    description: JobDescription
    manifest: dict[str, Any]


class Launcher:
    """Renders and creates pods under one policy."""

    def __init__(self, api: KubernetesApi, policy: Policy, worker: str, metrics: WorkerMetrics) -> None:
        self._api = api
        self._policy = policy
        self._worker = worker
        self._metrics = metrics

    def prepare(self, claim: Claim) -> Launch:
        """Pure: no request is made.

        Raises:
            RejectedError: the payload, the description or the policy forbids the job, with every problem.
        """
        if isinstance(claim.payload, wire.Refusal):
            raise RejectedError(_rejected(claim.payload.reason, claim.payload.message))
        try:
            description = parse_description(claim.payload)
            manifest = render(admit(description, self._policy), Attempt(claim.job_id, claim.attempt, self._worker))
        except InvalidDescription as error:
            raise RejectedError(_invalid(error.problems)) from error
        except InvalidPolicy as error:
            message = f"The operator's policy makes no valid pod: {error}"
            raise RejectedError(Outcome(Verdict.FAILED, Fault.PLATFORM, "policy", message)) from error
        # What leaves this house was checked against the policy, whatever the description said.
        if problems := check_pod(manifest, self._policy):
            raise RejectedError(_outside(problems))
        if (size := len(json.dumps(manifest, ensure_ascii=False).encode("utf-8", "surrogatepass"))) > POD_LIMIT_BYTES:
            raise RejectedError(_too_large(size))
        return Launch(description, manifest)

    def describe(self, claim: Claim) -> JobDescription | None:
        """The description of a job whose pod somebody else may have created; None when it is no valid one."""
        try:
            return parse_description(claim.payload) if isinstance(claim.payload, dict) else None
        except InvalidDescription:
            return None  # `prepare` reports it, should there be no pod

    async def find(self, name: str) -> dict[str, Any] | None:
        """The pod of this name, None when there is none; waits while Kubernetes is away, or does not let us look.

        Nothing but an answer may end the wait: taken for absent, a pod that runs would get a second one beside it.
        """
        for tries in count():
            try:
                return await self._api.get_pod(name)
            except ApiError as error:
                log.warning("pod not looked up yet: %s", error, extra={"action": "get_retry", "pod": name})
            await asyncio.sleep(backoff(tries))
        raise AssertionError("unreachable: count() never ends")

    async def create(self, manifest: dict[str, Any], wait: Wait, *, waited: float = 0.0) -> dict[str, Any]:
        """Create the pod. While Kubernetes is away or overloaded, go on trying: that is a reason to wait, not to fail.

        The pod of this very attempt may be there already, created by another worker (`runner_spec.ownership.meet`).

        Args:
            manifest: what to create.
            wait: waits before the next try; told why, and for how many seconds. What it raises ends the trying.
            waited: seconds that earlier workers, which have died, had waited already (`Claim.waited`).

        Raises:
            RejectedError: the API server refuses this pod, with its words.
            QuotaExceededError: a ResourceQuota is used up.
            UnansweredError: the pod may exist, or come to be.
            ApiError: another pod has the name and keeps it, or what the operator has to mend was not mended within the
                policy's `pending_limit`, or as long an internal error was all there was: the platform's fault.
        """
        delay = BACKOFF_FIRST_S
        # What is the operator's to mend is so for every job: to fail them all would help nobody.
        patience = time.monotonic() + self._policy.pending_limit - waited
        while True:
            try:
                self._metrics.api_requests.labels("create").inc()
                pod = await self._api.create_pod(manifest)
            except ApiError as error:
                answer, words = read_answer(error.status, error.message), words_of(error.message)
                if answer is Answer.FULL:
                    raise QuotaExceededError(words) from error
                if answer is Answer.REJECTED:
                    raise RejectedError(refusal_outcome(error.status, error.message)) from error
                ours_to_end = answer is Answer.BROKEN or error.status == _INTERNAL_ERROR
                gone = error.reason == "Gone"
                if ours_to_end and ((error.status == _CONFLICT and not gone) or time.monotonic() > patience):
                    raise
                doubt = gone or may_exist(error.status, error.message, sent=error.sent)
                if after_silence(may_exist=doubt) is Start.FIND:
                    log.warning("creation unanswered: %s", error, extra={"action": "create_unanswered"})
                    raise UnansweredError(words) from error
                why = f"Kubernetes cannot create the pod now: {words}"
                log.warning("pod not created yet: %s", error, extra={"action": "create_retry", "status": error.status})
                delay = max(delay, error.retry_after or 0.0)
            else:
                if meet(pod, manifest) is not Meeting.WAIT:
                    return pod
                if time.monotonic() > patience:
                    raise ApiError(_CONFLICT, "AlreadyExists", "an earlier worker's pod has the name and does not go")
                why = "An earlier worker's pod of the same name is still being deleted"
            await wait(why, delay)
            delay = min(delay * 2, BACKOFF_MAX_S)


def backoff(tries: int) -> float:
    """Seconds to wait before the next of several tries."""
    return float(min(BACKOFF_FIRST_S * 2 ** min(tries, 20), BACKOFF_MAX_S))


def pod_name(claim: Claim) -> str:
    """The name that the attempt's pod has, whoever created it."""
    return names.pod_name(claim.job_id, claim.attempt)


def _rejected(reason: str, message: str, **evidence: object) -> Outcome:
    return Outcome(Verdict.REJECTED, Fault.JOB, reason, message, evidence=evidence)


def _outside(problems: Sequence[Problem]) -> Outcome:
    lines = [str(problem) for problem in problems[:_EVIDENCE_PROBLEMS]]
    summary = "The job's pod would be outside the operator's policy:\n" + "\n".join(lines)
    return _rejected("policy", summary, problems=lines, count=len(problems))


def _too_large(size: int) -> Outcome:
    message = (
        f"The job's pod is too large for Kubernetes: {size} bytes, of at most {POD_LIMIT_BYTES}; its steps and "
        "variables are part of it. Keep long scripts and data in the source, or in a Secret"
    )
    return _rejected("too-large", message, bytes=size)


def _invalid(problems: Sequence[Problem]) -> Outcome:
    count = len(problems)
    lines = [str(problem) for problem in problems[:_EVIDENCE_PROBLEMS]]
    summary = f"The job description has {count} problem{'s' if count != 1 else ''}:\n" + "\n".join(lines)
    return _rejected("description", summary, problems=lines, count=count)

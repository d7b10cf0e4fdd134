"""From a claim to its created pod, through all that may stand in between: no room, no answer, a request to stop."""

import asyncio
from functools import partial
from typing import Final, Protocol

from adapters.kubernetes_api import ApiError
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.ownership import work_of
from runner_spec.refusal import refusal_outcome
from runner_spec.retry import quota_delay
from worker.adoption import Adoption
from worker.attempt import Attempt, Phase, Pod
from worker.ending import Ending
from worker.launch import Launcher, QuotaExceededError, RejectedError, UnansweredError, backoff
from worker.roster import Roster

# How long to wait at most until a pod is looked for whose creation was not confirmed.
LOOK_S: Final = 5.0


class Hands(Protocol):
    """What the supervisor does with an attempt that gets a pod, or none."""

    def show(self, attempt: Attempt, stage: str, why: str = "") -> None:
        """Tell people what it does now."""

    def follow_logs(self, attempt: Attempt) -> None:
        """Be ready to follow its containers' logs."""

    def observe(self, attempt: Attempt, pod: Pod) -> None:
        """Take note of its pod."""

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Record how it ended."""


class Creation:
    """Creates the pods of attempts that this worker has minted.

    `no_room` is Kubernetes' words, from a refusal for want of quota to the next pod that is created.
    """

    def __init__(self, launcher: Launcher, ending: Ending, roster: Roster, adoption: Adoption, *, hands: Hands) -> None:
        self._launcher = launcher
        self._ending = ending
        self._roster = roster
        self._adoption = adoption
        self._hands = hands
        self.no_room = ""

    async def run(self, attempt: Attempt) -> None:
        """To the created pod, or to an end without one."""
        claim = attempt.claim
        if attempt.stop:
            self._hands.end(attempt, never_started(attempt.stop))
            return
        try:
            launch = self._launcher.prepare(claim)
            attempt.describe(launch.description)
            attempt.work = work_of(launch.manifest["metadata"])
            self._hands.follow_logs(attempt)
            self._hands.show(attempt, "waiting", "the pod is being created")
            attempt.creating = True
            pod = await self._launcher.create(launch.manifest, partial(self._wait, attempt), waited=claim.waited)
        except RejectedError as error:
            self._hands.end(attempt, error.outcome)
        except QuotaExceededError as error:
            self.no_room = str(error)
            await self._give_back(attempt, str(error))
        except UnansweredError as error:
            await self._look_for_pod(attempt, str(error))
        except ApiError as error:
            self._hands.end(attempt, refusal_outcome(error.status, error.message))
        else:
            self.no_room = ""
            self._hands.observe(attempt, pod)

    async def _wait(self, attempt: Attempt, why: str, seconds: float) -> None:
        """Kubernetes does not create the pod now: a wait that may come again for hours, and that somebody may end.

        Only the wait: while a creation is under way, there may be a pod in a moment, and a log of it.
        """
        if attempt.stop:
            raise RejectedError(never_started(attempt.stop))
        self._hands.show(attempt, "waiting", why)
        attempt.creation_waits = True
        await asyncio.sleep(seconds)
        attempt.creation_waits = False

    async def _look_for_pod(self, attempt: Attempt, why: str) -> None:
        """The creation may have taken effect, or still will: as with an adopted attempt, find the pod or mint the next.

        Sent again, it could make a second pod of this attempt, after the first one has ended and was deleted.
        """
        attempt.creating = False
        if not attempt.stop:
            self._hands.show(attempt, "waiting", f"Kubernetes did not confirm the pod's creation: {why}")
            await asyncio.sleep(min(backoff(attempt.unanswered), LOOK_S))
        attempt.unanswered += 1
        await self._adoption.find_or_mint(attempt, _unanswered(why))

    async def _give_back(self, attempt: Attempt, why: str) -> None:
        """Back to the queue: the namespace has no room now. That is a wait, and costs none of the job's retries."""
        if attempt.stop:
            self._hands.end(attempt, never_started(attempt.stop))
            return
        attempt.phase = Phase.FINISHING  # a pod that appears from now on is not this job's any more
        claim = attempt.claim
        waits = 0 if claim.wait is None else claim.wait.count
        if await self._ending.requeue(attempt, quota_delay(claim.job_id, claim.attempt, waits), why):
            self._hands.show(attempt, "waiting", f"Kubernetes' quota is used up: {why}")
        self._roster.leave_behind(attempt)


def never_started(by: str) -> Outcome:
    """The end of an attempt that somebody stopped before it had a pod."""
    return Outcome(Verdict.CANCELED, Fault.USER, "stop", f"Stopped before it started, by {by}.")


def _unanswered(why: str) -> Outcome:
    """The end of an attempt that was given up because its pod's creation was not confirmed, and no pod was found."""
    message = f"Kubernetes did not confirm the creation of this attempt's pod, and no pod was found: {why}"
    return Outcome(Verdict.FAILED, Fault.PLATFORM, "unanswered", message)

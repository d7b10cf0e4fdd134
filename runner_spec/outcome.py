"""How an attempt ended: the verdict, whose fault it was, and the evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

# The reason of an attempt that ended before it began: the namespace had no room for its pod. The job only waits.
NO_ROOM: Final = "quota"
# The reason of a job that was given up because workers died of it: never tried again, it would only cost more of them.
POISON: Final = "poison"


class Verdict(StrEnum):
    """The recorded end of an attempt. `SUCCEEDED` needs proof; nothing falls back to it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"  # the description or the policy refused it: no pod was created


class Fault(StrEnum):
    """Who has to act: the job's author, the platform's operator, or nobody."""

    NONE = "none"
    JOB = "job"
    PLATFORM = "platform"
    USER = "user"  # somebody asked for the end: cancel, stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt.

    `reason` is a stable word for programs (`exit`, `signal`, `oom`, `timeout`, `missing-artifact`, `ref-not-found`,
    `evicted`, `pod-deleted`, `image`, …), `message` one sentence for people. `evidence` keeps what was seen
    (container states, conditions, node), JSON-pure and small.
    """

    verdict: Verdict
    fault: Fault
    reason: str
    message: str
    exit_code: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-pure form, for results, events and the ledger."""
        return {
            "verdict": self.verdict,
            "fault": self.fault,
            "reason": self.reason,
            "message": self.message,
            "exit_code": self.exit_code,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pod exists and its first container has not started. `why` is one line for people (`reason` for programs)."""

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Running:
    """A container of the pod runs; `stage` is `services`, `checkout`, `run` or `upload`."""

    stage: str


Observation = Waiting | Running | Outcome

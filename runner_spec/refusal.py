"""What follows when Kubernetes does not create a pod: wait for room, wait for it to recover, or give up, and why. Pure.

The API server has one status code, 403, for a used up quota, a refusal by an admission plugin and a missing right:
only its words tell them apart. They are those of Kubernetes 1.34's plugins, recorded in `tests/runner_spec/recorded`.
"""

import re
from enum import StrEnum
from typing import Final

from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.pod_status import one_line

_TOO_MANY_REQUESTS: Final = 429
_INTERNAL_ERROR: Final = 500
_FORBIDDEN: Final = 403
_NO_ANSWER: Final = frozenset({_INTERNAL_ERROR, 502, 504})
_CONFLICT: Final = 409
_TOO_LARGE: Final = 413
# Characters of the API server's words: a webhook may say what it wants, and it goes into the record twice.
_WORDS: Final = 1000
# Bad request, forbidden, unprocessable: by an admission plugin, policy or webhook, or by validation.
_REFUSED: Final = frozenset({400, _FORBIDDEN, 422})
_OVER_QUOTA: Final = re.compile(r"exceeded quota:")
# The quota was written at the same moment, or is so new that nobody has counted yet what is used (the ResourceQuota
# admission plugin): nothing was decided about the pod.
_UNDECIDED: Final = re.compile(r"Operation cannot be fulfilled on |status unknown for quota:")
# etcd's limits, 1.5 MiB of a request and 2 MiB of a message, come as an internal error.
_TOO_LARGE_FOR_ETCD: Final = re.compile(r"etcdserver: request is too large|trying to send message larger than max")
# What no description can change: the namespace, the rights of the worker, and names out of the operator's policy.
_OPERATOR: Final = re.compile(
    r"because it is being terminated"
    r"|error looking up service account"
    r"|no PriorityClass with name"
    r"|RuntimeClass \S+ not found"
    r"|failed quota: .* must specify"
    r"|insufficient quota to match these scopes"
    r'|User "[^"]*" cannot create resource'
)


# Internal errors that come before anything is stored: a webhook that cannot be asked, a quota that cannot be counted.
_BEFORE_STORAGE: Final = re.compile(r"failed calling webhook|quota evaluation timed out")
_PREAMBLE: Final = re.compile(r'^pods "[^"]*" is forbidden: ')


class Answer(StrEnum):
    """What a refusal to create a pod means."""

    FULL = "full"  # a ResourceQuota is used up: back to the queue, room will come when other pods end
    LATER = "later"  # Kubernetes, or a webhook that it asks, is away or overloaded: send the same again
    REJECTED = "rejected"  # this pod will never be admitted: the job's own
    BROKEN = "broken"  # no pod is admitted as things stand: the operator's


def read_answer(code: int, message: str) -> Answer:
    """Read the HTTP status (0: no answer) and the words of the API server."""
    if code == _TOO_LARGE or (code == _INTERNAL_ERROR and _TOO_LARGE_FOR_ETCD.search(message)):
        return Answer.REJECTED
    if code in (0, _TOO_MANY_REQUESTS) or code >= _INTERNAL_ERROR:
        return Answer.LATER
    if code in {_CONFLICT, _FORBIDDEN} and _UNDECIDED.search(message):
        return Answer.LATER
    if code == _FORBIDDEN and _OVER_QUOTA.search(message):
        return Answer.FULL
    if code in _REFUSED and not _OPERATOR.search(message):
        return Answer.REJECTED
    return Answer.BROKEN


def may_exist(code: int, message: str, *, sent: bool) -> bool:
    """Whether a pod may be there, or may still come to be, although its creation was not confirmed.

    A gateway's error (502, 504) and an internal one are no answers: the request may be under way, or in etcd. 429 and
    503 are given before anything is done.
    """
    if code == 0:
        return sent
    return code in _NO_ANSWER and not (_BEFORE_STORAGE.search(message) or _TOO_LARGE_FOR_ETCD.search(message))


def refusal_outcome(code: int, message: str) -> Outcome:
    """The end of an attempt whose pod will not be created."""
    words = words_of(message)
    if read_answer(code, message) is Answer.REJECTED:
        return Outcome(Verdict.REJECTED, Fault.JOB, "refused", f"Kubernetes refused the pod: {words}")
    status = f" ({code})" if code else ""
    return Outcome(Verdict.FAILED, Fault.PLATFORM, "create", f"Kubernetes did not create the pod{status}: {words}")


def words_of(message: str) -> str:
    """The API server's words in one line, without the pod's name in front, which says nothing to the job's owner."""
    return one_line(_PREAMBLE.sub("", message, count=1), _WORDS)

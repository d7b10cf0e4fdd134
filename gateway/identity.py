"""Who is talking: from a projected service-account token to the pod, job and attempt it was minted for.

The token is verified by the Kubernetes API itself (TokenReview), which names the pod it is bound to; the pod's labels
and annotations, which only dynapod's worker writes, name the job. Both must agree on the pod's uid, or a token could
outlive its pod and speak for a later one of the same name. Only the namespaces where jobs run are believed: elsewhere
anybody may create a pod with our labels on it.

Nothing here ever turns a failure to ask into a yes: what could not be verified raises `ReviewUnavailableError`.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

from adapters.kubernetes_api import ApiError
from runner_spec import anatomy

# Projected tokens have about 1 KiB.
TOKEN_LIMIT_BYTES: Final = 4 * 1024
REVIEW_TIMEOUT_S: Final = 10.0
# How long a verdict is believed without asking again, for what reads and to begin a transfer: a pod that has ended can
# go on reading its own cache for as long, and no longer.
VERDICT_TTL_S: Final = 10.0
# The same for what is about to be stored: the bound on how long an ended pod's token can still write. Not zero, because
# an upload of a thousand files would then ask the Kubernetes API two thousand times.
WRITE_TTL_S: Final = 1.0
VERDICTS_LIMIT: Final = 4096

_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_EXTRA_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_EXTRA_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_USERNAME_PARTS: Final = 4  # system:serviceaccount:<namespace>:<name>
_NOT_FOUND: Final = 404
# The API server's own words in `TokenReview.status.error` [measured on 1.34], for the refusal's label only: whatever
# they are, the token is refused.
_WORDS: Final = (("token audiences", "audience"), ("has expired", "expired"))
_DETAIL_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """A verified pod. `cache_scope` is None for a job without caches."""

    namespace: str
    pod: str
    uid: str
    job_id: str
    attempt: int
    cache_scope: str | None


@dataclass(frozen=True, slots=True)
class BoundPod:
    """The pod that a genuine token is bound to, before anything is known about that pod; `name` may be empty."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a token opens nothing.

    `known`: the token is genuine, but not of a pod that may talk here (403, not 401); `bound` is then whose it is.
    `detail` are the Kubernetes API's words, for the log only.
    """

    reason: str
    message: str
    known: bool = False
    bound: BoundPod | None = None
    detail: str = ""


class ReviewUnavailableError(Exception):
    """The token could not be verified: the Kubernetes API is away, or does not let us ask."""


class TokenReviewer(Protocol):
    """Verifies bearer tokens."""

    async def review(self, token: str, *, within: float = VERDICT_TTL_S) -> PodIdentity | Refused:
        """The pod behind a token, as it was at most `within` seconds ago.

        Raises:
            ReviewUnavailableError: it cannot be told now.
        """


class ApiCaller(Protocol):
    """The one call of `adapters.kubernetes_api.KubernetesApi` that is needed here; it raises `ApiError`."""

    async def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request to the Kubernetes API, its answer as JSON."""


class KubernetesTokenReviewer:
    """Asks the Kubernetes API: TokenReview, then the pod.

    The pod is what decides about time: the API server itself believes a token for some 10 s after its pod is gone
    [measured on 1.34], but a read of the pod sees what was last written.

    Args:
        api: how to call it.
        namespaces: where jobs run; tokens from elsewhere are refused.
        timeout: seconds for both calls together.
    """

    def __init__(self, api: ApiCaller, *, namespaces: Collection[str], timeout: float = REVIEW_TIMEOUT_S) -> None:
        self._api = api
        self._namespaces = frozenset(namespaces)
        self._timeout = timeout

    async def review(self, token: str, *, within: float = VERDICT_TTL_S) -> PodIdentity | Refused:  # noqa: ARG002 - asks anew
        """See `TokenReviewer`."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._review(token)
        except TimeoutError as error:
            raise ReviewUnavailableError(f"the Kubernetes API did not answer in {self._timeout:g} s") from error
        except ApiError as error:
            raise ReviewUnavailableError(f"the Kubernetes API cannot verify tokens: {error}") from error

    async def _review(self, token: str) -> PodIdentity | Refused:
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [anatomy.TOKEN_AUDIENCE]},
        }
        bound = bound_pod(await self._api.call("POST", _TOKEN_REVIEWS, body=request), self._namespaces)
        if isinstance(bound, Refused):
            return bound
        try:
            path = f"/api/v1/namespaces/{quote(bound.namespace, safe='')}/pods/{quote(bound.name, safe='')}"
            pod = await self._api.call("GET", path)
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return Refused("pod-gone", f"pod {bound.name} no longer exists", known=True, bound=bound)
            raise
        return identity_of(pod, bound)


def bound_pod(review: Mapping[str, Any], namespaces: Collection[str]) -> BoundPod | Refused:
    """The pod that an answered TokenReview names. Pure."""
    status = review.get("status") or {}
    if status.get("authenticated") is not True:
        return _unauthenticated(str(status.get("error") or ""))
    if anatomy.TOKEN_AUDIENCE not in (status.get("audiences") or ()):
        return Refused("audience", f"the token is not for the audience {anatomy.TOKEN_AUDIENCE!r}")
    user = status.get("user") or {}
    parts = str(user.get("username", "")).split(":")
    extra = user.get("extra") or {}
    names, uids = extra.get(_EXTRA_POD_NAME) or (), extra.get(_EXTRA_POD_UID) or ()
    of_account = len(parts) == _USERNAME_PARTS and parts[:2] == ["system", "serviceaccount"]
    if not of_account or not names or not uids:
        whose = BoundPod(parts[2], "", "") if of_account else None
        return Refused("not-a-pod", "the token is not bound to a pod", known=True, bound=whose)
    bound = BoundPod(parts[2], names[0], uids[0])
    if bound.namespace not in namespaces:
        return Refused("namespace", f"no jobs run in namespace {bound.namespace!r}", known=True, bound=bound)
    return bound


def _unauthenticated(error: str) -> Refused:
    reason = next((reason for words, reason in _WORDS if words in error), "token")
    detail = " ".join(error.split())[:_DETAIL_CHARACTERS]
    message = {
        "audience": f"the token is not for the audience {anatomy.TOKEN_AUDIENCE!r}",
        "expired": "the token has expired",
        "token": "the token is not valid (of a deleted pod, or not from this cluster)",
    }[reason]
    return Refused(reason, message, detail=detail)


def identity_of(pod: Mapping[str, Any], bound: BoundPod) -> PodIdentity | Refused:
    """Job and attempt of the pod, if it is one of ours and still alive. Pure."""
    metadata = pod.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    phase = (pod.get("status") or {}).get("phase")
    job_id, attempt = annotations.get(anatomy.ANNOTATION_JOB), labels.get(anatomy.LABEL_ATTEMPT, "")

    def refused(reason: str, what: str) -> Refused:
        return Refused(reason, f"pod {bound.name} {what}", known=True, bound=bound)

    if metadata.get("uid") != bound.uid:
        return refused("uid", "is another one than the token was minted for")
    if labels.get(anatomy.LABEL_MANAGED_BY) != anatomy.MANAGED_BY:
        return refused("not-managed", "was not created by dynapod")
    if phase in {"Succeeded", "Failed"}:
        return refused("pod-ended", f"has ended ({phase})")
    if not job_id or not (attempt.isascii() and attempt.isdecimal() and int(attempt) > 0):
        return refused("no-job", "does not say which job and attempt it is")
    scope = annotations.get(anatomy.ANNOTATION_CACHE_SCOPE) or None
    return PodIdentity(bound.namespace, bound.name, bound.uid, job_id, int(attempt), scope)


@dataclass(frozen=True, slots=True)
class _Question:
    """A review that is under way; `asked_at` is monotonic."""

    asked_at: float
    task: "asyncio.Task[PodIdentity | Refused]"


class CachingTokenReviewer:
    """Remembers positive verdicts briefly and asks once for many simultaneous requests with one token.

    An upload of a thousand files would otherwise cost two thousand calls. Refusals are not remembered: a pod that was
    not yet known a moment ago may be now. Tokens themselves are not kept, only their SHA-256.

    Args:
        reviewer: who is asked.
        clock: monotonic seconds.
    """

    def __init__(self, reviewer: TokenReviewer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._verdicts: OrderedDict[bytes, tuple[float, PodIdentity]] = OrderedDict()
        self._running: dict[bytes, _Question] = {}

    async def review(self, token: str, *, within: float = VERDICT_TTL_S) -> PodIdentity | Refused:
        """See `TokenReviewer`."""
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        oldest = self._clock() - within
        asked_at, known = self._verdicts.get(key, (0.0, None))
        if known is not None and asked_at > oldest:
            self._verdicts.move_to_end(key)
            return known
        question = self._running.get(key)
        if question is None or question.asked_at <= oldest:
            question = self._ask(key, token)
        # Shielded: one client that hangs up must not take the answer from the others.
        return await asyncio.shield(question.task)

    def _ask(self, key: bytes, token: str) -> _Question:
        asked_at = self._clock()
        question = _Question(asked_at, asyncio.create_task(self._answer(key, token, asked_at)))
        self._running[key] = question
        question.task.add_done_callback(lambda _: self._finished(key, question))
        return question

    async def _answer(self, key: bytes, token: str, asked_at: float) -> PodIdentity | Refused:
        verdict = await self._reviewer.review(token)
        # Answers may come in another order than they were asked for: only the younger question's is kept.
        if self._verdicts.get(key, (asked_at, None))[0] > asked_at:
            return verdict
        self._verdicts.pop(key, None)
        if isinstance(verdict, PodIdentity):
            self._verdicts[key] = (asked_at, verdict)
            while len(self._verdicts) > VERDICTS_LIMIT:
                self._verdicts.popitem(last=False)
        return verdict

    def _finished(self, key: bytes, question: _Question) -> None:
        if self._running.get(key) is question:
            del self._running[key]
        if not question.task.cancelled():
            question.task.exception()  # retrieved, also when every waiter has hung up

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
# How long a verdict is believed without asking again: a pod that has ended can go on for as long.
VERDICT_TTL_S: Final = 10.0
VERDICTS_LIMIT: Final = 4096

_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_EXTRA_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_EXTRA_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_USERNAME_PARTS: Final = 4  # system:serviceaccount:<namespace>:<name>
_NOT_FOUND: Final = 404


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
class Refused:
    """Why a token opens nothing. `known`: the token is genuine, but not of a pod that may talk here (403, not 401)."""

    reason: str
    message: str
    known: bool = False


class ReviewUnavailableError(Exception):
    """The token could not be verified: the Kubernetes API is away, or does not let us ask."""


class TokenReviewer(Protocol):
    """Verifies bearer tokens."""

    async def review(self, token: str) -> PodIdentity | Refused:
        """The pod behind a token.

        Raises:
            ReviewUnavailableError: it cannot be told now.
        """


class ApiCaller(Protocol):
    """The one call of `adapters.kubernetes_api.KubernetesApi` that is needed here; it raises `ApiError`."""

    async def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request to the Kubernetes API, its answer as JSON."""


@dataclass(frozen=True, slots=True)
class BoundPod:
    """The pod that a genuine token is bound to, before anything is known about that pod."""

    namespace: str
    name: str
    uid: str


class KubernetesTokenReviewer:
    """Asks the Kubernetes API: TokenReview, then the pod.

    Args:
        api: how to call it.
        namespaces: where jobs run; tokens from elsewhere are refused.
        timeout: seconds for both calls together.
    """

    def __init__(self, api: ApiCaller, *, namespaces: Collection[str], timeout: float = REVIEW_TIMEOUT_S) -> None:
        self._api = api
        self._namespaces = frozenset(namespaces)
        self._timeout = timeout

    async def review(self, token: str) -> PodIdentity | Refused:
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
                return Refused("pod-gone", f"pod {bound.name} no longer exists", known=True)
            raise
        return identity_of(pod, bound)


def bound_pod(review: Mapping[str, Any], namespaces: Collection[str]) -> BoundPod | Refused:
    """The pod that an answered TokenReview names. Pure."""
    status = review.get("status") or {}
    if status.get("authenticated") is not True:
        return Refused("token", "the token is not valid (expired, of a deleted pod, or not from this cluster)")
    if anatomy.TOKEN_AUDIENCE not in (status.get("audiences") or ()):
        return Refused("audience", f"the token is not for the audience {anatomy.TOKEN_AUDIENCE!r}")
    user = status.get("user") or {}
    parts = str(user.get("username", "")).split(":")
    extra = user.get("extra") or {}
    names, uids = extra.get(_EXTRA_POD_NAME) or (), extra.get(_EXTRA_POD_UID) or ()
    if len(parts) != _USERNAME_PARTS or parts[:2] != ["system", "serviceaccount"] or not names or not uids:
        return Refused("not-a-pod", "the token is not bound to a pod", known=True)
    if parts[2] not in namespaces:
        return Refused("namespace", f"no jobs run in namespace {parts[2]!r}", known=True)
    return BoundPod(parts[2], names[0], uids[0])


def identity_of(pod: Mapping[str, Any], bound: BoundPod) -> PodIdentity | Refused:
    """Job and attempt of the pod, if it is one of ours and still alive. Pure."""
    metadata = pod.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    phase = (pod.get("status") or {}).get("phase")
    job_id, attempt = annotations.get(anatomy.ANNOTATION_JOB), labels.get(anatomy.LABEL_ATTEMPT, "")
    if metadata.get("uid") != bound.uid:
        return Refused("uid", f"pod {bound.name} is another one than the token was minted for", known=True)
    if labels.get(anatomy.LABEL_MANAGED_BY) != anatomy.MANAGED_BY:
        return Refused("not-managed", f"pod {bound.name} was not created by dynapod", known=True)
    if phase in {"Succeeded", "Failed"}:
        return Refused("pod-ended", f"pod {bound.name} has ended ({phase})", known=True)
    if not job_id or not (attempt.isascii() and attempt.isdecimal() and int(attempt) > 0):
        return Refused("no-job", f"pod {bound.name} does not say which job and attempt it is", known=True)
    scope = annotations.get(anatomy.ANNOTATION_CACHE_SCOPE) or None
    return PodIdentity(bound.namespace, bound.name, bound.uid, job_id, int(attempt), scope)


class CachingTokenReviewer:
    """Remembers positive verdicts briefly and asks once for many simultaneous requests with one token.

    An upload of a thousand files would otherwise cost two thousand calls. Refusals are not remembered: a pod that was
    not yet known a moment ago may be now. Tokens themselves are not kept, only their SHA-256.

    Args:
        reviewer: who is asked.
        ttl: seconds for which a verdict is believed.
        clock: monotonic seconds.
    """

    def __init__(
        self, reviewer: TokenReviewer, *, ttl: float = VERDICT_TTL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reviewer = reviewer
        self._ttl = ttl
        self._clock = clock
        self._verdicts: OrderedDict[bytes, tuple[float, PodIdentity]] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[PodIdentity | Refused]] = {}

    async def review(self, token: str) -> PodIdentity | Refused:
        """See `TokenReviewer`."""
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        until, known = self._verdicts.get(key, (0.0, None))
        if known is not None and self._clock() < until:
            self._verdicts.move_to_end(key)
            return known
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key, token))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        # Shielded: one client that hangs up must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: bytes, token: str) -> PodIdentity | Refused:
        asked_at = self._clock()
        verdict = await self._reviewer.review(token)
        if isinstance(verdict, PodIdentity):
            self._verdicts[key] = (asked_at + self._ttl, verdict)
            self._verdicts.move_to_end(key)
            while len(self._verdicts) > VERDICTS_LIMIT:
                self._verdicts.popitem(last=False)
        return verdict

    def _finished(self, key: bytes, task: asyncio.Task[PodIdentity | Refused]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # retrieved, also when every waiter has hung up

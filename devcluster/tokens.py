"""Identity tokens of pods: minted for projected volumes, verified by TokenReview, dead with their pod."""

import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from devcluster.resources import Object

API_AUDIENCE: Final = "https://kubernetes.default.svc.cluster.local"
_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class BoundToken:
    """What a token says about its holder; `expires_at` in unix seconds."""

    namespace: str
    account: str
    account_uid: str
    pod: str
    pod_uid: str
    node: str
    audience: str
    expires_at: float
    identity: str


class TokenIssuer:
    """All living tokens. `pod_lives(namespace, name, uid)` says whether the pod still exists."""

    def __init__(self, pod_lives: Callable[[str, str, str], bool]) -> None:
        self._pod_lives = pod_lives
        self._tokens: dict[str, BoundToken] = {}
        self._by_pod: dict[str, set[str]] = {}

    def mint(self, pod: Object, account_uid: str, audience: str, seconds: int, *, node: str) -> str:
        """A new token, bound to the pod; opaque and unguessable."""
        metadata = pod["metadata"]
        token = f"devcluster.{secrets.token_urlsafe(_TOKEN_BYTES)}"
        self._tokens[token] = BoundToken(
            namespace=metadata["namespace"],
            account=pod["spec"].get("serviceAccountName", "default"),
            account_uid=account_uid,
            pod=metadata["name"],
            pod_uid=metadata["uid"],
            node=node,
            audience=audience or API_AUDIENCE,
            expires_at=time.time() + seconds,
            identity=str(uuid.uuid4()),
        )
        self._by_pod.setdefault(metadata["uid"], set()).add(token)
        return token

    def revoke(self, pod_uid: str) -> None:
        """Forget all tokens of a pod."""
        for token in self._by_pod.pop(pod_uid, ()):
            del self._tokens[token]

    def review(self, token: str, audiences: Sequence[str]) -> dict[str, Any]:
        """The `status` of a TokenReview; no audiences means the API's own."""
        wanted = list(audiences) or [API_AUDIENCE]
        bound = self._tokens.get(token)
        if bound is None:
            return {"user": {}, "error": "invalid bearer token"}
        if bound.audience not in wanted:
            found, asked = f'["{bound.audience}"]', "[" + " ".join(f'"{name}"' for name in wanted) + "]"
            error = f"[invalid bearer token, token audiences {found} is invalid for the target audiences {asked}]"
            return {"user": {}, "error": error}
        if bound.expires_at <= time.time():
            return {"user": {}, "error": "[invalid bearer token, service account token has expired]"}
        if not self._pod_lives(bound.namespace, bound.pod, bound.pod_uid):
            return {"user": {}, "error": "[invalid bearer token, service account token has been invalidated]"}
        return {"authenticated": True, "user": _user(bound), "audiences": [bound.audience]}


def _user(bound: BoundToken) -> Mapping[str, Any]:
    return {
        "username": f"system:serviceaccount:{bound.namespace}:{bound.account}",
        "uid": bound.account_uid,
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{bound.namespace}", "system:authenticated"],
        "extra": {
            "authentication.kubernetes.io/credential-id": [f"JTI={bound.identity}"],
            "authentication.kubernetes.io/node-name": [bound.node],
            "authentication.kubernetes.io/pod-name": [bound.pod],
            "authentication.kubernetes.io/pod-uid": [bound.pod_uid],
        },
    }

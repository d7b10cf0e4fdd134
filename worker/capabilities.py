"""What the cluster offers, asked once, before the first job: whether its pods may be root in a user namespace.

The proof is the jobs' namespace itself. At the restricted pod-security level, uid 0 is refused, except with
`hostUsers: false` on a cluster whose operator has switched on `UserNamespacesPodSecurityStandards`, which may be done
only when every node supports user namespaces (KEP-127). So two pods are sent as dry runs, which need no right but that
to create pods: root in a user namespace, which has to be admitted as it is, and plain root, which has to be refused.
Without the second answer the first says nothing about the nodes, and a wrong guess would fail every job.
"""

import asyncio
import copy
import logging
from dataclasses import dataclass
from typing import Any, Final

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.policy import Policy
from runner_spec.refusal import Answer, read_answer
from runner_spec.render import Attempt, Manifest, render

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class UserNamespaces:
    """Whether the cluster offers them to the jobs' pods, and what that was seen by."""

    offered: bool
    why: str


async def settle(policy: Policy, api: KubernetesApi, *, asker: str) -> Policy:
    """The policy with `auto` settled by the cluster's answer; waits for as long as the API server is away.

    Args:
        policy: the operator's.
        api: the cluster, for the jobs' namespace.
        asker: a name that no other worker has; it is in the names of the pods that are never created.

    Raises:
        InvalidPolicy: its pod patch makes a pod that the policy itself forbids.
    """
    if policy.user_namespaces != "auto" or policy.shim_delivery == "image-volume":
        return policy.resolved(user_namespaces=False)
    delay = RETRY_FIRST_S
    while True:
        try:
            found = await ask_user_namespaces(policy, api, asker=asker)
        except ApiError as error:
            log.warning("cluster not asked yet for user namespaces: %s", error, extra={"action": "api_away"})
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_S)
            continue
        facts = {"action": "user_namespaces", "offered": found.offered}
        what = "root in a user namespace" if found.offered else "uid 1000"
        log.info("jobs run as %s: %s", what, found.why, extra=facts)
        return policy.resolved(user_namespaces=found.offered)


async def ask_user_namespaces(policy: Policy, api: KubernetesApi, *, asker: str) -> UserNamespaces:
    """Ask once.

    Raises:
        ApiError: the API server cannot be reached, is overloaded, or does not let us ask: it has given no answer.
        InvalidPolicy: as in `settle`.
    """
    inside = _probe(policy, asker)
    answer = await _dry_run(api, inside)
    if isinstance(answer, ApiError) and not answer.over_quota:
        return UserNamespaces(offered=False, why=f"it is refused inside a user namespace: {answer.message}")
    if isinstance(answer, dict) and answer.get("spec", {}).get("hostUsers") is not False:
        why = "the API server drops hostUsers: its cluster knows no user namespaces"
        return UserNamespaces(offered=False, why=why)
    # A full quota is looked at last of all, so nothing else refused this pod.
    outside = copy.deepcopy(inside)
    del outside["spec"]["hostUsers"]
    answer = await _dry_run(api, outside)
    if isinstance(answer, ApiError) and not answer.over_quota:
        why = f"the cluster admits it inside a user namespace only ({answer.message})"
        return UserNamespaces(offered=True, why=why)
    why = (
        f"namespace {api.namespace} admits root even without a user namespace, so nothing proves that the nodes offer "
        "them; enforce the restricted pod-security level there, or set policy.user_namespaces: true"
    )
    return UserNamespaces(offered=False, why=why)


def _probe(policy: Policy, asker: str) -> Manifest:
    """A job's pod as this policy makes it, with root in a user namespace."""
    description = parse_description({"image": policy.runner_image, "steps": [{"run": "true"}]})
    # Not a job, so not subject to the list of images.
    asked = policy.model_copy(update={"user_namespaces": True, "images": ("*",)})
    return render(admit(description, asked), Attempt(f"user-namespaces-{asker}", 1, asker))


async def _dry_run(api: KubernetesApi, manifest: Manifest) -> dict[str, Any] | ApiError:
    """The pod as it would be created, or the refusal."""
    try:
        return await api.call(
            "POST", f"/api/v1/namespaces/{api.namespace}/pods", query={"dryRun": "All"}, body=manifest
        )
    except ApiError as error:
        # What says nothing about this pod is no answer: no right, no namespace, no service account (yet).
        if error.temporary or read_answer(error.status, error.message) is Answer.BROKEN:
            raise
        return error

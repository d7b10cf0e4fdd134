"""The last word about a pod, from the policy alone: whatever a description said, only this may leave the house.

It knows nothing of `render`: it is a judge of what there is, and takes two looks.

- `containment`: what keeps a job away from all that is not its own. Nothing may break it, nor the operator's own pod
  patch, unless the policy opens a gate in so many words (`allow_root`, `allow_privileged`, `host_paths`).
- `conformity`: every field that there is, and its value, is one that the policy gives. What the pod patch sets is the
  operator's word, so it is exempt at exactly the places that the patch sets: a priority class, further tolerations,
  labels, variables, volumes, resources, a runtime class, commands of services.
"""

from collections.abc import Mapping
from typing import Any

from runner_spec.conformity import conformity
from runner_spec.containment import containment
from runner_spec.manifest import Finding
from runner_spec.pod_patch import is_applied, sets
from runner_spec.policy import Policy
from runner_spec.problem import Problem, join_path, shorten


def check_pod(pod: Mapping[str, Any], policy: Policy) -> list[Problem]:
    """Everything wrong with a finished pod; empty when it may be created. No shape is trusted."""
    patch = policy.pod_patch
    findings = [*containment(pod, policy)]
    if patch and not is_applied(patch, pod):
        findings.append(Finding((), "the pod does not hold what policy.pod_patch sets"))
    findings += [found for found in conformity(pod, policy) if not sets(patch, pod, found.path)]
    remedy = "change policy.pod_patch" if patch else "leave out what asks for it: the policy does not allow it"
    return [
        Problem(join_path(found.path), found.message, "" if found.value == "" else shorten(found.value), remedy)
        for found in findings
    ]

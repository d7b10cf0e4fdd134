"""Whether every field of a pod, and its value, is one that the policy gives: what is not known here is a finding.

Findings stand at single values, never at a whole of several: the pod patch exempts exactly what it sets.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from runner_spec import anatomy
from runner_spec.conformity_containers import SERVICE, container_conformity, role_of
from runner_spec.conformity_volumes import volume_conformity
from runner_spec.manifest import Finding, Json, containers, known, mapping, mappings, match
from runner_spec.policy import Policy

_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SECONDS: Final = re.compile(r"[1-9][0-9]{0,8}")
_COUNT: Final = re.compile(r"0|[1-9][0-9]{0,8}")
# Room for signals, status updates and slow disks beyond the sums of the policy's budgets.
_MARGIN_SECONDS: Final = 300

_LABELS: Final = (anatomy.LABEL_MANAGED_BY, anatomy.LABEL_JOB, anatomy.LABEL_ATTEMPT, anatomy.LABEL_WORKER)
_ANNOTATIONS: Final = (
    anatomy.ANNOTATION_JOB,
    anatomy.ANNOTATION_PLAN,
    anatomy.ANNOTATION_STEPS,
    anatomy.ANNOTATION_CACHE_SCOPE,
    anatomy.ANNOTATION_TIMEOUT,
    anatomy.ANNOTATION_ARTIFACTS,
    anatomy.ANNOTATION_KEEP,
    anatomy.ANNOTATION_DEBUG,
)
_SPEC_FIELDS: Final = (
    *("initContainers", "containers", "volumes", "restartPolicy", "serviceAccountName", "enableServiceLinks"),
    *("automountServiceAccountToken", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "securityContext"),
    *("hostAliases", "nodeSelector", "tolerations", "imagePullSecrets", "runtimeClassName", "hostUsers"),
)


def conformity(pod: Json, policy: Policy) -> Iterator[Finding]:
    """Everything that the policy does not give; no shape is trusted."""
    spec = mapping(pod.get("spec"))
    yield from match((), {key: pod.get(key) for key in pod if key not in ("metadata", "spec")}, _HEAD)
    yield from _metadata(mapping(pod.get("metadata")), policy)
    yield from _spec(spec, policy)
    yield from _placement(spec, policy)
    for index, volume in enumerate(mappings(spec.get("volumes"))):
        yield from volume_conformity(("spec", "volumes", index), volume, policy)
    for path, container in containers(spec):
        yield from container_conformity(path, container, policy)
    services = sum(role_of(container) == SERVICE for _, container in containers(spec))
    if services > policy.max_services:
        yield Finding(("spec", "initContainers"), f"policy.max_services allows {policy.max_services}", services)


_HEAD: Final = {"apiVersion": "v1", "kind": "Pod"}


def _metadata(metadata: Json, policy: Policy) -> Iterator[Finding]:
    yield from known(("metadata",), metadata, ("name", "namespace", "labels", "annotations"))
    labels, annotations = mapping(metadata.get("labels")), mapping(metadata.get("annotations"))
    yield from known(("metadata", "labels"), labels, _LABELS)
    yield from known(("metadata", "annotations"), annotations, _ANNOTATIONS)
    if labels.get(anatomy.LABEL_MANAGED_BY) != anatomy.MANAGED_BY:
        yield Finding(("metadata", "labels", anatomy.LABEL_MANAGED_BY), f"this is {anatomy.MANAGED_BY}")
    for name in _LABELS:
        if not _LABEL_VALUE.fullmatch(str(labels.get(name, ""))):
            yield Finding(("metadata", "labels", name), "this is no value of a label", labels.get(name))
    for name, field, cap in (
        (anatomy.ANNOTATION_TIMEOUT, "max_timeout", policy.max_timeout),
        (anatomy.ANNOTATION_KEEP, "max_keep", policy.max_keep),
    ):
        value = str(annotations.get(name, "1"))
        if name in annotations and not (_SECONDS.fullmatch(value) and int(value) <= cap):
            yield Finding(("metadata", "annotations", name), f"policy.{field} allows {cap} s", value)
    artifacts = str(annotations.get(anatomy.ANNOTATION_ARTIFACTS, "0"))
    if not _COUNT.fullmatch(artifacts):
        yield Finding(("metadata", "annotations", anatomy.ANNOTATION_ARTIFACTS), "this is no number", artifacts)


def _spec(spec: Json, policy: Policy) -> Iterator[Finding]:
    yield from known(("spec",), spec, _SPEC_FIELDS)
    user = anatomy.ROOT_UID if policy.roots_inside else anatomy.JOB_UID
    expected: dict[str, Any] = {
        "serviceAccountName": policy.service_account,
        "enableServiceLinks": False,
        "runtimeClassName": policy.runtime_class or None,
        "hostUsers": False if policy.roots_inside else None,
        "securityContext": {
            "runAsNonRoot": not policy.roots_inside,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    for field, value in expected.items():
        yield from match(("spec", field), spec.get(field), value)
    # Sums of everything that the policy lets take time, each at its longest.
    ending = 2 * policy.grace + policy.after_budget + policy.upload_budget + _MARGIN_SECONDS
    running = policy.checkout_budget + (policy.max_services + 1) * policy.max_timeout + policy.max_keep
    for field, bound in (
        ("terminationGracePeriodSeconds", ending),
        ("activeDeadlineSeconds", ending + running + _MARGIN_SECONDS),
    ):
        if isinstance(spec.get(field), int) and spec[field] > bound:
            yield Finding(("spec", field), f"the policy's times allow {bound} s", spec[field])


def _placement(spec: Json, policy: Policy) -> Iterator[Finding]:
    yield from match(("spec", "nodeSelector"), mapping(spec.get("nodeSelector")), policy.node_selector)
    for index, toleration in enumerate(mappings(spec.get("tolerations"))):
        if toleration not in policy.tolerations:
            yield Finding(("spec", "tolerations", index), "policy.tolerations has no such one", toleration)
    for index, secret in enumerate(mappings(spec.get("imagePullSecrets"))):
        if set(secret) != {"name"} or secret["name"] not in policy.image_pull_secrets:
            yield Finding(("spec", "imagePullSecrets", index), "policy.image_pull_secrets has no such one", secret)
    services = [container.get("name") for _, container in containers(spec) if role_of(container) == SERVICE]
    for index, alias in enumerate(mappings(spec.get("hostAliases"))):
        hosts = alias.get("hostnames")
        are_services = isinstance(hosts, list) and all(host in services for host in hosts)
        if set(alias) != {"ip", "hostnames"} or alias["ip"] != "127.0.0.1" or not are_services:
            yield Finding(("spec", "hostAliases", index), "only services have names, all of them at 127.0.0.1", alias)

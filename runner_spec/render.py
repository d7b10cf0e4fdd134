"""From an admitted job to the manifest of its pod. Pure: equal inputs give equal bytes.

The order of the containers is the order in which the kubelet starts them, and it stops sidecars in reverse:

    services, checkout, upload, run

- Services boot while `checkout` works.
- A container with nothing to do is not rendered: where the shim comes in a volume of its own, `run` may be alone.
- `upload` is the last sidecar, so it is the first to be told that `run` has ended: a service that ignores SIGTERM
  cannot eat the grace period before the artifacts are safe. Starting it after `checkout` costs the same second of the
  kubelet's status loop as before it, and a failed checkout then needs no upload.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from runner_spec import anatomy, names, plan
from runner_spec.admission import Admission, EffectiveJob, Settled
from runner_spec.description import FolderSource, GitSource, JobDescription, Ready
from runner_spec.duration import format_duration
from runner_spec.manifest import mapping, mappings
from runner_spec.pod_check import check_pod
from runner_spec.pod_patch import merge_patch
from runner_spec.policy import Amounts, Policy
from runner_spec.problem import InvalidDescription, InvalidPolicy, Problem
from runner_spec.rules import annotation_problem
from runner_spec.steps import DEFAULTS, Keep, steps_fragment
from runner_spec.volumes import bin_mount, common_mounts, mount, volumes

Manifest = dict[str, Any]  # JSON-pure

# Between the budgets and the kubelet's own deadlines, for signals, status updates and slow disks.
GRACE_MARGIN_SECONDS: Final = 30
DEADLINE_MARGIN_SECONDS: Final = 60
PROBE_PERIOD_SECONDS: Final = 1
PROBE_TIMEOUT_SECONDS: Final = 5
# What a description may change, and a process that `kubectl exec` starts needs as well; see also `steps.DEFAULTS`.
_RUN_DEFAULTS: Final = {"HOME": anatomy.HOME_PATH}
JOB_ID_LIMIT_BYTES: Final = 32 * 1024  # it travels in three annotations, and becomes a variable of the steps
JOB_ID_SHOWN_CHARACTERS: Final = 100  # in a line that people are to copy


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a job: its `number` counts from 1; `worker` is the incarnation that creates the pod."""

    job_id: str
    number: int
    worker: str


def render(admission: Admission, attempt: Attempt) -> Manifest:
    """The pod of one attempt.

    Raises:
        InvalidDescription: when steps and plan do not fit into the pod's annotations, or the job's id is too long.
        InvalidPolicy: when the policy's pod patch made a pod that the policy forbids.
        ValueError: when the attempt's number is not between 1 and 9,999,999,999.
    """
    job, policy = admission.job, admission.policy
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": names.pod_name(attempt.job_id, attempt.number),
            "namespace": policy.namespace,
            "labels": _labels(attempt),
            "annotations": _annotations(job, policy, attempt),
        },
        "spec": _spec(job, policy),
    }
    if policy.pod_patch:
        pod = merge_patch(pod, policy.pod_patch)
        if problems := check_pod(pod, policy):
            raise InvalidPolicy(problems)
    return pod


def manifest_json(pod: Mapping[str, Any]) -> str:
    """The manifest as compact JSON with sorted keys: equal pods give equal bytes."""
    return json.dumps(pod, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def needs_checkout(job: EffectiveJob, policy: Policy) -> bool:
    """Whether `checkout` has anything to do: bring the shim, tell what to mask, fetch, restore, wait for services.

    A service whose readiness is a command is the kubelet's to wait for.
    """
    description = job.description
    waits = any(service.ready and service.ready.command is None for service in description.services)
    work = description.source or description.cache or description.secrets or waits
    return policy.shim_delivery == "copy" or bool(work)


def has_upload(job: EffectiveJob) -> bool:
    """Whether there is something to upload; a container that has nothing to do is not rendered."""
    return bool(job.description.artifacts or job.description.cache)


def grace_period(job: EffectiveJob, policy: Policy) -> int:
    """Seconds from the pod's deletion to its last SIGKILL: steps stopped, `after` run and stopped, upload.

    No longer than this job can need: a service that ignores SIGTERM holds every ending pod for all of it.
    """
    after = policy.after_budget + policy.grace if job.description.after else 0
    upload = policy.upload_budget if has_upload(job) else 0
    return policy.grace + after + upload + GRACE_MARGIN_SECONDS


def deadline(job: EffectiveJob, policy: Policy) -> int:
    """Seconds after which the kubelet itself ends the pod: a backstop, for a shim that failed to keep the timeout.

    The kubelet counts from when it took the pod, before it pulls images: hence the checkout's budget.
    """
    ready = sum(job.ready_timeouts)
    return policy.checkout_budget + ready + job.timeout + job.keep + grace_period(job, policy) + DEADLINE_MARGIN_SECONDS


def _labels(attempt: Attempt) -> dict[str, str]:
    return {
        anatomy.LABEL_MANAGED_BY: anatomy.MANAGED_BY,
        anatomy.LABEL_JOB: names.label_value(attempt.job_id),
        anatomy.LABEL_ATTEMPT: str(attempt.number),
        anatomy.LABEL_WORKER: names.label_value(attempt.worker),
    }


def _annotations(job: EffectiveJob, policy: Policy, attempt: Attempt) -> dict[str, str]:
    job_id = _unicode(attempt.job_id)
    if len(job_id.encode()) > JOB_ID_LIMIT_BYTES:
        message = f"the job's id takes {len(job_id.encode())} bytes; {JOB_ID_LIMIT_BYTES} are allowed"
        raise InvalidDescription([Problem("", message, "", "enqueue the job with a shorter id")])
    description = job.description
    annotations = {
        anatomy.ANNOTATION_JOB: job_id,
        anatomy.ANNOTATION_PLAN: _plan(job, policy, attempt).to_json(),
        anatomy.ANNOTATION_STEPS: steps_fragment(
            description.titled_steps(),
            description.titled_after(),
            timeout=job.timeout,
            grace=policy.grace,
            after_budget=policy.after_budget,
            keep=_keep(job, policy, attempt) if job.keep else None,
            variables=_step_variables(job, policy, attempt),
            defaults=DEFAULTS.keys() - _run_variables(job) - _patched_variables(policy.pod_patch),
        ),
        anatomy.ANNOTATION_CACHE_SCOPE: job.cache_scope,
        anatomy.ANNOTATION_TIMEOUT: str(job.timeout),
        anatomy.ANNOTATION_ARTIFACTS: str(len(description.artifacts)),
    }
    if job.keep:
        annotations[anatomy.ANNOTATION_KEEP] = str(job.keep)
    if policy.allow_debug:
        annotations[anatomy.ANNOTATION_DEBUG] = anatomy.DEBUG_ALLOWED
    # Counted as apimachinery's ValidateAnnotationsSize does: bytes of keys and values.
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if problem := annotation_problem(size):
        raise InvalidDescription([problem])
    return annotations


def _keep(job: EffectiveJob, policy: Policy, attempt: Attempt) -> Keep:
    pod, job_id = names.pod_name(attempt.job_id, attempt.number), _unicode(attempt.job_id)
    shell = f"kubectl exec -it -n {policy.namespace} {pod} -c {anatomy.RUN} -- {anatomy.BIN_PATH}/sh"
    shown = shlex.quote(job_id) if 0 < len(job_id) <= JOB_ID_SHOWN_CHARACTERS else "with this job's id"
    return Keep(job.keep, f"kept for {format_duration(job.keep)}: {shell}; end it with: dynapod cancel {shown}")


def _plan(job: EffectiveJob, policy: Policy, attempt: Attempt) -> plan.Plan:
    description, source = job.description, job.description.source
    git = folder = None
    if isinstance(source, GitSource):
        credentials = source.credentials is not None
        git = plan.GitSource(source.git, source.ref, source.depth, source.submodules, source.lfs, credentials)
    elif isinstance(source, FolderSource):
        folder = plan.FolderSource(source.files)
    return plan.Plan(
        job=_unicode(attempt.job_id),
        attempt=attempt.number,
        git=git,
        folder=folder,
        caches=tuple(plan.CachePlan(cache.key, cache.paths, cache.fallback) for cache in description.cache),
        artifacts=tuple(plan.ArtifactPlan(a.name, a.paths, a.when, a.kind, a.optional) for a in description.artifacts),
        ready=tuple(
            plan.ReadyPlan(service.name, service.ready.tcp, service.ready.http, float(timeout))
            for service, timeout in zip(description.services, job.ready_timeouts, strict=True)
            if service.ready and service.ready.command is None
        ),
        masks=tuple(sorted(description.secrets)),
        upload_budget=float(policy.upload_budget),
        shim=policy.shim_delivery == "copy",
        report_limit=_report_limit(job, policy),
    )


def _report_limit(job: EffectiveJob, policy: Policy) -> int:
    services = len(job.description.services)
    return anatomy.report_limit(services + needs_checkout(job, policy) + has_upload(job) + 1)


def _step_variables(job: EffectiveJob, policy: Policy, attempt: Attempt) -> dict[str, str]:
    """What the steps see that is of this attempt: nothing of it is in the pod's own variables."""
    return {
        # A variable cannot hold NUL; the annotation keeps the exact id.
        anatomy.ENV_JOB: _unicode(attempt.job_id).replace("\0", "\N{REPLACEMENT CHARACTER}"),
        anatomy.ENV_ATTEMPT: str(attempt.number),
        anatomy.ENV_JOB_NAME: job.description.name,
        anatomy.ENV_REPORT_LIMIT: str(_report_limit(job, policy)),
    }


def _run_variables(job: EffectiveJob) -> set[str]:
    """Names of what the description sets in `run`."""
    return {*job.description.env, *job.description.secrets}


def _patched_variables(patch: Mapping[str, Any]) -> set[str]:
    """Names of what the operator's patch sets in `run`. Its shape is not known to be a pod's."""
    found = [item for item in mappings(mapping(patch.get("spec")).get("containers")) if item.get("name") == anatomy.RUN]
    return {str(variable.get("name")) for item in found for variable in mappings(item.get("env"))}


def _spec(job: EffectiveJob, policy: Policy) -> Manifest:
    services = job.description.services
    init = [_service(job, place, policy) for place in range(len(services))]
    if needs_checkout(job, policy):
        init.append(_checkout(job, policy))
    if has_upload(job):
        init.append(_upload(policy))
    spec: Manifest = {
        **({"initContainers": init} if init else {}),
        "containers": [_run(job, policy)],
        "volumes": volumes(job, policy, runner=needs_checkout(job, policy) or has_upload(job)),
        "restartPolicy": "Never",
        "serviceAccountName": policy.service_account,
        "automountServiceAccountToken": False,
        # Variables for every Service of the namespace would leak names, and break jobs by their number.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_period(job, policy),
        "activeDeadlineSeconds": deadline(job, policy),
        "securityContext": _pod_security(policy),
    }
    optional: Manifest = {
        "hostAliases": [{"ip": "127.0.0.1", "hostnames": [service.name for service in services]}] if services else [],
        "nodeSelector": dict(policy.node_selector),
        "tolerations": [dict(toleration) for toleration in policy.tolerations],
        "imagePullSecrets": [{"name": name} for name in policy.image_pull_secrets],
        "runtimeClassName": policy.runtime_class,
    }
    spec |= {field: value for field, value in optional.items() if value}
    if policy.roots_inside:
        spec["hostUsers"] = False
    return spec


def _pod_security(policy: Policy) -> Manifest:
    user = anatomy.ROOT_UID if policy.roots_inside else anatomy.JOB_UID
    return {
        "runAsNonRoot": not policy.roots_inside,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        # Volumes are born empty: walking through them again only costs time.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _security(*, read_only: bool) -> Manifest:
    context: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {**context, "readOnlyRootFilesystem": True} if read_only else context


def _service(job: EffectiveJob, place: int, policy: Policy) -> Manifest:
    service = job.description.services[place]
    container: Manifest = {
        "name": service.name,
        "image": service.image,
        "imagePullPolicy": policy.image_pull_policy,
        "restartPolicy": "Always",
        "resources": _same_resources(job.service_resources[place]),
        "securityContext": _security(read_only=False),
        # A service's last words say why it crashed; it has no report of its own.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # Read-only: services run before and beside checkout. A `.git/config` from them would be obeyed by its git.
        "volumeMounts": [mount("workspace", anatomy.WORKSPACE_PATH, read_only=True)],
    }
    optional: Manifest = {
        "command": [_literal(word) for word in service.command or ()],
        "args": [_literal(word) for word in service.args or ()],
        "env": _env(service.env),
        "startupProbe": _startup_probe(service.ready, job.ready_timeouts[place]),
    }
    return container | {field: value for field, value in optional.items() if value}


def _startup_probe(ready: Ready | None, timeout: int) -> Manifest | None:
    """Only for a command: it has to run inside the service's container. Ports and URLs are checkout's to wait for."""
    if ready is None or ready.command is None:
        return None
    return {
        "exec": {"command": [_literal(word) for word in ready.command]},
        "periodSeconds": PROBE_PERIOD_SECONDS,
        "timeoutSeconds": PROBE_TIMEOUT_SECONDS,
        "failureThreshold": max(1, timeout // PROBE_PERIOD_SECONDS),
    }


def _checkout(job: EffectiveJob, policy: Policy) -> Manifest:
    container = _runner(anatomy.CHECKOUT, policy)
    if policy.shim_delivery == "copy":
        container["volumeMounts"].append(mount("bin", anatomy.BIN_PATH))
    source = job.description.source
    if isinstance(source, GitSource) and source.credentials:
        container["volumeMounts"].append(mount("credentials", anatomy.CREDENTIALS_PATH, read_only=True))
    if isinstance(source, FolderSource):
        container["volumeMounts"].append(mount("source", anatomy.SOURCE_PATH, read_only=True))
    if job.description.secrets:
        container["volumeMounts"].append(mount("secrets", anatomy.SECRETS_PATH, read_only=True))
        container["env"] += _secret_env(job.description, anatomy.ENV_NEEDS)
    return container


def _upload(policy: Policy) -> Manifest:
    return {**_runner(anatomy.UPLOAD, policy), "restartPolicy": "Always"}


def _runner(name: str, policy: Policy) -> Manifest:
    """What `checkout` and `upload` have in common: the runner's image, the identity token, a read-only root."""
    variables = {
        "HOME": anatomy.HOME_PATH,
        anatomy.ENV_GATEWAY: policy.gateway_address,
        **({anatomy.ENV_GATEWAY_NAME: policy.gateway_name} if policy.gateway_name else {}),
    }
    resources = policy.runner_resources
    return {
        "name": name,
        "image": policy.runner_image,
        "imagePullPolicy": policy.image_pull_policy,
        "command": [*policy.runner_command, name],
        "workingDir": anatomy.WORKSPACE_PATH,
        "env": _env(variables),
        "resources": {"requests": _texts(resources.requests), "limits": _texts(resources.limits)},
        "securityContext": _security(read_only=True),
        "terminationMessagePath": anatomy.TERMINATION_LOG_PATH,
        # Without a report (killed, crashed) the last lines of the log tell why.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            *common_mounts(),
            mount("token", anatomy.TOKEN_PATH, read_only=True),
            mount("tmp", "/tmp"),  # noqa: S108 - an emptyDir of this pod: the root file system is read-only
        ],
    }


def _run(job: EffectiveJob, policy: Policy) -> Manifest:
    description = job.description
    variables = _RUN_DEFAULTS | description.env
    plain = {name: value for name, value in variables.items() if name not in description.secrets}
    return {
        "name": anatomy.RUN,
        "image": description.image,
        "imagePullPolicy": policy.image_pull_policy,
        "command": [f"{anatomy.BIN_PATH}/sh", f"{anatomy.BIN_PATH}/shim"],
        "workingDir": anatomy.WORKSPACE_PATH,
        "env": [*_env(plain), *_secret_env(description)],
        "resources": _same_resources(job.resources),
        "securityContext": _security(read_only=False),
        "terminationMessagePath": anatomy.TERMINATION_LOG_PATH,
        # Never from the log: it may hold secrets, and a pod's status is read by many.
        "terminationMessagePolicy": "File",
        "volumeMounts": [*common_mounts(), bin_mount(policy)],
    }


def _env(variables: Mapping[str, str]) -> list[Manifest]:
    """Sorted by name: equal mappings give equal bytes whatever their order."""
    return [{"name": name, "value": _literal(value)} for name, value in sorted(variables.items())]


def _secret_env(description: JobDescription, prefix: str = "") -> list[Manifest]:
    """Variables whose values Kubernetes itself takes from Secrets: no worker ever reads them."""
    return [
        {"name": f"{prefix}{name}", "valueFrom": {"secretKeyRef": {"name": ref.secret, "key": ref.key}}}
        for name, ref in sorted(description.secrets.items())
    ]


def _literal(text: str) -> str:
    """Text that Kubernetes passes on unchanged: it would expand `$(NAME)` and shorten `$$` (forked/expansion)."""
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text


def _same_resources(settled: Settled) -> Manifest:
    amounts = {name: str(amount) for name, amount in settled.items()}
    return {"requests": amounts, "limits": dict(amounts)}


def _texts(amounts: Amounts) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.as_mapping().items()}


def _unicode(text: str) -> str:
    """Text that UTF-8 can encode; lone surrogates, which Redis cannot hold, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()

"""From a pod's status to what is known: it waits, it runs, or it ended, and then how and by whose fault.

Pure. The order of the questions for a pod that has ended, the first answer wins:

1. Is it proven to have succeeded? Phase, `run` and, where there is one, `upload`: all of them, from the status alone.
2. Did somebody ask for its end? Then it was canceled, unless it had failed and was only being kept.
3. Was it interrupted from outside (evicted, preempted, deleted, node lost)? The platform's fault, unless `run` had
   failed before.
4. Did `checkout` fail? Its exit code says whose fault.
5. Did `run` fail? The job's own fault, but for a container that never started or was lost.
6. Did `upload` fail? Its exit code says whose fault.
7. Anything else is not understood, so it is no success: the platform's fault.
"""

from collections.abc import Mapping
from typing import Any

from runner_spec.container_failure import run_failed, runner_failed, upload_failed
from runner_spec.evidence import canceled, failed, succeeded
from runner_spec.interruption import deleted, failed_before, failed_while_kept, find_interruption, lost_while_deleted
from runner_spec.outcome import Fault, Observation, Outcome, Running, Waiting
from runner_spec.pod_status import Pod, State, read_pod
from runner_spec.policy import DEFAULT_POLICY, Policy
from runner_spec.stall import Stall, find_stall


def classify(pod: Mapping[str, Any], now: float, *, policy: Policy = DEFAULT_POLICY, stop: str = "") -> Observation:
    """What a pod's status says at unix time `now`.

    Args:
        pod: the pod as the API gave it.
        now: unix seconds; only decides whether patience has run out.
        policy: how long what may be waited for.
        stop: who asked for the end (stop, cancel), for the message; empty when nobody did.
    """
    seen = read_pod(pod)
    if seen.is_terminal or seen.phase == "Unknown" or seen.reason == "NodeLost":
        return _ended(seen, stop)
    if seen.deadline is not None:
        if now > seen.deadline + policy.node_loss_grace:
            return canceled(seen, stop) if stop else lost_while_deleted(seen, policy)
        return _progress(seen) or Waiting("deleting", "the pod is being deleted")
    found = find_stall(seen, now, policy)
    if isinstance(found, Stall) and found.is_over:
        return canceled(seen, stop) if stop else failed(seen, found.fault, found.reason, found.message)
    if found is not None:
        return Waiting(found.reason, found.message)
    return _progress(seen) or Waiting("starting", "the node prepares the pod")


def classify_deleted(last_pod: Mapping[str, Any] | None, *, stop: str = "") -> Outcome:
    """How an attempt ended whose pod is gone. `last_pod` is the DELETED event's object, or the last status seen.

    None means that the pod was created but never seen: nothing proves anything, so it is the platform's fault.
    """
    if last_pod is None:
        message = "the pod is gone and its status was never seen"
        return canceled(Pod(), stop) if stop else failed(Pod(), Fault.PLATFORM, "pod-missing", message)
    seen = read_pod(last_pod)
    if seen.is_terminal or stop:
        return _ended(seen, stop)
    return failed_while_kept(seen) or failed_before(seen) or find_interruption(seen) or deleted(seen)


# -- a pod that has not ended


def _progress(seen: Pod) -> Running | None:
    run, upload = seen.run, seen.upload
    if run is not None and run.state is State.RUNNING:
        return Running("run")
    if run is not None and run.state is State.TERMINATED:
        return Running("run" if upload is None else "upload")
    if seen.checkout.state in {State.RUNNING, State.TERMINATED}:
        return Running("checkout")
    if any(service.state in {State.RUNNING, State.TERMINATED} for service in seen.services):
        return Running("services")
    return None


# -- a pod that has ended


def _ended(seen: Pod, stop: str) -> Outcome:  # noqa: PLR0911 - one question a line, the first answer wins
    if is_proven(seen):
        return succeeded(seen)
    if (kept := failed_while_kept(seen)) is not None:
        return kept
    if stop:
        return canceled(seen, stop)
    interruption = find_interruption(seen)
    if interruption is not None:
        return failed_before(seen) or interruption
    if seen.checkout.end is not None and not seen.checkout.succeeded:
        return runner_failed(seen, seen.checkout, seen.checkout.end)
    if seen.run is not None and seen.run.end is not None and not seen.run.succeeded:
        return run_failed(seen, seen.run, seen.run.end)
    if seen.upload is not None and not seen.upload.succeeded:
        return upload_failed(seen, seen.upload)
    message = f"the pod ended as {seen.phase or 'unknown'}, but its status does not show that run succeeded"
    return failed(seen, Fault.PLATFORM, "unproven", message)


def is_proven(seen: Pod) -> bool:
    """Whether the status proves success: phase Succeeded, `run` ended with 0, `upload`, if any, ended with 0."""
    if seen.phase != "Succeeded" or seen.run is None or not seen.run.succeeded:
        return False
    if seen.checkout.end is not None and not seen.checkout.succeeded:
        return False  # contradicts the phase: do not guess which of the two is right
    return seen.upload is None or seen.upload.succeeded

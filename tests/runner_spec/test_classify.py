import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_spec.classify import classify, classify_deleted
from runner_spec.outcome import Fault, Observation, Outcome, Running, Verdict, Waiting
from runner_spec.report import CheckoutReport, RunReport, StepReport, UploadReport, to_json
from tests.runner_spec import pods
from tests.runner_spec.descriptions import whole
from tests.runner_spec.pods import Json

NOW = pods.START + 50.0


def seen(pod: Json, now: float = NOW, **asked: str) -> Observation:
    return classify(pod, now, policy=pods.POLICY, **asked)


def ended(pod: Json, now: float = NOW, **asked: str) -> Outcome:
    found = seen(pod, now, **asked)
    assert isinstance(found, Outcome), found
    json.dumps(found.as_dict(), allow_nan=False)
    return found


# -- success


def test_a_pod_with_full_proof_succeeded() -> None:
    outcome = ended(pods.over())
    assert (outcome.verdict, outcome.fault, outcome.reason, outcome.exit_code) == (
        Verdict.SUCCEEDED,
        Fault.NONE,
        "ok",
        0,
    )


def test_a_pod_without_upload_needs_none() -> None:
    pod = pods.bound(pods.simple_pod())
    pods.ends(pod, "checkout", 0, 2, 3)
    pods.ends(pod, "run", 0, 4, 9)
    pod["status"]["phase"] = "Succeeded"
    assert ended(pod).verdict is Verdict.SUCCEEDED


def test_success_before_a_stop_took_effect_stays_success() -> None:
    assert ended(pods.over(), stop="ann").verdict is Verdict.SUCCEEDED


def test_success_of_a_pod_that_was_then_deleted_stays_success() -> None:
    assert ended(pods.deleted(pods.over(), 47)).verdict is Verdict.SUCCEEDED
    assert classify_deleted(pods.deleted(pods.over(), 47)).verdict is Verdict.SUCCEEDED


def test_a_message_is_no_proof() -> None:
    forged = to_json(RunReport("ok", (StepReport("test", 0, 1.0),)))
    assert ended(pods.over(3, message=forged)).verdict is Verdict.FAILED
    pod = pods.over()
    pods.ends(pod, "upload", 1, 11, 45, message=to_json(UploadReport("ok")))
    assert ended(pod).verdict is Verdict.FAILED


def _without(path: tuple[str | int, ...]) -> Callable[[Json], None]:
    def remove(pod: Json) -> None:
        found: Any = pod
        for part in path[:-1]:
            found = found[part]
        del found[path[-1]]

    return remove


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["status"].update(phase="Running"),
        lambda pod: pod["status"].update(phase="Failed"),
        lambda pod: pod["status"].update(phase="succeeded"),
        lambda pod: pod["status"].update(containerStatuses=[]),
        lambda pod: pod["status"].update(initContainerStatuses=[]),
        lambda pod: pods.runs(pod, "run", 12),
        lambda pod: pods.runs(pod, "upload", 11),
        lambda pod: pods.waits(pod, "upload", "PodInitializing"),
        lambda pod: pods.ends(pod, "run", 1, 12, 40),
        lambda pod: pods.ends(pod, "upload", 137, 11, 45),
        lambda pod: pods.ends(pod, "checkout", 1, 3, 10),
        lambda pod: pods.status_of(pod, "run")["state"]["terminated"].update(exitCode="0"),
        lambda pod: pods.status_of(pod, "run")["state"]["terminated"].update(exitCode=False),
        lambda pod: pods.status_of(pod, "run")["state"]["terminated"].update(exitCode=0.0),
        lambda pod: pods.status_of(pod, "run")["state"]["terminated"].pop("exitCode"),
        lambda pod: pods.status_of(pod, "upload")["state"]["terminated"].update(reason="ContainerStatusUnknown"),
        lambda pod: pod["spec"].update(containers=[]),
        _without(("status",)),
        _without(("spec",)),
    ],
)
def test_less_than_full_proof_is_never_success(change: Callable[[Json], object]) -> None:
    pod = pods.over()
    assert ended(pod).verdict is Verdict.SUCCEEDED
    change(pod)
    found = seen(pod)
    assert not (isinstance(found, Outcome) and found.verdict is Verdict.SUCCEEDED)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, inner in items for leaf in _leaves(inner, (*path, key)))]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["", "Succeeded", "Failed", "Unknown", "run", "upload", "0", "\ud800", "Completed"]),
    st.text(max_size=5),
    st.lists(st.none(), max_size=2),
    st.dictionaries(st.sampled_from(["name", "state", "terminated", "exitCode"]), st.integers(-1, 1), max_size=2),
)
PROVEN = pods.over()
PLACES = [path for path in _leaves(PROVEN) if path and path[0] in {"status", "spec", "metadata"}]


def _proven(pod: Any) -> bool:
    """An independent, literal reading of the rule."""
    status = pod.get("status")
    if not isinstance(status, dict) or status.get("phase") != "Succeeded":
        return False
    return all(_code(status.get(key), name) == [0] for key, name in PROOFS)


PROOFS = (("containerStatuses", "run"), ("initContainerStatuses", "upload"))


def _code(statuses: Any, name: str) -> list[int]:
    found = [status for status in statuses if isinstance(status, dict) and status.get("name") == name]
    codes = [status["state"]["terminated"]["exitCode"] for status in found]
    return [code for code in codes if type(code) is int]


@settings(max_examples=max(400, settings().max_examples))
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.one_of(JUNK, st.just("DELETE"))), min_size=1, max_size=4))
def test_no_damaged_status_is_success_without_full_proof(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    pod = copy.deepcopy(PROVEN)
    for path, junk in changes:
        found: Any = pod
        try:
            for part in path[:-1]:
                found = found[part]
            if junk == "DELETE":
                del found[path[-1]]
            else:
                found[path[-1]] = junk
        except (KeyError, IndexError, TypeError):
            continue
    observed = classify(pod, NOW)
    if isinstance(observed, Outcome) and observed.verdict is Verdict.SUCCEEDED:
        named_nowhere = '"upload"' not in json.dumps([pod["spec"], pod["status"]], default=repr)
        assert _proven(pod) or named_nowhere
    assert classify_deleted(pod).verdict in Verdict


@given(
    pod=st.recursive(
        JUNK, lambda inner: st.dictionaries(st.sampled_from(["metadata", "spec", "status", "phase"]), inner)
    )
)
def test_junk_is_neither_an_exception_nor_success(pod: Any) -> None:
    observed = classify(pod, NOW)
    assert not (isinstance(observed, Outcome) and observed.verdict is Verdict.SUCCEEDED)


# -- failures: verdict, fault, reason and the evidence in the message

RUN_REPORT = to_json(RunReport("step", (StepReport("install", 0, 2.0), StepReport("unit tests", 3, 9.0))))
KILLED_STEP = to_json(RunReport("step", (StepReport("unit tests", 137, 9.0),)))
TOLD = to_json(RunReport("canceled", (StepReport("unit tests", 143, 9.0),), "canceled by SIGTERM"))
OOM = "OOMKilled"


def _ended_simple(code: int, since: float, until: float, reason: str = "") -> Json:
    pod = pods.bound(pods.simple_pod())
    pods.ends(pod, "checkout", 0, 2, 3)
    pods.ends(pod, "run", code, since, until, reason=reason)
    pod["status"]["phase"] = "Failed"
    return pod


def _upload_ended(code: int, message: str = "", reason: str = "") -> Json:
    return pods.ends(pods.over(), "upload", code, 11, 45, message=message, reason=reason)


def _rejected_by_kubelet(reason: str, message: str) -> Json:
    pod = pods.new_pod()
    pod["spec"]["nodeName"] = "node-7"
    return pods.failed_as(pod, reason, message)


def _lost_container(name: str) -> Json:
    pod = pods.over(137)
    message = "The container could not be located when the pod was terminated"
    end = {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": message,
        "startedAt": None,
        "finishedAt": None,
    }
    pods.status_of(pod, name)["state"] = {"terminated": end}
    return pod


def _service_crashed() -> Json:
    pod = pods.over(1)
    return pods.restarted(pod, "db", 2, pods.terminated(137, 2, 20, reason=OOM))


TRACEBACK = "Traceback\nKeyError: 'x'"
REPORT_REF = to_json(CheckoutReport("ref-not-found", "the ref 'mian' does not exist; the remote has main, dev"))
REPORT_NETWORK = to_json(CheckoutReport("network", "git.example did not answer 3 times"))
REPORT_MISSING = to_json(UploadReport("missing-artifact", "wheel: no file matches dist/*.whl"))
REPORT_GATEWAY = to_json(UploadReport("gateway", "the gateway did not answer"))
PRESSURE = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi."
DISK = "Pod ephemeral local storage usage exceeds the total limit of containers 5Gi. "
EMPTY_DIR = 'Usage of EmptyDir volume "workspace" exceeds the limit "1Gi". '
SHUTDOWN = "Pod was terminated in response to imminent node shutdown."

ENDS: list[tuple[str, Json, Fault, str, int | None, str]] = [
    ("exit code", pods.over(3, message=RUN_REPORT), Fault.JOB, "exit", 3, "step unit tests ended with exit code 3"),
    ("exit code without report", pods.over(2), Fault.JOB, "exit", 2, "run ended with exit code 2"),
    ("exit 124 before the timeout", _ended_simple(124, 4, 63), Fault.JOB, "exit", 124, "exit code 124"),
    ("exit 124 after the timeout", _ended_simple(124, 4, 64), Fault.JOB, "timeout", 124, "timeout of 60 s"),
    ("SIGSEGV", pods.over(139), Fault.JOB, "signal", 139, "SIGSEGV"),
    ("SIGKILL of a step", pods.over(137, message=KILLED_STEP), Fault.JOB, "signal", 137, "tests was killed by SIGKILL"),
    ("SIGKILL of the shim", pods.over(137), Fault.PLATFORM, "run-killed", 137, "killed from outside"),
    (
        "SIGTERM of the shim",
        pods.over(143, message=TOLD),
        Fault.PLATFORM,
        "run-killed",
        143,
        "told to stop from outside",
    ),
    ("SIGTERM from nobody known", pods.over(143), Fault.JOB, "signal", 143, "SIGTERM"),
    ("exit 255", pods.over(255), Fault.JOB, "exit", 255, "exit code 255"),
    ("out of memory", pods.over(137, reason=OOM), Fault.JOB, "oom", 137, "memory limit of 1Gi"),
    ("a child out of memory", pods.over(1, reason=OOM), Fault.JOB, "oom", 1, "memory limit of 1Gi"),
    ("crashed service", _service_crashed(), Fault.JOB, "exit", 1, "db (exit code 137, out of memory, restarted twice)"),
    ("missing ref", pods.failed_checkout(1, REPORT_REF), Fault.JOB, "ref-not-found", 1, "'mian' does not exist"),
    ("git away", pods.failed_checkout(75, REPORT_NETWORK), Fault.PLATFORM, "network", 75, "did not answer 3 times"),
    ("checkout, no report", pods.failed_checkout(1, TRACEBACK), Fault.PLATFORM, "checkout-crashed", 1, "KeyError"),
    ("checkout out of memory", pods.failed_checkout(137, "", OOM), Fault.PLATFORM, "oom", 137, "runner_resources"),
    ("checkout killed", pods.failed_checkout(137), Fault.PLATFORM, "checkout-killed", 137, "checkout was killed"),
    ("checkout crashed", pods.failed_checkout(2), Fault.PLATFORM, "checkout-crashed", 2, "exit code 2"),
    ("missing artifact", _upload_ended(1, REPORT_MISSING), Fault.JOB, "missing-artifact", 1, "dist/*.whl"),
    ("gateway away", _upload_ended(75, REPORT_GATEWAY), Fault.PLATFORM, "gateway", 75, "did not answer"),
    ("upload killed", _upload_ended(137), Fault.PLATFORM, "upload-killed", 137, "upload was killed"),
    ("upload out of memory", _upload_ended(137, "", OOM), Fault.PLATFORM, "oom", 137, "upload used more"),
    (
        "upload silent",
        pods.waits(pods.over(), "upload", "CrashLoopBackOff"),
        Fault.PLATFORM,
        "upload-unconfirmed",
        None,
        "upload",
    ),
    ("run and upload failed", pods.over(3, upload=1), Fault.JOB, "exit", 3, "exit code 3"),
    ("run lost", _lost_container("run"), Fault.PLATFORM, "container-lost", None, "lost the run container"),
    (
        "shim cannot start",
        pods.over(128, reason="StartError", message="exec format error"),
        Fault.PLATFORM,
        "start-error",
        128,
        "exec format error",
    ),
    (
        "node pressure",
        pods.disrupted(pods.failed_as(pods.over(137), "Evicted", PRESSURE), "TerminationByKubelet", PRESSURE, 30),
        Fault.PLATFORM,
        "evicted",
        None,
        "low on resource: memory",
    ),
    (
        "own disk limit",
        pods.failed_as(pods.over(137), "Evicted", DISK),
        Fault.JOB,
        "storage-limit",
        None,
        "limit of containers 5Gi",
    ),
    (
        "own volume limit",
        pods.failed_as(pods.over(137), "Evicted", EMPTY_DIR),
        Fault.JOB,
        "storage-limit",
        None,
        "workspace",
    ),
    (
        "evicted, no condition",
        pods.failed_as(pods.over(137), "Evicted", PRESSURE),
        Fault.PLATFORM,
        "evicted",
        None,
        "low on resource",
    ),
    (
        "preempted",
        pods.disrupted(
            pods.deleted(pods.over(143), 30),
            "PreemptionByScheduler",
            "default-scheduler: preempting to accommodate",
            30,
        ),
        Fault.PLATFORM,
        "preempted",
        None,
        "higher priority",
    ),
    (
        "preempted by the kubelet",
        pods.failed_as(pods.over(137), "Preempting", "Preempted in order to admit critical pod"),
        Fault.PLATFORM,
        "preempted",
        None,
        "admit critical pod",
    ),
    (
        "drained",
        pods.disrupted(pods.deleted(pods.over(143), 30), "EvictionByEvictionAPI", "Eviction API: evicting", 30),
        Fault.PLATFORM,
        "evicted",
        None,
        "drained",
    ),
    (
        "taint manager",
        pods.disrupted(
            pods.deleted(pods.over(143), 30),
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            30,
        ),
        Fault.PLATFORM,
        "node-lost",
        None,
        "NoExecute taint",
    ),
    (
        "node gone",
        pods.disrupted(pods.over(137), "DeletionByPodGC", "PodGC: node no longer exists", 30),
        Fault.PLATFORM,
        "node-lost",
        None,
        "no longer exists",
    ),
    (
        "node shutdown",
        pods.failed_as(pods.over(143), "Terminated", SHUTDOWN),
        Fault.PLATFORM,
        "node-shutdown",
        None,
        "imminent node shutdown",
    ),
    (
        "node lost",
        pods.failed_as(pods.running(), "NodeLost", "Node node-7 which was running pod is unresponsive"),
        Fault.PLATFORM,
        "node-lost",
        None,
        "unresponsive",
    ),
    (
        "out of cpu",
        _rejected_by_kubelet("OutOfcpu", "Node didn't have enough resource: cpu"),
        Fault.PLATFORM,
        "node-refused",
        None,
        "enough resource: cpu",
    ),
    (
        "admission error",
        _rejected_by_kubelet("UnexpectedAdmissionError", "Allocate failed"),
        Fault.PLATFORM,
        "node-refused",
        None,
        "Allocate failed",
    ),
    ("deleted by somebody", pods.deleted(pods.over(143), 30), Fault.PLATFORM, "pod-deleted", None, "somebody deleted"),
    ("failed before it was deleted", pods.deleted(pods.over(3), 41), Fault.JOB, "exit", 3, "exit code 3"),
    (
        "deadline in checkout",
        pods.failed_as(
            pods.failed_checkout(137),
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        ),
        Fault.PLATFORM,
        "deadline",
        None,
        "in checkout",
    ),
    (
        "deadline after the timeout",
        pods.failed_as(
            _ended_simple(137, 4, 700),
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        ),
        Fault.JOB,
        "timeout",
        137,
        "timeout of 60 s",
    ),
    (
        "nothing known",
        {"metadata": {}, "spec": {}, "status": {"phase": "Failed"}},
        Fault.PLATFORM,
        "unproven",
        None,
        "Failed",
    ),
]


@pytest.mark.parametrize(
    ("pod", "fault", "reason", "code", "words"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS]
)
def test_a_failure_is_told_with_its_fault_and_evidence(
    pod: Json, fault: Fault, reason: str, code: int | None, words: str
) -> None:
    outcome = ended(pod)
    assert (outcome.verdict, outcome.fault, outcome.reason, outcome.exit_code) == (Verdict.FAILED, fault, reason, code)
    assert words in outcome.message
    assert "\n" not in outcome.message
    assert len(json.dumps(outcome.as_dict())) < 8192


@pytest.mark.parametrize("pod", [end[1] for end in ENDS], ids=[end[0] for end in ENDS])
def test_only_a_caller_that_knows_of_a_stop_makes_it_canceled(pod: Json) -> None:
    outcome = ended(pod, stop="ann")
    assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.CANCELED, Fault.USER, "canceled")
    assert "ann" in outcome.message


def test_evidence_names_pod_node_and_every_container() -> None:
    evidence = ended(pods.over(137, reason=OOM)).evidence
    assert evidence["node"] == "node-7"
    assert evidence["containers"]["run"] | {"state": "terminated"} == evidence["containers"]["run"]
    assert evidence["containers"]["run"]["reason"] == OOM
    assert set(evidence["containers"]) == {"db", "checkout", "upload", "run"}


# -- pods that have not ended


@pytest.mark.parametrize(
    ("pod", "stage"),
    [
        (pods.runs(pods.bound(pods.new_pod()), "db", 2), "services"),
        (pods.runs(pods.runs(pods.bound(pods.new_pod()), "db", 2), "checkout", 3), "checkout"),
        (pods.checked_out(), "checkout"),
        (pods.running(), "run"),
        (pods.ends(pods.running(), "run", 0, 12, 40), "upload"),
        (pods.deleted(pods.running(), 45), "run"),
    ],
)
def test_a_living_pod_shows_its_stage(pod: Json, stage: str) -> None:
    assert seen(pod) == Running(stage)


def _unschedulable() -> Json:
    pod = pods.new_pod()
    message = "0/3 nodes are available: 3 Insufficient memory."
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": pods.at(0),
        }
    ]
    return pod


def _pulling(name: str, reason: str, message: str) -> Json:
    pod = pods.checked_out() if name == "run" else pods.bound(pods.new_pod())
    return pods.waits(pod, name, reason, message)


NOT_FOUND = (
    'failed to pull and unpack image "r.example/nope:1": failed to resolve reference: r.example/nope:1: not found'
)
TIMEOUT = 'failed to pull image "python:3.12": dial tcp 10.1.2.3:443: i/o timeout'
LATE = pods.START + 7 * 3600.0
WAITS: list[tuple[str, Json, str, str, Fault, str]] = [
    ("unscheduled", pods.new_pod(), "pending", "scheduler", Fault.PLATFORM, "pending"),
    ("unschedulable", _unschedulable(), "unschedulable", "3 Insufficient memory", Fault.PLATFORM, "unschedulable"),
    ("no sandbox yet", pods.bound(pods.new_pod()), "sandbox", "sandbox", Fault.PLATFORM, "sandbox"),
    ("image not found", _pulling("run", "ErrImagePull", NOT_FOUND), "image", "not found", Fault.JOB, "image"),
    ("registry away", _pulling("run", "ImagePullBackOff", TIMEOUT), "image", "i/o timeout", Fault.PLATFORM, "image"),
    (
        "runner's image not found",
        _pulling("checkout", "ErrImagePull", NOT_FOUND),
        "image",
        "not found",
        Fault.PLATFORM,
        "image",
    ),
    (
        "never pulled",
        _pulling("run", "ErrImageNeverPull", "image is not present"),
        "image",
        "present",
        Fault.PLATFORM,
        "image",
    ),
    (
        "missing Secret",
        _pulling("run", "CreateContainerConfigError", 'secret "npm" not found'),
        "config",
        'secret "npm" not found',
        Fault.JOB,
        "config",
    ),
    (
        "no command",
        _pulling("db", "CreateContainerError", "no command specified"),
        "start-error",
        "no command",
        Fault.JOB,
        "start-error",
    ),
    (
        "runtime trouble",
        _pulling("run", "CreateContainerError", "context deadline exceeded"),
        "start-error",
        "deadline",
        Fault.PLATFORM,
        "start-error",
    ),
]


@pytest.mark.parametrize(
    ("pod", "reason", "words", "fault", "final"), [wait[1:] for wait in WAITS], ids=[wait[0] for wait in WAITS]
)
def test_what_holds_a_pod_up_is_waited_for_and_then_an_end(
    pod: Json, reason: str, words: str, fault: Fault, final: str
) -> None:
    waiting = seen(pod, pods.START + 15)
    assert isinstance(waiting, Waiting)
    assert waiting.reason == reason
    assert words in waiting.why
    outcome = ended(pod, LATE)
    assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.FAILED, fault, final)
    assert ended(pod, LATE, stop="ann").verdict is Verdict.CANCELED


def test_the_grace_for_an_image_begins_when_its_turn_came() -> None:
    pod = _pulling("run", "ErrImagePull", NOT_FOUND)  # upload, before it, started at 11 s
    assert isinstance(seen(pod, pods.START + 11 + 120), Waiting)
    assert isinstance(seen(pod, pods.START + 11 + 121), Outcome)


def test_an_invalid_image_name_is_not_waited_for() -> None:
    outcome = ended(_pulling("db", "InvalidImageName", "couldn't parse image name"), pods.START + 2.0)
    assert (outcome.fault, outcome.reason) == (Fault.JOB, "image")


def test_a_service_that_keeps_crashing_is_the_jobs_fault_after_three_restarts() -> None:
    pod = pods.waits(pods.bound(pods.new_pod()), "db", "CrashLoopBackOff", "back-off 20s restarting failed container")
    end = pods.terminated(1, 2, 3, message="FATAL: no password")
    assert isinstance(seen(pods.restarted(pod, "db", 2, end)), Waiting)
    outcome = ended(pods.restarted(pod, "db", 3, end))
    assert (outcome.fault, outcome.reason) == (Fault.JOB, "service")
    assert outcome.message == "service db keeps crashing (exit code 1)"  # the log's end is not masked in a status


def test_a_service_that_outlasts_its_startup_probe_is_not_ready() -> None:
    description = whole(services=[{"name": "db", "image": "a", "ready": {"command": ["true"], "timeout": "20s"}}])
    pod = pods.runs(pods.bound(pods.new_pod(description)), "db", 32)
    pods.restarted(pod, "db", 1, pods.terminated(137, 2, 30))
    pods.status_of(pod, "db")["started"] = False
    outcome = ended(pod)
    assert (outcome.fault, outcome.reason) == (Fault.JOB, "service")
    assert "not ready within 20 s" in outcome.message


def test_a_service_that_crashes_while_the_steps_run_ends_nothing() -> None:
    pod = pods.restarted(pods.running(), "db", 9, pods.terminated(1, 2, 3))
    assert seen(pod) == Running("run")


def test_a_deleted_pod_whose_node_is_silent_is_lost_after_a_grace() -> None:
    pod = pods.deleted(pods.running(), 45, grace=30)
    assert isinstance(seen(pod, pods.START + 75 + 300), Running)
    outcome = ended(pod, pods.START + 75 + 301)
    assert (outcome.fault, outcome.reason) == (Fault.PLATFORM, "node-lost")


# -- pods that are gone


def test_a_vanished_pod_is_never_success() -> None:
    assert classify_deleted(None).reason == "pod-missing"
    assert classify_deleted(None).fault is Fault.PLATFORM
    assert classify_deleted(pods.ends(pods.running(), "run", 0, 12, 40)).reason == "pod-deleted"
    assert classify_deleted(pods.new_pod()).reason == "pod-deleted"


def test_a_vanished_pod_that_was_to_stop_is_canceled() -> None:
    for pod in (None, pods.new_pod(), pods.running(), pods.deleted(pods.over(143), 30)):
        assert classify_deleted(pod, stop="ann").verdict is Verdict.CANCELED


def test_a_vanished_pod_is_explained_by_its_last_status() -> None:
    preempted = pods.disrupted(pods.deleted(pods.running(), 30), "PreemptionByScheduler", "higher", 30)
    assert classify_deleted(preempted).reason == "preempted"
    assert classify_deleted(pods.over(3)).reason == "exit"
    assert classify_deleted(pods.deleted(pods.ends(pods.running(), "run", 3, 12, 40), 42)).reason == "exit"


def test_a_shim_that_failed_itself_is_the_platforms_fault() -> None:
    said = to_json(RunReport(reason="shim", message="no space left on the state volume"))
    outcome = ended(pods.over(125, message=said))
    assert (outcome.fault, outcome.reason) == (Fault.PLATFORM, "shim")
    assert "no space left" in outcome.message
    assert ended(pods.over(125)).fault is Fault.JOB

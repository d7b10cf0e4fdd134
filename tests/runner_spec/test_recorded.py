"""What real pods looked like when they waited and when they ended, and what is said about each.

`recorded/` holds one file for each end, with how it was provoked; `python -m tests.runner_spec.record` makes them. The
table below has a row for each, and for each object in it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner_spec.classify import classify, classify_deleted
from runner_spec.outcome import Fault, Observation, Outcome, Running, Verdict, Waiting
from runner_spec.policy import parse_policy
from runner_spec.refusal import Answer, read_answer, refusal_outcome
from runner_spec.result import job_result

RECORDED = Path(__file__).parent / "recorded"
POLICY = parse_policy({})
NEVER = 10**9  # seconds after the recording, when all patience is over
JOB, PLATFORM = Fault.JOB, Fault.PLATFORM


@dataclass(frozen=True)
class Ends:
    """A failure: whose fault, the stable reason, the exit code, words of the message."""

    fault: Fault
    reason: str
    code: int | None
    words: str


@dataclass(frozen=True)
class Waits:
    """Something to wait for, its words, and whose fault it is in the end (under another reason, maybe).

    `by_clock`: patience is a time; otherwise it is a number of restarts.
    """

    reason: str
    words: str
    fault: Fault
    final: str = ""
    by_clock: bool = True


@dataclass(frozen=True)
class Goes:
    """A stage that is on its way."""

    stage: str


@dataclass(frozen=True)
class Refused:
    """What the API server's refusal means, and its words."""

    answer: Answer
    words: str


GREEN = Ends(Fault.NONE, "ok", 0, "all steps succeeded")
DELETED = Ends(PLATFORM, "pod-deleted", None, "somebody deleted the pod")
FAILED_FIRST = Ends(JOB, "exit", 3, "step step-1 ended with exit code 3")
UNREADY_FIRST = Ends(JOB, "service", 1, "service 'db' is not ready on port 5432 within 3 s")
MISSING_FIRST = Ends(JOB, "missing-artifact", 1, "no file matches note.txt")
EVICTED = Ends(PLATFORM, "evicted", None, "evicted through the API")
PREEMPTED = Ends(PLATFORM, "preempted", None, "a pod of higher priority took its place")
TAINTED = Ends(PLATFORM, "node-lost", None, "deleting due to NoExecute taint")
NODE_GONE = Ends(PLATFORM, "node-lost", None, "PodGC: node no longer exists")
NO_REGISTRY = "dial tcp 127.0.0.1:443: connect: connection refused"
NO_SANDBOX = Waits("starting", "the node prepares the pod", PLATFORM, "sandbox")
CRASHING = "service db keeps crashing (exit code 7)"
NO_PROGRAM = 'exec: "/nothing/here": stat /nothing/here: no such file or directory'
MISSING_SECRET = "create it, or correct its name in the description"

TABLE: dict[str, list[Ends | Waits | Goes | Refused]] = {
    # the job's own ends
    "success": [GREEN],
    "exit-code": [Ends(JOB, "exit", 3, "step step-2 ended with exit code 3")],
    "signal": [Ends(JOB, "signal", 139, "step step-1 was killed by SIGSEGV")],
    "oom-run": [Ends(JOB, "oom", 137, "run used more than its memory limit of 64Mi")],
    "oom-survived": [GREEN],  # a child was killed, and its step went on to end with 0: the job's own decision
    "oom-service": [Ends(JOB, "exit", 1, "db (exit code 137, out of memory, restarted once)")],
    "oom-checkout": [Ends(PLATFORM, "oom", 137, "checkout used more than its memory limit of 8Mi")],
    "oom-upload": [Ends(PLATFORM, "oom", 143, "upload used more than its memory limit of 32Mi")],
    "oom-at-start": [Ends(JOB, "oom", 128, "the memory limit of 1Mi is too small even to start run")],
    "timeout": [Ends(JOB, "timeout", 124, "the steps took longer than the timeout of 3 s")],
    "deadline-run": [Ends(PLATFORM, "deadline", None, "in run")],
    "deadline-checkout": [Ends(PLATFORM, "deadline", None, "in checkout")],
    "missing-artifact": [Ends(JOB, "missing-artifact", 1, "no file matches note.txt")],
    "gateway-away": [Ends(PLATFORM, "gateway", 75, "the gateway at http://127.0.0.1:9 is away")],
    "git-away": [Ends(PLATFORM, "network", 75, "Failed to connect to 127.0.0.1 port 9")],
    "runner-missing": [Ends(PLATFORM, "checkout-crashed", 1, "No module named runner")],
    "runner-no-program": [Ends(PLATFORM, "start-error", 128, NO_PROGRAM)],
    "run-no-program": [Ends(PLATFORM, "start-error", 128, NO_PROGRAM)],
    # deleted, evicted, refused by the node
    "deleted-running": [DELETED, DELETED],
    "deleted-by-force": [DELETED],
    "deleted-after-failure": [FAILED_FIRST, FAILED_FIRST],
    "deleted-after-checkout": [UNREADY_FIRST, UNREADY_FIRST],
    "deleted-after-upload": [MISSING_FIRST, MISSING_FIRST],
    "deleted-pending": [DELETED],
    "evicted-size-limit": [Ends(JOB, "storage-limit", None, 'EmptyDir volume "workspace" exceeds the limit "4Mi"')],
    "evicted-storage-limit": [Ends(JOB, "storage-limit", None, 'exceeded its local ephemeral storage limit "4Mi"')],
    "evicted-api": [EVICTED, EVICTED],
    "node-refused-cpu": [Ends(PLATFORM, "node-refused", None, "OutOfcpu")],
    "node-refused-affinity": [Ends(PLATFORM, "node-refused", None, "NodeAffinity")],
    "preempted": [PREEMPTED, PREEMPTED],
    "tainted": [TAINTED, TAINTED],
    "node-lost": [Goes("run"), NODE_GONE],
    "node-deleted": [NODE_GONE],
    "node-rebooted": [Ends(PLATFORM, "run-killed", 137, "killed from outside the job")],
    "node-crashed": [Ends(PLATFORM, "container-lost", None, "the node lost the run container")],
    # waiting
    "image-misspelt": [Waits("image", NO_REGISTRY, PLATFORM), Waits("image", NO_REGISTRY, PLATFORM)],
    "image-unknown": [Waits("image", "not found", JOB), Waits("image", "not found", JOB)],
    "image-registry-away": [Waits("image", "no such host", PLATFORM), Waits("image", "no such host", PLATFORM)],
    "image-of-a-service": [Waits("image", NO_REGISTRY, PLATFORM), Waits("image", NO_REGISTRY, PLATFORM)],
    "image-of-the-runner": [Waits("image", NO_REGISTRY, PLATFORM), Waits("image", NO_REGISTRY, PLATFORM)],
    "image-never-pulled": [Waits("image", "is not present with pull policy of Never", PLATFORM)],
    "image-invalid-name": [Ends(JOB, "image", None, "repository name (A) must be lowercase")],
    "image-recovers": [Waits("image", "not found", JOB), Goes("run"), GREEN],
    "secret-missing": [Waits("config", 'secret "npm" not found; ' + MISSING_SECRET, JOB)],
    "secret-comes": [Waits("config", 'secret "late" not found; ' + MISSING_SECRET, JOB), GREEN],
    "secret-key-missing": [Waits("config", "couldn't find key token in Secret", JOB)],
    "secret-volume-missing": [NO_SANDBOX],
    "config-map-missing": [Waits("config", 'configmap "no-such-map" not found', PLATFORM)],
    "config-map-volume-missing": [NO_SANDBOX],
    "sandbox-failed": [NO_SANDBOX],
    "unschedulable": [Waits("unschedulable", "1 node(s) didn't match Pod's node affinity/selector", PLATFORM)],
    "unschedulable-memory": [Waits("unschedulable", "Insufficient memory", PLATFORM)],
    "upload-crash": [
        Waits("upload-crashed", NO_PROGRAM, PLATFORM, by_clock=False),
        Ends(PLATFORM, "upload-crashed", None, f"upload cannot be started: {NO_PROGRAM}"),
    ],
    # services
    "service-crash-at-start": [Waits("service", CRASHING, JOB, by_clock=False), Ends(JOB, "service", None, CRASHING)],
    "service-crash-command": [
        Goes("services"),
        Waits("service", CRASHING, JOB, by_clock=False),
        Ends(JOB, "service", None, CRASHING),
    ],
    "service-crash-tcp": [Goes("checkout"), Ends(JOB, "service", 1, "db (exit code 7, restarted twice)")],
    "service-crash-noticed": [Ends(JOB, "exit", 1, "services crashed meanwhile: db (exit code 7, restarted once)")],
    "service-crash-unnoticed": [GREEN],
    "service-crash-backing-off": [Goes("run"), Ends(JOB, "exit", 1, "db (exit code 7, restarted twice)")],
    "service-never-ready-tcp": [Ends(JOB, "service", 1, "service 'db' is not ready on port 5432 within 3 s")],
    "service-never-ready-http": [Ends(JOB, "service", 1, "HTTP status 404")],
    "service-never-ready-command": [
        Waits("service", "service db is to become ready within 3 s", JOB),
        Ends(JOB, "service", None, "service db was not ready within 3 s: its readiness command did not succeed"),
    ],
    "service-no-program": [
        Waits("service", f"service db cannot be started: {NO_PROGRAM}", JOB, by_clock=False),
        Ends(JOB, "service", None, NO_PROGRAM),
    ],
    # refused by the API server
    "quota": [Refused(Answer.FULL, "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0")],
    "pod-security": [Refused(Answer.REJECTED, 'violates PodSecurity "restricted:latest"')],
    "limit-range": [Refused(Answer.REJECTED, "maximum memory usage per Container is 32Mi")],
    "admission-policy": [Refused(Answer.REJECTED, "denied request: every pod names its team")],
    "webhook-away": [Refused(Answer.LATER, 'failed calling webhook "pods.example.com"')],
    "no-service-account": [Refused(Answer.BROKEN, 'serviceaccount "nobody" not found')],
    "no-priority-class": [Refused(Answer.BROKEN, "no PriorityClass with name nobody")],
    "no-namespace": [Refused(Answer.BROKEN, 'namespaces "no-such-namespace" not found')],
    "namespace-terminating": [Refused(Answer.BROKEN, "because it is being terminated")],
}
# The only ends that are green: proven by the status, whatever else happened on the way.
SUCCESSES = {"success", "oom-survived", "image-recovers", "secret-comes", "service-crash-unnoticed"}


def load(name: str) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = json.loads((RECORDED / f"{name}.json").read_text())["seen"]
    return seen


def judged(seen: dict[str, Any], *, later: float = 0.0) -> Observation:
    if seen["event"] == "DELETED":
        return classify_deleted(seen["pod"])
    return classify(seen["pod"], seen["at"] + later, policy=POLICY)


ROWS = [(name, place, expected) for name, row in TABLE.items() for place, expected in enumerate(row)]


def test_every_recording_has_its_row() -> None:
    recorded = {path.stem: len(load(path.stem)) for path in RECORDED.glob("*.json")}
    assert recorded == {name: len(row) for name, row in TABLE.items()}


@pytest.mark.parametrize(("name", "place", "expected"), ROWS, ids=[f"{name} {place}" for name, place, _ in ROWS])
def test_a_recorded_status_is_told_truthfully(name: str, place: int, expected: Ends | Waits | Goes | Refused) -> None:
    seen = load(name)[place]
    if isinstance(expected, Refused):
        refused = seen["refused"]
        assert read_answer(refused["code"], refused["message"]) is expected.answer
        assert expected.words in refused["message"]
        return
    observed = judged(seen)
    if isinstance(expected, Goes):
        assert observed == Running(expected.stage)
    elif isinstance(expected, Waits):
        assert isinstance(observed, Waiting), observed
        assert observed.reason == expected.reason
        assert expected.words in observed.why
    else:
        assert isinstance(observed, Outcome), observed
        assert (observed.fault, observed.reason, observed.exit_code) == (expected.fault, expected.reason, expected.code)
        assert expected.words in observed.message
        assert len(observed.message) < 700
        assert json.loads(json.dumps(job_result(observed, 1, seen["pod"]), allow_nan=False))["evidence"]["containers"]


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [row for row in ROWS if isinstance(row[2], Waits) and row[2].by_clock],
    ids=lambda value: str(value)[:40],
)
def test_a_wait_that_has_no_end_becomes_a_failure(name: str, place: int, expected: Waits) -> None:
    outcome = judged(load(name)[place], later=NEVER)
    assert isinstance(outcome, Outcome)
    assert (outcome.verdict, outcome.fault) == (Verdict.FAILED, expected.fault)
    assert outcome.reason == (expected.final or expected.reason)


@pytest.mark.parametrize("name", TABLE)
def test_nothing_is_green_but_success(name: str) -> None:
    observed = [judged(seen, later=later) for seen in load(name) if "pod" in seen for later in (0.0, NEVER)]
    verdicts = {one.verdict for one in observed if isinstance(one, Outcome)}
    assert (Verdict.SUCCEEDED in verdicts) == (name in SUCCESSES)


@pytest.mark.parametrize("name", TABLE)
def test_whoever_asks_for_an_end_gets_one_that_says_so_unless_it_had_succeeded(name: str) -> None:
    for seen in load(name):
        if "pod" in seen:
            outcome = classify_deleted(seen["pod"], stop="ann")
            green = outcome.verdict is Verdict.SUCCEEDED
            assert outcome.verdict is Verdict.CANCELED or (green and name in SUCCESSES)


def test_the_job_is_not_blamed_for_what_the_operator_has_to_mend() -> None:
    for name in ("no-service-account", "no-priority-class", "no-namespace", "namespace-terminating"):
        [seen] = load(name)
        outcome = refusal_outcome(seen["refused"]["code"], seen["refused"]["message"])
        assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.FAILED, PLATFORM, "create")
    for name in ("pod-security", "limit-range", "admission-policy"):
        [seen] = load(name)
        outcome = refusal_outcome(seen["refused"]["code"], seen["refused"]["message"])
        assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.REJECTED, JOB, "refused")


def test_a_lost_node_is_told_though_nothing_more_is_heard_of_the_pod() -> None:
    outcome = judged(load("node-lost")[0], later=NEVER)
    assert isinstance(outcome, Outcome)
    assert (outcome.fault, outcome.reason) == (PLATFORM, "node-lost")
    assert "deleting due to NoExecute taint" in outcome.message
    assert "does not say that its containers have stopped" in outcome.message

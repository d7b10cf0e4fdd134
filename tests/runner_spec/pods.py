"""Pods as the API server shows them: rendered for real, with statuses in the shapes of kubelet 1.34.

Times are seconds after `START`; every helper returns plain data that tests may change.
"""

import copy
from datetime import UTC, datetime
from typing import Any

from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.policy import parse_policy
from runner_spec.render import Attempt, render
from tests.runner_spec.descriptions import least, whole

START = 1_767_225_600  # 2026-01-01T00:00:00Z
POLICY = parse_policy({"secrets": {"git": ["*"], "npm": ["token"]}})
Json = dict[str, Any]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(START + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_pod(description: Json | None = None) -> Json:
    """Just created: no node, no status but Pending."""
    admission = admit(parse_description(whole() if description is None else description), POLICY)
    pod = render(admission, Attempt("job-1", 1, "worker-1"))
    pod["metadata"] |= {"uid": "9f2c", "creationTimestamp": at(0), "resourceVersion": "7"}
    pod["status"] = {"phase": "Pending", "qosClass": "Burstable"}
    return pod


def simple_pod() -> Json:
    """A job with no services and nothing to upload."""
    return new_pod(least(timeout="60s"))


def bound(pod: Json, seconds: float = 1) -> Json:
    """Scheduled, and acknowledged by the kubelet; all containers wait."""
    pod["spec"]["nodeName"] = "node-7"
    status = pod["status"]
    status |= {"phase": "Pending", "startTime": at(seconds), "hostIP": "10.0.0.7"}
    status["conditions"] = [
        {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": at(seconds)},
        {
            "type": "Initialized",
            "status": "False",
            "reason": "ContainersNotInitialized",
            "lastTransitionTime": at(seconds),
        },
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": at(seconds)},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(seconds)},
    ]
    for field, key in (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")):
        status[key] = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": False,
                "started": False,
                "restartCount": 0,
                "lastState": {},
                "state": {"waiting": {"reason": "PodInitializing"}},
            }
            for container in pod["spec"][field]
        ]
    return pod


def status_of(pod: Json, name: str) -> Json:
    for key in ("initContainerStatuses", "containerStatuses"):
        for status in pod["status"][key]:
            if status["name"] == name:
                found: Json = status
                return found
    raise KeyError(name)


def waits(pod: Json, name: str, reason: str, message: str = "") -> Json:
    waiting = {"reason": reason} | ({"message": message} if message else {})
    status_of(pod, name)["state"] = {"waiting": waiting}
    return pod


def runs(pod: Json, name: str, since: float) -> Json:
    status_of(pod, name).update({"state": {"running": {"startedAt": at(since)}}, "started": True, "ready": True})
    return pod


def terminated(code: int, since: float, until: float, *, reason: str = "", message: str = "") -> Json:
    end = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "startedAt": at(since),
        "finishedAt": at(until),
        "containerID": "containerd://0123",
    }
    return end | ({"message": message} if message else {})


def ends(pod: Json, name: str, code: int, since: float, until: float, *, reason: str = "", message: str = "") -> Json:
    state = {"terminated": terminated(code, since, until, reason=reason, message=message)}
    status_of(pod, name).update({"state": state, "started": False, "ready": False})
    return pod


def restarted(pod: Json, name: str, times: int, end: Json) -> Json:
    status_of(pod, name).update({"restartCount": times, "lastState": {"terminated": end}})
    return pod


def checked_out() -> Json:
    """The whole job: its service runs, checkout is done, upload sleeps, run waits."""
    pod = bound(new_pod())
    runs(pod, "db", 2)
    ends(pod, "checkout", 0, 3, 10)
    return runs(pod, "upload", 11)


def running() -> Json:
    """The whole job while its steps run."""
    pod = runs(checked_out(), "run", 12)
    pod["status"]["phase"] = "Running"
    return pod


def over(code: int = 0, *, upload: int = 0, phase: str = "", reason: str = "", message: str = "") -> Json:
    """The whole job after all containers have ended: steps from 12 to 40 s, upload until 45 s."""
    pod = checked_out()
    ends(pod, "run", code, 12, 40, reason=reason, message=message)
    ends(pod, "upload", upload, 11, 45)
    ends(pod, "db", 143, 2, 46)
    pod["status"]["phase"] = phase or ("Succeeded" if code == 0 else "Failed")
    return pod


def failed_checkout(code: int, message: str = "", reason: str = "") -> Json:
    pod = bound(new_pod())
    ends(pod, "db", 143, 2, 12)
    ends(pod, "checkout", code, 3, 10, message=message, reason=reason)
    pod["status"]["phase"] = "Failed"
    return pod


def deleted(pod: Json, asked: float, grace: int = 30) -> Json:
    """Somebody asked for its deletion; the API server notes the end of the grace period."""
    pod = copy.deepcopy(pod)
    pod["metadata"] |= {"deletionTimestamp": at(asked + grace), "deletionGracePeriodSeconds": grace}
    return pod


def disrupted(pod: Json, reason: str, message: str, seconds: float) -> Json:
    pod["status"]["conditions"].append(
        {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": at(seconds),
        }
    )
    return pod


def failed_as(pod: Json, reason: str, message: str) -> Json:
    pod["status"] |= {"phase": "Failed", "reason": reason, "message": message}
    return pod

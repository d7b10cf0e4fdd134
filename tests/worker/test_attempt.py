"""An attempt keeps its pod: packed while nothing is expected of it, and the same when it is asked for."""

import json

import pytest

from tests.runner_spec import pods
from tests.runner_spec.pods import Json
from worker.attempt import Attempt, slim
from worker.queue import Claim


def new_attempt() -> Attempt:
    claim = Claim("a", 1, "e", "jobs", {}, adopted=False, minted_by="w", claimed_at=0.0, started_at=0.0)
    return Attempt(claim, "p")


@pytest.mark.parametrize("pod", [pods.checked_out(), slim(pods.over()), {"metadata": {"name": "ü", "uid": "u"}}])
def test_a_packed_pod_is_the_same_pod(pod: Json) -> None:
    attempt = new_attempt()
    attempt.pod = pod
    for _ in range(2):
        attempt.rest()
        attempt.rest()
        assert attempt.pod == pod


def test_rest_keeps_no_pod_as_it_was_and_takes_less_memory() -> None:
    attempt = new_attempt()
    attempt.rest()
    assert attempt.pod is None
    attempt.pod = pods.over()
    attempt.rest()
    assert attempt._pod is None
    assert 0 < len(attempt._packed) < len(json.dumps(pods.over())) / 3


@pytest.mark.parametrize("deleted", [True, False])
def test_that_a_pod_is_being_deleted_is_known_while_it_is_packed(*, deleted: bool) -> None:
    attempt, pod = new_attempt(), pods.checked_out()
    if deleted:
        pod["metadata"]["deletionTimestamp"] = pods.at(30)
    attempt.pod = pod
    attempt.rest()
    assert attempt.pod_deleted is deleted
    attempt.pod = None
    assert not attempt.pod_deleted


def image_waits(message: str, reason: str = "ImagePullBackOff") -> Json:
    pod = pods.checked_out()
    statuses = pod["status"]["containerStatuses"]
    statuses[0] = {**statuses[0], "state": {"waiting": {"reason": reason, "message": message}}}
    return pod


def test_what_a_registry_said_is_kept_while_the_kubelet_only_says_that_it_backs_off() -> None:
    attempt = new_attempt()
    attempt.note(image_waits("no such image", "ErrImagePull"))
    attempt.rest()
    attempt.note(image_waits('Back-off pulling image "x"'))
    assert attempt.pod is not None
    assert "no such image" in attempt.pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]


def test_an_event_is_judged_by_its_age_without_the_pod_being_unpacked() -> None:
    attempt, pod = new_attempt(), pods.checked_out()
    pod["metadata"] |= {"uid": "u", "resourceVersion": "20"}
    assert not attempt.is_past(pod)
    attempt.note(pod)
    attempt.rest()
    past = [
        attempt.is_past({**pod, "metadata": {**pod["metadata"], "uid": uid, "resourceVersion": version}})
        for uid, version in [("u", "9"), ("u", "20"), ("u", "100"), ("another", "9")]
    ]
    assert past == [True, False, False, False]
    assert attempt._pod is None

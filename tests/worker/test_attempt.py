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


@pytest.mark.parametrize("pod", [pods.checked_out(), slim(pods.over()), {"metadata": {"name": "ü\ud800", "uid": "u"}}])
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

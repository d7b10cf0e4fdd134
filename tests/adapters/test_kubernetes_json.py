"""What is read of a pod is what decisions need; what has another shape is read whole."""

import json
from typing import Any

import pytest

from adapters.kubernetes_json import ANYTHING, EVENT, POD, POD_LIST, Decoder, decode, encode
from worker.attempt import slim

POD_SENT: dict[str, Any] = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {
        "name": "p",
        "namespace": "jobs",
        "uid": "u",
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "deletionTimestamp": "2026-01-01T00:00:09Z",
        "deletionGracePeriodSeconds": 9,
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
    },
    "spec": {
        "nodeName": "n",
        "activeDeadlineSeconds": 60,
        "volumes": [{"name": "v"}],
        "initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always", "env": []}],
        "containers": [{"name": "run", "image": "x", "resources": {"limits": {}}, "startupProbe": {"exec": {}}}],
    },
    "status": {"phase": "Running", "containerStatuses": [{"name": "run", "state": {"running": {}}}]},
}


def sent(value: object) -> bytes:
    return json.dumps(value).encode()


def test_nothing_is_missing_that_a_pod_is_judged_by() -> None:
    read = decode(sent(POD_SENT), POD)

    assert slim(read) == slim(POD_SENT)
    assert "managedFields" not in read["metadata"]
    assert "volumes" not in read["spec"]
    assert decode(sent({"type": "ADDED", "object": POD_SENT}), EVENT) == {"type": "ADDED", "object": read}
    page = {"metadata": {"resourceVersion": "7", "continue": "x"}, "items": [POD_SENT]}
    assert decode(sent(page), POD_LIST) == {**page, "items": [read]}


def test_the_error_in_a_watch_is_read() -> None:
    status = {"code": 410, "reason": "Expired", "message": "too old"}

    assert decode(sent({"type": "ERROR", "object": {"kind": "Status", **status}}), EVENT)["object"] == status


@pytest.mark.parametrize(
    ("strange", "decoder"),
    [
        ({"metadata": None}, POD),
        ({"metadata": {"name": "p"}, "spec": {"containers": None}}, POD),
        ({"metadata": {}, "items": None}, POD_LIST),
        (["no", "object"], EVENT),
    ],
)
def test_what_has_another_shape_is_read_whole(strange: object, decoder: Decoder) -> None:
    assert decode(sent(strange), decoder) == strange


@pytest.mark.parametrize("data", [b"", b"<html>", b'{"a": 1', b'{"metadata": {"name": "\xff"}}'])
@pytest.mark.parametrize("decoder", [ANYTHING, POD, EVENT])
def test_what_is_no_json_is_an_error(data: bytes, decoder: Decoder) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds, with the library's words
        decode(data, decoder)


def test_half_a_surrogate_pair_is_sent_as_the_api_server_would_read_it() -> None:
    assert json.loads(encode({"\ud800": ["a\udc00b", "\ud83d\ude00"]})) == {"\ufffd": ["a\ufffdb", "\U0001f600"]}

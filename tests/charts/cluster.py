"""A real cluster through `kubectl`, and namespaces of a test's own in it."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.charts.helm import require_helm

PATIENCE_S = 120


class KubectlError(Exception):
    """kubectl failed; the message is its own."""


def require_cluster() -> None:
    """Skip the calling test where KUBECONFIG names no cluster."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    require_helm()


def run(*command: str, stdin: str | None = None, seconds: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
    """Run kubectl or helm to its end.

    Raises:
        KubectlError: with the words of the command, when it fails.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise KubectlError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done


def kubectl(*arguments: str, stdin: str | None = None, seconds: float = PATIENCE_S) -> str:
    """What kubectl prints.

    Raises:
        KubectlError: when it fails.
    """
    return run("kubectl", *arguments, stdin=stdin, seconds=seconds).stdout


def get(*arguments: str) -> dict[str, Any]:
    """`kubectl get … -o json`."""
    return dict(json.loads(kubectl("get", *arguments, "-o", "json")))


def manifests(objects: Iterable[Mapping[str, Any]]) -> str:
    """For `kubectl … -f -`."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def unique(what: str) -> str:
    """A name that no parallel run has."""
    return f"dynapod-{what}-{uuid.uuid4().hex[:8]}"


def namespace_values() -> dict[str, Any]:
    """Values that name two namespaces of this run's own."""
    mark = uuid.uuid4().hex[:8]
    names = {kind: {"name": f"dynapod-{kind}-{mark}"} for kind in ("system", "jobs")}
    return {"namespaces": names}


@contextmanager
def applied(objects: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """These objects exist while the block runs; their deletion is not waited for."""
    text = manifests(objects)
    try:
        kubectl("apply", "-f", "-", stdin=text)
        yield
    finally:
        kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=text)

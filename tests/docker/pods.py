"""Runs a command in an image as a real pod, under the enforced `restricted` level, and reads what it printed."""

import asyncio
import json
import os
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from adapters.kubernetes_api import ApiError, KubernetesApi

RUNNER = os.environ.get("DYNAPOD_TEST_RUNNER_IMAGE", "localhost/dynapod-runner:test")
WORKER = os.environ.get("DYNAPOD_TEST_WORKER_IMAGE", "localhost/dynapod-worker:test")
JOB = os.environ.get("DYNAPOD_TEST_JOB_IMAGE", "localhost/dynapod-job:test")
SERVICES = os.environ.get("DYNAPOD_TEST_SERVICES_IMAGE", "localhost/dynapod-services:test")
CLUSTER_TEST = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
]
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
# Images of the tests are already on the node; a minute is for a node that is busy with other tests.
WAIT_S = 90
CONTAINER = "image"


@dataclass(frozen=True)
class User:
    """As whom the pod runs; `mapped` puts it into a user namespace (hostUsers: false)."""

    uid: int
    mapped: bool = False

    def __str__(self) -> str:
        if self == STRANGER:
            return "stranger"  # its uid changes from run to run, the test's name must not
        return f"{self.uid}" + "-mapped" * self.mapped


# As jobs run without and with user namespaces, and as any user at all: some clusters give each namespace its own range.
STRANGER = User(random.randrange(100_000, 2**31))
USERS = [User(1000), STRANGER, User(0, mapped=True)]


@dataclass(frozen=True)
class Ran:
    """How the container ended, and its log without the timestamps."""

    exit_code: int
    log: str


def once(image: str, user: User, **words: Any) -> Ran:
    """Run the image in a namespace of its own; see `run`. Skips the test where a cluster has no user namespaces."""

    async def alone() -> Ran:
        async with namespace() as api:
            return await run(api, image, user, **words)

    try:
        return asyncio.run(alone())
    except ApiError as error:
        if user.mapped and error.status == HTTPStatus.FORBIDDEN:
            pytest.skip(f"this cluster admits no root in a user namespace: {error}")
        raise


def probe(image: str, name: str, user: User, *arguments: str) -> dict[str, Any]:
    """What the script of that name in `probes` finds inside the image, run by the image's own python3."""
    script = (Path(__file__).parent / "probes" / f"{name}.py").read_text(encoding="utf-8")
    ran = once(image, user, command=["python3", "-c", script, *arguments])
    assert ran.exit_code == 0, ran.log
    facts: dict[str, Any] = json.loads(ran.log.splitlines()[-1])
    return facts


@asynccontextmanager
async def namespace() -> AsyncIterator[KubernetesApi]:
    """A namespace of its own, deleted with all that is in it."""
    name = f"dynapod-images-{uuid.uuid4().hex[:8]}"
    api = await KubernetesApi.connect(name)
    try:
        await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name, "labels": RESTRICTED}})
        try:
            # The controller makes the account `default` some time after the namespace; pods are refused until then.
            accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
            await api.call("POST", accounts, body={"metadata": {"name": CONTAINER}})
            yield api
        finally:
            await api.call("DELETE", f"/api/v1/namespaces/{name}")
    finally:
        await api.close()


async def run(
    api: KubernetesApi, image: str, user: User, *, volumes: dict[str, Any] | None = None, **words: Any
) -> Ran:
    """Run `command` and `args` in the image to its end, with a root file system that is read-only.

    `volumes` are mounted at the paths that are their keys, beside an emptyDir at /tmp.
    """
    manifest = pod(image, user, {"/tmp": {"emptyDir": {}}, **(volumes or {})}, words)
    name = manifest["metadata"]["name"]
    await api.create_pod(manifest)
    async with asyncio.timeout(WAIT_S):
        ended = await end(api, name)
    statuses = ended["status"].get("containerStatuses") or [{}]
    terminated = statuses[0].get("state", {}).get("terminated")
    assert terminated, f"the container never ran: {ended['status']}"
    return Ran(terminated["exitCode"], await log(api, name))


def pod(image: str, user: User, volumes: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    name = f"image-{uuid.uuid4().hex[:8]}"
    numbered = {f"v{number}": (path, volume) for number, (path, volume) in enumerate(volumes.items())}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": CONTAINER,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsUser": user.uid,
            "runAsGroup": user.uid,
            "runAsNonRoot": user.uid != 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": key, **{kind: value for kind, value in volume.items() if kind != "subPath"}}
            for key, (_, volume) in numbered.items()
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "volumeMounts": [
                    {"name": key, "mountPath": path} | ({"subPath": volume["subPath"]} if "subPath" in volume else {})
                    for key, (path, volume) in numbered.items()
                ],
                **words,
            }
        ],
    }
    if user.mapped:
        spec["hostUsers"] = False
    return {"metadata": {"name": name, "labels": {"image-test": name}}, "spec": spec}


async def end(api: KubernetesApi, name: str) -> dict[str, Any]:
    """The pod in its last phase."""
    selector = f"image-test={name}"
    while True:
        pods, version = await api.list_pods(selector)
        if pods and is_over(pods[0]):
            return pods[0]
        try:
            async with aclosing(api.watch_pods(selector, version, seconds=WAIT_S)) as events:
                async for event in events:
                    if event.kind != "BOOKMARK" and is_over(event.object):
                        return event.object
        except ApiError as error:
            if not error.temporary and not error.expired:
                raise


def is_over(pod: dict[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


async def log(api: KubernetesApi, name: str) -> str:
    """What the container printed."""
    async with aclosing(api.stream_log(name, CONTAINER, follow=False)) as chunks:
        text = b"".join([chunk async for chunk in chunks]).decode()
    return "".join(line.partition(" ")[2] for line in text.splitlines(keepends=True))

"""Every end of a pod, told truthfully: the table of `ends.py`, all of it at once, as real jobs on a real cluster.

docs/ends.md is the same table for people.
"""

import asyncio
import re
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.kubernetes_api import KubernetesApi
from runner_spec import anatomy
from tests.cluster.ends import ROWS, Row, Stage, described, place
from tests.cluster.fake_node import KEY
from tests.cluster.registry import Registry, registry
from tests.cluster.site import Site, WorkerProcess, jobs_namespace
from worker.cli.waiting import why_it_waits
from worker.job_status import AttemptRecord, JobStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

Json = dict[str, Any]
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
PATIENCE_S = 240.0


@dataclass
class Story:
    """What became of one row's job: its last status, and every reason to wait that it showed."""

    status: JobStatus | None = None
    waited: set[str] = field(default_factory=set)

    @property
    def first(self) -> AttemptRecord:
        assert self.status is not None, self.waited
        return self.status.attempts[0]


def policies(name: str, refusing: str) -> dict[str, Json]:
    """By worker; short graces, so that what never comes right is told soon, and long enough to be seen waiting."""
    common: Json = {"images": ["*"], "secrets": {"*": ["*"]}, "after_budget": "1s", "upload_budget": "20s"}
    run: Json = {"name": anatomy.RUN}
    privileged = {"privileged": True, "allowPrivilegeEscalation": True}
    away = [
        {"key": f"node.kubernetes.io/{trouble}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
        for trouble in ("unreachable", "not-ready")
    ]
    different: dict[str, Json] = {
        "ends": {
            "image_pull_grace": "25s",
            "config_grace": "15s",
            "platform_retries": 1,
            "platform_backoff": ["1s"],
        },
        "patient": {},
        "starved": {
            "pending_limit": "12s",
            "runner_command": ["python3", "-c", "b'x' * 10**9"],
            "runner_resources": {
                "requests": {"cpu": "20m", "memory": "32Mi", "ephemeral-storage": "16Mi"},
                "limits": {"cpu": "1", "memory": "64Mi", "ephemeral-storage": "64Mi"},
            },
        },
        "sandbox": {"runtime_class": name, "start_limit": "20s"},
        "patched": {
            "config_grace": "15s",
            "pod_patch": {"spec": {"containers": [{**run, "envFrom": [{"configMapRef": {"name": "no-such-map"}}]}]}},
        },
        "refusing": {"namespace": refusing},
        "privileged": {
            "allow_privileged": True,
            "pod_patch": {"spec": {"containers": [{**run, "securityContext": privileged}]}},
        },
        "fake": {
            "node_selector": {KEY: name},
            "tolerations": [{"key": KEY, "operator": "Exists"}, *away],
            "platform_retries": 1,
            "platform_backoff": ["1h"],
        },
    }
    return {worker: {**common, **policy} for worker, policy in different.items()}


async def set_the_stage(stack: AsyncExitStack, api: KubernetesApi, name: str, refusing: str) -> None:
    """Objects of the cluster that make things go wrong; each is for our own namespaces, or our own pods only."""

    async def make(path: str, body: Json) -> None:
        await api.call("POST", path, body=body)
        stack.push_async_callback(api.call, "DELETE", f"{path}/{body['metadata']['name']}")

    about = {"metadata": {"name": name}}
    await make("/apis/node.k8s.io/v1/runtimeclasses", {**about, "handler": "none"})
    await make("/apis/scheduling.k8s.io/v1/priorityclasses", {**about, "value": 1000})
    await stack.enter_async_context(jobs_namespace(refusing))
    quota = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
    await api.call("POST", f"/api/v1/namespaces/{refusing}/resourcequotas", body=quota)
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": refusing}}}
    validation = {
        "expression": f"object.metadata.labels['{anatomy.LABEL_JOB}'] != 'admission-policy'",
        "message": "no job is called that",
    }
    match = {"resourceRules": [rule], **where}
    policy = {"failurePolicy": "Fail", "matchConstraints": match, "validations": [validation]}
    binding = {"policyName": name, "validationActions": ["Deny"]}
    await make(f"{ADMISSION}/validatingadmissionpolicies", {**about, "spec": policy})
    await make(f"{ADMISSION}/validatingadmissionpolicybindings", {**about, "spec": binding})
    hook = {
        "name": "pods.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/admit"},
        "rules": [rule],
        **where,
        "objectSelector": {"matchLabels": {anatomy.LABEL_JOB: "webhook-away"}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    configuration = {"metadata": {"name": refusing}, "webhooks": [hook]}
    # Deleted by the provocation that heals it; it is for one job of one namespace, should that not come to pass.
    await api.call("POST", f"{ADMISSION}/validatingwebhookconfigurations", body=configuration)


async def play(stage: Stage, workers: Mapping[str, WorkerProcess]) -> dict[str, Story]:
    """All rows at once."""
    stories = {row.name: Story() for row in ROWS}

    async def tell(row: Row) -> None:
        async for status in stage.client.changes(row.job_id):
            story = stories[row.name]
            story.status = status
            story.waited.add(why_it_waits(status))
            if row.over(status):
                return

    async def run(row: Row) -> None:
        worker = workers[row.worker]
        if row.worker == "fake":
            await place(stage, row, worker.queue)
            await tell(row)
            return
        await stage.client.submit(described(row, stage.registry), job_id=row.job_id, queue=worker.queue)
        await asyncio.gather(tell(row), *([row.provoke(stage, row.job_id)] if row.provoke else []))

    async def in_time(row: Row) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await run(row)

    results = await asyncio.gather(*map(in_time, ROWS), return_exceptions=True)
    for row, result in zip(ROWS, results, strict=True):
        if isinstance(result, BaseException):
            stories[row.name].waited.add(f"the test: {type(result).__name__}: {result}")
    return stories


@pytest.fixture(scope="module")
def stories(site: Site) -> Iterator[dict[str, Story]]:
    name = f"ends-{uuid.uuid4().hex[:6]}"
    refusing = f"{site.namespace}-refusing"

    async def run(workers: ExitStack, images: Registry) -> dict[str, Story]:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(site.api())
            await set_the_stage(stack, api, name, refusing)
            with ThreadPoolExecutor() as starters:
                starts = {
                    worker: starters.submit(workers.enter_context, site.worker(f"{name}-{worker}", **policy))
                    for worker, policy in policies(name, refusing).items()
                }
                started = {worker: await asyncio.wrap_future(start) for worker, start in starts.items()}
            client = await stack.enter_async_context(site.client())
            stage = Stage(api, client, images, group=name, refusing=refusing, priority_class=name)
            return await play(stage, started)

    with ExitStack() as workers, registry() as images:
        yield asyncio.run(run(workers, images))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_end_is_told_truthfully(row: Row, stories: dict[str, Story]) -> None:
    story = stories[row.name]
    assert story.status is not None, story.waited
    assert row.over(story.status), (story.status, story.waited)
    result = story.first.result
    told = (result["verdict"], result["fault"], result["reason"])
    assert told == (row.verdict, row.fault, row.reason), (result, story.waited)
    assert re.search(row.words, result["message"]), result["message"]
    if row.code is not None:
        assert result["exit_code"] == row.code
    if row.waiting:
        assert any(re.search(row.waiting, why) for why in story.waited), story.waited


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_evidence_of_each_end_is_kept(row: Row, stories: dict[str, Story]) -> None:
    evidence = stories[row.name].first.result["evidence"]
    if row.verdict != "rejected" and row.reason != "quota":
        assert evidence["pod"] == stories[row.name].first.pod
        assert {"checkout", "run"} <= set(evidence["containers"])
    for path, words in row.evidence.items():
        found = evidence
        for part in path.split("."):
            found = found[part]
        assert re.search(words, str(found)), (path, found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_only_the_platforms_faults_are_tried_again(row: Row, stories: dict[str, Story]) -> None:
    status = stories[row.name].status
    assert status is not None
    verdicts = [record.result["verdict"] for record in status.attempts]
    if row.reason == "quota":
        waited, ran = status.attempts  # one entry for all the waiting
        assert waited.waits > 1
        assert (waited.number, ran.number) == (waited.waits, waited.waits + 1)
    else:
        assert len(verdicts) == row.attempts
    if row.last:
        assert verdicts[-1] == row.last
    assert (status.status == "scheduled") == row.left


def test_none_is_green_but_success(stories: dict[str, Story]) -> None:
    green = {name for name, story in stories.items() if story.status and story.first.result["verdict"] == "succeeded"}
    assert green == {row.name for row in ROWS if row.verdict == "succeeded"}
    for story in stories.values():
        assert story.status is not None
        succeeded = story.status.result.get("verdict") == "succeeded"
        assert (story.status.status == "finished") == succeeded

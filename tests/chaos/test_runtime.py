"""Scripted containers, through the real API of the devcluster and in dynapod's own hands; the process around them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec.policy import DEFAULT_POLICY
from tests.chaos.checker import check
from tests.chaos.cluster_process import ClusterProcess
from tests.chaos.ledger import LedgerWriter, read_ledger
from tests.chaos.records import Evidence, PodWrite, Run, Submitted
from tests.chaos.redis_evidence import read_evidence
from tests.chaos.runtime import Script, ScriptedRuntime
from tests.chaos.scripted_log import log_content
from tests.devcluster.conformance.api_client import Client, terminated
from tests.devcluster.local_cluster import local_cluster
from tests.integration.clusters import site
from tests.integration.worlds import job

PATIENCE_S = 60.0


def run_pod(**script: str) -> dict[str, Any]:
    """As dynapod makes them, as far as the script needs it."""
    return {
        "metadata": {
            "name": "dp-a-1",
            "annotations": {"dynapod.dev/job": "a"},
            "labels": {"dynapod.dev/attempt": "1"},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "initContainers": [{"name": "checkout", "image": "i"}],
            "containers": [
                {"name": "run", "image": "i", "env": [{"name": k, "value": v} for k, v in script.items()]},
            ],
        },
    }


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Client]:
    with LedgerWriter(folder / "ledger") as ledger:
        async with local_cluster(folder / "cluster", ScriptedRuntime(ledger)) as (_, client):
            yield client


def only_run(folder: Path) -> Run:
    ledger = read_ledger(folder / "ledger")
    assert ledger.torn == 0
    (run,) = ledger.runs
    return run


def test_a_container_does_what_its_script_says_and_writes_it_down(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as client:
            pod = await client.create(run_pod(CHAOS_SECONDS="0.3", CHAOS_EXIT="7", CHAOS_LINES="150"))
            uid = pod["metadata"]["uid"]
            last = await client.ended("dp-a-1")
            assert terminated(last, "run")["exitCode"] == 7
            run = only_run(tmp_path)
            assert (run.job, run.attempt, run.pod, run.uid, run.container) == ("a", 1, "dp-a-1", uid, "run")
            assert run.ended is not None
            assert run.ended - run.started >= 0.29
            assert (run.exit_code, run.log) == (7, log_content(uid, "run", 150))
            assert await client.log("dp-a-1", container="run") == run.log

    asyncio.run(test())


def test_a_follower_sees_the_log_as_it_grows_with_timestamps_that_never_go_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as client:
            await client.create(run_pod(CHAOS_SECONDS="0.5", CHAOS_LINES="120", CHAOS_LOG_SECONDS="0.4"))
            await client.running("dp-a-1")
            found = await client.log("dp-a-1", container="run", timestamps="true", follow="true")
            lines = found.splitlines(keepends=True)
            stamps = [line.partition(b" ")[0] for line in lines]
            assert stamps == sorted(stamps)
            assert len(set(stamps)) > 60  # written one by one, not all at the end
            assert b"".join(line.partition(b" ")[2] for line in lines) == only_run(tmp_path).log

    asyncio.run(test())


@pytest.mark.parametrize(("deaf", "code"), [("0", 143), ("1", 137)])
def test_a_container_dies_of_sigterm_unless_it_is_deaf(tmp_path: Path, deaf: str, code: int) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as client:
            script = {"CHAOS_SECONDS": "60", "CHAOS_LINES": "1000", "CHAOS_DEAF": deaf}
            version = (await client.create(run_pod(**script)))["metadata"]["resourceVersion"]
            await client.running("dp-a-1")
            await client.call("DELETE", f"{client.pods}/dp-a-1", gracePeriodSeconds="1")
            async for event in client.events(client.pods, resourceVersion=version, timeoutSeconds="30"):
                if event["type"] == "DELETED":
                    break
            run = only_run(tmp_path)
            assert run.exit_code == code
            assert run.log is not None
            assert 0 < len(run.log) < len(log_content(run.uid, "run", 1000))

    asyncio.run(test())


@pytest.mark.parametrize("wrong", ["soon", "-1", "nan", "inf"])
def test_a_script_that_cannot_be_read_names_the_variable(wrong: str) -> None:
    with pytest.raises(ValueError, match="CHAOS_SECONDS="):
        Script.of({"CHAOS_SECONDS": wrong})


def test_the_process_restarts_its_api_compacts_evicts_deletes_and_audits(tmp_path: Path) -> None:
    async def test() -> None:
        namespace = DEFAULT_POLICY.namespace
        async with ClusterProcess(tmp_path / "cluster") as process:
            kubeconfig = json.loads(process.kubeconfig.read_text())
            api = await KubernetesApi.connect(namespace, kubeconfig=kubeconfig)
            assert await process.evict() is None
            assert await process.delete() is None
            pod = run_pod(CHAOS_SECONDS="60")
            await api.create_pod(pod)
            _, version = await api.list_pods("")
            await process.restart_api(1.0, compact=True)
            assert await process.pod_names() == ["dp-a-1"]
            with pytest.raises(ApiError) as expired:
                async for _ in api.watch_pods("", version, seconds=5):
                    pass
            assert expired.value.expired
            pods, _ = await api.list_pods("")
            assert [found["status"]["phase"] for found in pods] == ["Running"]  # it ran on while the API was away
            assert await process.evict() == "dp-a-1"
            assert await process.delete(grace_seconds=0) == "dp-a-1"
            assert await process.pods() == 0
            writes = await process.audit()
            await api.close()
        assert [(write.verb, write.pod, write.code) for write in writes] == [
            ("create", "dp-a-1", 201),
            ("delete", "dp-a-1", 200),
        ]
        assert writes[1].user_agent.startswith("kubectl/")
        assert writes[0].at <= writes[1].at
        (run,) = read_ledger(process.ledger).runs
        assert (run.exit_code, run.log) == (143, b"")

    asyncio.run(test())


def chaos_jobs() -> list[tuple[Submitted, dict[str, Any]]]:
    """Twenty of all kinds."""
    found = []
    for number in range(20):
        code = 3 if number % 7 == 0 else 0
        env = {"CHAOS_SECONDS": f"{number / 20}", "CHAOS_EXIT": str(code), "CHAOS_LINES": str(number * 3)}
        found.append((Submitted(f"smoke-{number}", code), job("true", env=env)))
    return found


@pytest.mark.redis
def test_of_an_honest_run_the_checker_finds_nothing(redis_url: str, tmp_path: Path) -> None:
    """The whole chain: a real worker, a real Redis, scripted pods, and all the evidence."""

    async def test() -> None:
        jobs = chaos_jobs()
        with LedgerWriter(tmp_path / "ledger") as ledger:
            async with site(redis_url, tmp_path, ScriptedRuntime(ledger)) as here, asyncio.timeout(PATIENCE_S):
                async with here.worker():
                    for facts, description in jobs:
                        await here.client.submit(description, job_id=facts.job)
                    for facts, _ in jobs:
                        await here.client.wait(facts.job, interval=0.02)
                    while here.cluster.pods:  # noqa: ASYNC110 - the last deletions are on their way: no event
                        await asyncio.sleep(0.02)
                found = await read_evidence(here.connections.control, here.store, [facts.job for facts, _ in jobs])
                writes = [e for e in here.cluster.audit if e.resource == "pods" and e.verb in {"create", "delete"}]
                evidence = Evidence(
                    submitted=tuple(facts for facts, _ in jobs),
                    runs=read_ledger(tmp_path / "ledger").runs,
                    pod_writes=tuple(PodWrite(e.verb, e.name, e.code, e.user_agent, e.at) for e in writes),
                    jobs=found.jobs,
                    left_keys=found.left_keys,
                )
        report = check(evidence)
        assert report.lines(0, {}) == [
            "containers that ran: 20",
            "of those without a known end: 0",
            "attempts: 20",
            "failed by the platform's fault: 0",
            "green with artifacts: 0",
            "pods of jobs that nobody waits for: 0",
            "declared log gaps: 0",
            "repeated because Redis forgot: 0",
            "jobs that only the lost primary knew: 0",
            "logs cut because Redis forgot: 0",
            "largest overlap of two attempts of a job: 0.000 s (allowed 5 s)",
            "jobs 20, kills 0, faults 0, lost 0, doubled 0, false green 0, silent log gaps 0, left behind 0",
        ]

    asyncio.run(test())

"""The cluster as a whole: history, faults, audit, load, the command line, the official client."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes.aio import client as api
from kubernetes.aio import config, watch

from devcluster.audit import Fault, RequestFacts
from devcluster.cluster import NOTICE, ClusterError, DevCluster
from devcluster.sleep_runtime import SleepRuntime
from devcluster.status_error import StatusError
from tests.devcluster.conformance.api_client import Client, Json, asynchronous, pod, terminated
from tests.devcluster.local_cluster import local_cluster

ROOT = Path(__file__).parents[2]


async def relabel(client: Client, name: str, value: str) -> Json:
    patch = {"metadata": {"labels": {"v": value}}}
    answer = await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
    assert answer.status == 200
    return answer.body


@asynchronous
async def test_a_watcher_that_falls_out_of_the_history_is_told(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60), history=5) as (_, client):
        created = await client.create(pod(client, "a", nodeName="elsewhere"))
        first = created["metadata"]["resourceVersion"]
        for i in range(5):
            last = await relabel(client, "a", str(i))
        events = [e async for e in client.events(client.pods, resourceVersion=first, timeoutSeconds="1")]
        assert [e["type"] for e in events] == ["MODIFIED"] * 5  # exactly what is remembered
        await relabel(client, "a", "last")
        events = [e async for e in client.events(client.pods, resourceVersion=first, timeoutSeconds="1")]
        assert [(e["type"], e["object"]["code"]) for e in events] == [("ERROR", 410)]
        version = last["metadata"]["resourceVersion"]
        events = [e async for e in client.events(client.pods, resourceVersion=version, timeoutSeconds="1")]
        assert [e["object"]["metadata"]["labels"]["v"] for e in events] == ["last"]


@asynchronous
async def test_a_page_token_that_is_too_old_says_how_to_go_on(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60), history=3) as (_, client):
        for name in "abc":
            await client.create(pod(client, name, nodeName="elsewhere"))
        token = (await client.call("GET", client.pods, limit="1")).body["metadata"]["continue"]
        for i in range(4):
            await relabel(client, "b", str(i))
        answer = await client.call("GET", client.pods, limit="1", **{"continue": token})
        assert (answer.status, answer.body["reason"]) == (410, "Expired")
        rest = answer.body["metadata"]["continue"]
        page = await client.call("GET", client.pods, **{"continue": rest})
        assert [item["metadata"]["name"] for item in page.body["items"]] == ["b", "c"]


@asynchronous
async def test_pages_count_what_remains(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (_, client):
        for i in range(7):
            await client.create(pod(client, f"p{i}", nodeName="elsewhere"))
        names, token, remaining = [], "", []
        while True:
            extra = {"continue": token} if token else {}
            page = (await client.call("GET", client.pods, limit="3", **extra)).body
            names += [item["metadata"]["name"] for item in page["items"]]
            token = page["metadata"].get("continue", "")
            if not token:
                break
            remaining.append(page["metadata"]["remainingItemCount"])
        assert names == [f"p{i}" for i in range(7)]
        assert remaining == [4, 1]


@asynchronous
async def test_a_restart_makes_old_versions_expire(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (_, client):
        version = (await client.create(pod(client, "a")))["metadata"]["resourceVersion"]
        await asyncio.sleep(0.01)  # longer than the writes took: revisions begin at the clock's milliseconds
    async with local_cluster(tmp_path, SleepRuntime(60)) as (_, client):
        events = [e async for e in client.events(client.pods, resourceVersion=version, timeoutSeconds="1")]
        assert [e["type"] for e in events] == ["ERROR"]


@asynchronous
async def test_mutating_requests_are_audited(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (cluster, client):
        await client.create(pod(client, "a"))
        await client.call("POST", client.pods, pod(client, "a"))
        await client.call("GET", f"{client.pods}/a")
        await relabel(client, "a", "x")
        await client.call("DELETE", f"{client.pods}/a", gracePeriodSeconds="0")
        await client.call("DELETE", f"{client.pods}/a")
        seen = [(e.verb, e.resource, e.namespace, e.name, e.code, e.user_agent) for e in cluster.audit]
        assert seen == [
            ("create", "pods", "default", "a", 201, "test/1"),
            ("create", "pods", "default", "a", 409, "test/1"),
            ("patch", "pods", "default", "a", 200, "test/1"),
            ("delete", "pods", "default", "a", 200, "test/1"),
            ("delete", "pods", "default", "a", 404, "test/1"),
        ]


@asynchronous
async def test_faults_happen_where_they_are_planned(tmp_path: Path) -> None:
    plan: list[tuple[str, Fault]] = []

    def faults(facts: RequestFacts) -> Fault | None:
        if plan and plan[0][0] == facts.verb and facts.resource == "pods":
            return plan.pop(0)[1]
        return None

    async with local_cluster(tmp_path, SleepRuntime(60), faults=faults) as (cluster, client):
        quota = StatusError(429, "TooManyRequests", "slow down", details={"retryAfterSeconds": 1})
        plan.append(("create", Fault(error=quota)))
        answer = await client.call("POST", client.pods, pod(client, "a"))
        assert (answer.status, answer.body["message"]) == (429, "slow down")
        plan.append(("create", Fault(lose_reply=True)))
        with pytest.raises(aiohttp.ClientError):
            await client.call("POST", client.pods, pod(client, "a"))
        assert cluster.pods == 1  # it was done, only the answer was lost
        plan.append(("watch", Fault(cut_after=0.1)))
        with pytest.raises(aiohttp.ClientError):
            _ = [event async for event in client.events(client.pods, timeoutSeconds="60")]


@asynchronous
async def test_an_evicted_pod_has_its_grace_and_says_why(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (cluster, client):
        await client.create(pod(client, "a", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done", grace=10))
        await client.running("a")
        await client.logged("a", b"up")
        assert cluster.evict("default", "a", message="low on disk")
        found = await client.ended("a")
        assert terminated(found, "run")["exitCode"] == 0
        assert [found["status"][key] for key in ("phase", "reason", "message")] == ["Failed", "Evicted", "low on disk"]
        target = next(c for c in found["status"]["conditions"] if c["type"] == "DisruptionTarget")
        assert target["reason"] == "TerminationByKubelet"
        assert not cluster.evict("default", "a")
        assert not cluster.evict("default", "nobody")


@asynchronous
async def test_two_thousand_pods_are_cheap(tmp_path: Path) -> None:
    """A pod has five events: created, running, succeeded, deletion, gone; a few more on a busy machine."""
    count = 2000
    async with local_cluster(tmp_path, SleepRuntime(0.5)) as (cluster, client):
        gone: set[str] = set()
        events = 0
        slots = asyncio.Semaphore(30)

        async def create(name: str) -> None:
            async with slots:
                await client.create(pod(client, name))

        async def delete(name: str) -> None:
            async with slots:
                assert (await client.call("DELETE", f"{client.pods}/{name}")).status == 200

        async with asyncio.TaskGroup() as tasks:

            async def watch() -> None:
                nonlocal events
                async for event in client.events(client.pods, timeoutSeconds="100"):
                    events += 1
                    found = event["object"]
                    if event["type"] == "DELETED":
                        gone.add(found["metadata"]["name"])
                    elif found["status"]["phase"] == "Succeeded" and "deletionTimestamp" not in found["metadata"]:
                        tasks.create_task(delete(found["metadata"]["name"]))
                    if len(gone) == count:
                        return

            tasks.create_task(watch())
            for i in range(count):
                tasks.create_task(create(f"p{i}"))
        assert events < 8 * count
        assert sum(entry.verb == "create" and entry.code == 201 for entry in cluster.audit) == count
        assert cluster.pods == 0
        before = {task for task in asyncio.all_tasks() if "PodWorker" in repr(task)}
        assert before == set()


@asynchronous
async def test_a_stopped_cluster_ends_watches_and_leaves_no_task(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (cluster, client):
        await client.create(pod(client, "a", "sleep 100"))
        await client.running("a")
        async with client.stream(client.pods, watch="true", labelSelector="a=b") as response:
            assert response.status == 200
            await cluster.stop()
            assert await response.read() == b""
    assert asyncio.all_tasks() == {asyncio.current_task()}


@asynchronous
async def test_the_path_of_kubectls_kubeconfig_is_a_key(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (cluster, _), aiohttp.ClientSession() as session:
        server = cluster.kubeconfig(for_kubectl=True)["clusters"][0]["cluster"]["server"]
        for base, status in ((server, 200), (cluster.url, 401), (f"{server[:-1]}", 401)):
            async with session.get(f"{base}/api/v1/namespaces/default/pods") as response:
                assert response.status == status


@asynchronous
async def test_a_watch_says_how_far_it_has_come_before_it_ends(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (_, client):
        params = {"allowWatchBookmarks": "true", "labelSelector": "group=nothing", "timeoutSeconds": "4"}
        created = await client.create(pod(client, "a", nodeName="elsewhere"))
        (bookmark,) = [event async for event in client.events(client.pods, **params)]
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["kind"] == "Pod"
        assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(created["metadata"]["resourceVersion"])


@asynchronous
async def test_a_folder_belongs_to_one_cluster(tmp_path: Path) -> None:
    async with local_cluster(tmp_path):
        second = DevCluster(tmp_path, SleepRuntime(1))
        with pytest.raises(ClusterError, match="another cluster uses this folder"):
            await second.start()


@asynchronous
async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async with local_cluster(tmp_path / "a") as (cluster, _):
        port = int(cluster.url.rpartition(":")[2])
        with pytest.raises(ClusterError, match=f"port={port}: .*choose another"):
            await DevCluster(tmp_path / "b", SleepRuntime(1), port=port).start()


@asynchronous
async def test_what_a_killed_cluster_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "pods" / "old" / "volumes"
    left.mkdir(parents=True)
    async with local_cluster(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize(("options", "notices"), [((), 1), (("--sleep", "1"), 0)])
def test_the_notice_is_given_once_and_only_for_processes(
    tmp_path: Path, options: tuple[str, ...], notices: int
) -> None:
    command = [sys.executable, "-m", "devcluster", "--root", str(tmp_path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("listening on ")
        server.terminate()
        _, errors = server.communicate(timeout=30)
    assert errors.count(NOTICE) == notices


def test_the_kubeconfig_is_private(tmp_path: Path) -> None:
    async def written() -> Json:
        async with local_cluster(tmp_path) as (cluster, _):
            cluster.write_kubeconfig(tmp_path / "kubeconfig")
            return cluster.kubeconfig(for_kubectl=True)

    config = asyncio.run(written())
    assert json.loads((tmp_path / "kubeconfig").read_text()) == config
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert len(config["users"][0]["user"]["token"]) >= 40


def test_the_command_line_names_what_is_wrong(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "devcluster", "--root", str(tmp_path), "--port", port, "--sleep", "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"devcluster: port={port}: ")


@asynchronous
async def test_a_list_may_be_large(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (_, client):
        for i in range(8):
            manifest = pod(client, f"p{i}", nodeName="elsewhere")
            manifest["metadata"]["annotations"] = {"plan": "x" * 250_000}
            await client.create(manifest)
        listed = await client.call("GET", client.pods)
        assert len(listed.raw) > 2_000_000
        assert [item["metadata"]["name"] for item in listed.body["items"]] == [f"p{i}" for i in range(8)]


@asynchronous
async def test_the_official_client_works(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (cluster, _):
        settings = api.Configuration()
        await config.load_kube_config_from_dict(cluster.kubeconfig(), client_configuration=settings)
        async with api.ApiClient(settings) as connection:
            core: Any = api.CoreV1Api(connection)
            body = {
                "metadata": {"name": "a"},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "run", "image": "i", "command": ["sh", "-c", "echo hello; exit 3"]}],
                },
            }
            created = await core.create_namespaced_pod("default", body)
            assert created.status.phase == "Pending"
            phases = []
            async with watch.Watch() as stream:
                async for event in stream.stream(core.list_namespaced_pod, "default", timeout_seconds=20):
                    phases.append(event["object"].status.phase)
                    if phases[-1] == "Failed":
                        break
            assert phases[-1] == "Failed"
            found = await core.read_namespaced_pod("a", "default")
            assert found.status.container_statuses[0].state.terminated.exit_code == 3
            assert await core.read_namespaced_pod_log("a", "default") == "hello\n"
            listed = await core.list_namespaced_pod("default", label_selector="x notin (y)", limit=1)
            assert [item.metadata.name for item in listed.items] == ["a"]
            await core.delete_namespaced_pod("a", "default")
            with pytest.raises(api.ApiException) as caught:
                await core.read_namespaced_pod("a", "default")
            assert caught.value.status == 404


@asynchronous
async def test_a_mistake_in_the_program_is_an_internal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with local_cluster(tmp_path) as (cluster, client):
        monkeypatch.setattr(cluster._registry, "existing", lambda *_: 1 / 0)
        answer = await client.call("GET", f"{client.pods}/a")
        assert (answer.status, answer.body["reason"]) == (500, "InternalError")
        assert answer.body["message"] == "Internal error occurred: division by zero"


@asynchronous
async def test_a_body_above_the_limit_is_refused(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (_, client):
        answer = await client.call("POST", client.pods, b"x" * (3 * 1024 * 1024 + 1))
        assert (answer.status, answer.body["reason"]) == (413, "RequestEntityTooLarge")


@asynchronous
async def test_while_the_api_server_restarts_connections_break_and_the_pods_run_on(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (cluster, client):
        version = (await client.create(pod(client, "a")))["metadata"]["resourceVersion"]
        await client.running("a")
        watching = asyncio.create_task(collect(client, version))
        async with client.stream(client.pods, watch="true", timeoutSeconds="60") as response:
            await response.content.readany()
            url, back = cluster.url, asyncio.create_task(cluster.restart_api(0.2))
            with pytest.raises(aiohttp.ClientError):
                await response.content.read()
            with pytest.raises(aiohttp.ClientError):
                await watching
            with pytest.raises(aiohttp.ClientConnectorError):  # nobody listens meanwhile
                await client.call("GET", client.pods)
            with pytest.raises(ClusterError, match="does not run"):
                await cluster.restart_api(0)
            await back
        assert cluster.url == url
        found = (await client.call("GET", f"{client.pods}/a")).body
        assert found["status"]["phase"] == "Running"
        events = [e async for e in client.events(client.pods, resourceVersion=version, timeoutSeconds="1")]
        assert [e["type"] for e in events][:1] == ["MODIFIED"]  # what was remembered is remembered still
        assert [(e.verb, e.name) for e in cluster.audit] == [("create", "a")]


async def collect(client: Client, version: str) -> list[Json]:
    return [e async for e in client.events(client.pods, resourceVersion=version, timeoutSeconds="60")]


@asynchronous
async def test_after_a_compaction_older_versions_are_gone_and_watches_that_kept_up_go_on(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (cluster, client):
        created = await client.create(pod(client, "a", nodeName="elsewhere"))
        version = created["metadata"]["resourceVersion"]
        events = client.events(client.pods, resourceVersion=version, timeoutSeconds="30")
        await relabel(client, "a", "before")
        assert (await anext(events))["object"]["metadata"]["labels"]["v"] == "before"
        cluster.compact()
        await relabel(client, "a", "after")
        assert (await anext(events))["object"]["metadata"]["labels"]["v"] == "after"
        await events.aclose()  # type: ignore[attr-defined]
        old = [e async for e in client.events(client.pods, resourceVersion=version, timeoutSeconds="1")]
        assert [(e["type"], e["object"]["code"]) for e in old] == [("ERROR", 410)]
        now = (await client.call("GET", client.pods)).body["metadata"]["resourceVersion"]
        assert [e async for e in client.events(client.pods, resourceVersion=now, timeoutSeconds="1")] == []


@asynchronous
async def test_a_restart_with_compaction_leaves_no_watch_to_go_on_with(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60)) as (cluster, client):
        version = (await client.create(pod(client, "a", nodeName="elsewhere")))["metadata"]["resourceVersion"]
        await client.create(pod(client, "b", nodeName="elsewhere"))
        await cluster.restart_api(0, compact=True)
        events = [e async for e in client.events(client.pods, resourceVersion=version, timeoutSeconds="1")]
        assert [e["object"]["code"] for e in events] == [410]


@asynchronous
async def test_the_audit_log_keeps_as_much_as_it_is_told_with_times(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, SleepRuntime(60), kept_audit=2) as (cluster, client):
        before = time.time()
        for name in "abc":
            await client.create(pod(client, name, nodeName="elsewhere"))
        assert [entry.name for entry in cluster.audit] == ["b", "c"]
        times = [before, *(entry.at for entry in cluster.audit), time.time()]
        assert times == sorted(times)

"""The hollow cluster answers a worker as Kubernetes does, as far as a worker asks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from adapters.kubernetes_api import ApiError, KubernetesApi
from benchmarks.hollow_cluster import NAMESPACE, HollowCluster, hollow_cluster
from benchmarks.hollow_pods import HollowPods, accept
from benchmarks.hollow_site import DESCRIPTION
from runner_spec import anatomy
from runner_spec.admission import admit
from runner_spec.classify import classify, classify_deleted
from runner_spec.description import parse_description
from runner_spec.outcome import Outcome, Running, Verdict, Waiting
from runner_spec.policy import parse_policy
from runner_spec.render import Attempt, render

MINE = f"{anatomy.LABEL_WORKER} in (me,another)"
POLICY = {"user_namespaces": False}
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HollowCluster]:
    with hollow_cluster(tmp_path_factory.mktemp("hollow")) as cluster:
        yield cluster


def manifest(job: str, worker: str = "me") -> dict[str, Any]:
    admitted = admit(parse_description(dict(DESCRIPTION)), parse_policy(POLICY))
    return render(admitted, Attempt(job, 1, worker))


def with_api(cluster: HollowCluster, test: Callable[[KubernetesApi], Awaitable[None]]) -> None:
    async def run() -> None:
        api = await KubernetesApi.connect(NAMESPACE, kubeconfig=cluster.kubeconfig, retry_seconds=0)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await test(api)
        finally:
            await api.close()

    asyncio.run(run())


async def kinds(api: KubernetesApi, version: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    found = []
    async with aclosing(api.watch_pods(MINE, version, seconds=60)) as events:
        async for event in events:
            found.append((event.kind, event.object))
            if len(found) == count:
                break
    return found


def test_a_pod_is_followed_from_its_creation_to_its_deletion_and_classified_on_the_way(cluster: HollowCluster) -> None:
    async def test(api: KubernetesApi) -> None:
        _, version = await api.list_pods(MINE)
        pod = await api.create_pod(manifest("followed"))
        alive = await kinds(api, version, 3)
        assert [kind for kind, _ in alive] == ["ADDED", "MODIFIED", "MODIFIED"]
        assert "nodeName" not in alive[0][1]["spec"]
        assert await asyncio.to_thread(cluster.end, 1) == 1
        assert await api.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"], grace_seconds=0)
        events = await kinds(api, version, 5)
        assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]
        versions = [int(found["metadata"]["resourceVersion"]) for _, found in events]
        assert versions == sorted(set(versions))
        seen = [classify(found, 0.0, policy=parse_policy(POLICY), stop="") for _, found in events]
        assert [type(found) for found in seen] == [Waiting, Waiting, Running, Outcome, Outcome]
        assert isinstance(seen[3], Outcome)
        assert seen[3].verdict is Verdict.SUCCEEDED

    with_api(cluster, test)
    (times,) = [found for found in cluster.times() if found.job == "followed"]
    assert times.created <= times.running <= times.ended <= times.deleted


def test_the_second_pod_of_a_name_is_refused_and_a_deletion_needs_the_right_uid(cluster: HollowCluster) -> None:
    async def test(api: KubernetesApi) -> None:
        pod = await api.create_pod(manifest("once"))
        again = await api.create_pod(manifest("once"))
        assert again["metadata"]["uid"] == pod["metadata"]["uid"]
        name = pod["metadata"]["name"]
        assert not await api.delete_pod(name, "another's")
        assert await api.delete_pod(name, pod["metadata"]["uid"])
        assert await api.get_pod(name) is None
        assert not await api.delete_pod(name, pod["metadata"]["uid"])

    with_api(cluster, test)


def test_a_running_pod_that_is_deleted_with_grace_is_seen_to_end_by_sigterm(cluster: HollowCluster) -> None:
    async def test(api: KubernetesApi) -> None:
        _, version = await api.list_pods(MINE)
        pod = await api.create_pod(manifest("ended-early"))
        await kinds(api, version, 3)
        await api.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"])
        *_, (kind, last) = await kinds(api, version, 6)
        assert kind == "DELETED"
        assert last["metadata"]["deletionTimestamp"]
        assert classify_deleted(last, stop="me").verdict is Verdict.CANCELED

    with_api(cluster, test)


def test_lists_come_in_pages_of_the_selected_and_as_metadata_alone(cluster: HollowCluster) -> None:
    async def test(api: KubernetesApi) -> None:
        wanted = {str((await api.create_pod(manifest(f"page-{n}", "another")))["metadata"]["name"]) for n in range(5)}
        await api.create_pod(manifest("page-other", "stranger"))
        query = {"labelSelector": f"{anatomy.LABEL_WORKER}=another", "limit": "2"}
        names, pages = [], 0
        while True:
            page = await api.call("GET", f"/api/v1/namespaces/{NAMESPACE}/pods", query=query)
            names += [item["metadata"]["name"] for item in page["items"]]
            pages += 1
            if "continue" not in page["metadata"]:
                break
            query["continue"] = page["metadata"]["continue"]
        assert (set(names), len(names), pages) == (wanted, 5, 3)
        found = [metadata["name"] async for metadata in api.pod_metadata(f"{anatomy.LABEL_WORKER}=another")]
        assert found == names

    with_api(cluster, test)


def test_a_log_is_there_once_the_container_has_started(cluster: HollowCluster) -> None:
    async def test(api: KubernetesApi) -> None:
        _, version = await api.list_pods(MINE)
        name = str((await api.create_pod(manifest("log")))["metadata"]["name"])
        await kinds(api, version, 3)
        assert [chunk async for chunk in api.stream_log(name, anatomy.RUN)] == []
        with pytest.raises(ApiError, match="NotFound"):
            _ = [chunk async for chunk in api.stream_log("nobody", anatomy.RUN)]

    with_api(cluster, test)


def test_who_is_too_far_behind_is_told_so() -> None:
    changes = []
    pods = HollowPods(lambda: changes.append(1), history=2)
    pods.create(accept(manifest("a"), "uid", anatomy.ANNOTATION_JOB, 1.0))
    name = next(iter(pods.pods))
    pods.run(name, 2.0)
    for _ in range(4):
        assert pods.flip(name, 3.0)
    assert not pods.has(1)
    assert pods.has(pods.version)
    assert not pods.has(pods.version + 1)
    assert [change.pod.version for change in pods.since(5, 10)] == [6, 7]
    assert len(changes) == 6

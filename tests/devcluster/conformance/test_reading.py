"""Listing and watching."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.devcluster.conformance.api_client import Client, Cluster, Json, asynchronous, pod, unique

# A new API server remembers everything until it first compacts etcd (--etcd-compaction-interval, five minutes).
COMPACTION_S = 330.0
UNSCHEDULABLE: dict[str, Any] = {"nodeSelector": {"conformance.test/no-such-node": "yes"}}


@asynccontextmanager
async def three_pods(client: Client) -> AsyncIterator[str]:
    """Pods <group>-a, -b, -c with label n=1, 2 and none."""
    group = unique("list")
    for letter, labels in (("a", {"n": "1"}), ("b", {"n": "2"}), ("c", {})):
        await client.create(pod(client, f"{group}-{letter}", labels={"group": group, **labels}, **UNSCHEDULABLE))
    try:
        yield group
    finally:
        for letter in "abc":
            await client.delete(f"{group}-{letter}")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", "abc"),
        ("n=1", "a"),
        ("n==1", "a"),
        ("n!=1", "bc"),
        ("n in (1,2)", "ab"),
        ("n in (1, 9)", "a"),
        ("n notin (1)", "bc"),
        ("n", "ab"),
        ("!n", "c"),
        ("n>1", "b"),
        ("n<2", "a"),
        ("n=1,n=2", ""),
        ("n, n notin (1)", "b"),
        ("n=", ""),
    ],
)
@asynchronous
async def test_label_selectors_choose(cluster: Cluster, selector: str, expected: str) -> None:
    async with cluster.client() as client, three_pods(client) as group:
        wanted = f"group={group}" + (f",{selector}" if selector else "")
        listed = (await client.call("GET", client.pods, labelSelector=wanted)).body
        assert [item["metadata"]["name"] for item in listed["items"]] == [f"{group}-{letter}" for letter in expected]


@pytest.mark.parametrize("selector", ["a=b=c", "a in 1", "a in (1", "=1", "a b", "-a=1", "a=b c", "a,,b"])
@asynchronous
async def test_a_malformed_label_selector_is_a_bad_request(cluster: Cluster, selector: str) -> None:
    async with cluster.client() as client:
        answer = await client.call("GET", client.pods, labelSelector=selector)
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest"), answer.body


@asynchronous
async def test_field_selectors_choose(cluster: Cluster) -> None:
    async with cluster.client() as client, three_pods(client) as group:
        for selector, expected in (
            (f"metadata.name={group}-b", "b"),
            (f"metadata.name!={group}-b", "ac"),
            (f"metadata.namespace={cluster.namespace}", "abc"),
            ("status.phase=Pending", "abc"),
            ("status.phase!=Pending", ""),
            ("spec.nodeName=", "abc"),
            (f"metadata.name={group}-a,status.phase=Pending", "a"),
        ):
            answer = await client.call("GET", client.pods, labelSelector=f"group={group}", fieldSelector=selector)
            names = [item["metadata"]["name"] for item in answer.body["items"]]
            assert names == [f"{group}-{letter}" for letter in expected], selector
        answer = await client.call("GET", client.pods, fieldSelector="spec.color=red")
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
        assert "field label not supported: spec.color" in answer.body["message"]


@asynchronous
async def test_a_list_has_a_version_and_items_without_a_kind(cluster: Cluster) -> None:
    async with cluster.client() as client, three_pods(client) as group:
        listed = (await client.call("GET", client.pods, labelSelector=f"group={group}")).body
        assert (listed["kind"], listed["apiVersion"]) == ("PodList", "v1")
        newest = max(int(item["metadata"]["resourceVersion"]) for item in listed["items"])
        assert int(listed["metadata"]["resourceVersion"]) >= newest
        assert "continue" not in listed["metadata"]
        assert all("kind" not in item for item in listed["items"])
        everywhere = (await client.call("GET", "/api/v1/pods", labelSelector=f"group={group}")).body
        assert len(everywhere["items"]) == 3
        empty = (await client.call("GET", client.pods, labelSelector="group=nothing")).body
        assert empty["items"] == []


@asynchronous
async def test_pages_show_one_consistent_state(cluster: Cluster) -> None:
    async with cluster.client() as client, three_pods(client) as group:
        selector = f"group={group}"
        first = (await client.call("GET", client.pods, labelSelector=selector, limit="2")).body
        assert [item["metadata"]["name"] for item in first["items"]] == [f"{group}-a", f"{group}-b"]
        assert "remainingItemCount" not in first["metadata"]  # not with a selector
        token = first["metadata"]["continue"]
        late = f"{group}-d"
        await client.create(pod(client, late, labels={"group": group}, **UNSCHEDULABLE))
        await client.delete(f"{group}-c")
        second = (await client.call("GET", client.pods, labelSelector=selector, limit="2", **{"continue": token})).body
        assert [item["metadata"]["name"] for item in second["items"]] == [f"{group}-c"]
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        assert "continue" not in second["metadata"]
        await client.delete(late)
        whole = (await client.call("GET", client.pods, limit="1")).body
        everything = (await client.call("GET", client.pods)).body
        if len(everything["items"]) > 1:
            assert whole["metadata"]["remainingItemCount"] >= 1
        bad = await client.call("GET", client.pods, **{"continue": "nonsense"})
        assert (bad.status, bad.body["reason"]) == (400, "BadRequest")


@asynchronous
async def test_a_version_from_the_future_times_out(cluster: Cluster) -> None:
    async with cluster.client() as client:
        now = int((await client.call("GET", client.pods)).body["metadata"]["resourceVersion"])
        answer = await client.call("GET", client.pods, resourceVersion=str(now + 10_000_000))
        assert (answer.status, answer.body["reason"]) == (504, "Timeout")
        assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def _version(client: Client) -> str:
    listed = await client.call("GET", client.pods, limit="1")
    return str(listed.body["metadata"]["resourceVersion"])


async def _collect(client: Client, count: int, **params: str) -> list[Json]:
    events = []
    async for event in client.events(client.pods, **{"timeoutSeconds": "20", **params}):
        events.append(event)
        if len(events) == count:
            break
    return events


@asynchronous
async def test_a_watch_continues_a_list(cluster: Cluster) -> None:
    async with cluster.client() as client:
        version, name = await _version(client), unique("watch")
        watching = asyncio.create_task(
            _collect(client, 4, resourceVersion=version, fieldSelector=f"metadata.name={name}")
        )
        await client.create(pod(client, name, labels={"a": "1"}, nodeName="no-such-node"))
        patch = {"metadata": {"labels": {"a": "2"}}}
        await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        await client.delete(name)
        events = await watching
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
        assert versions == sorted(set(versions))
        assert all(event["object"]["kind"] == "Pod" for event in events)
        # A deletion without grace is first written, then carried out.
        assert events[2]["object"]["metadata"]["deletionGracePeriodSeconds"] == 0
        assert events[2]["object"]["metadata"]["generation"] == 2
        assert events[3]["object"]["metadata"]["labels"] == {"a": "2"}


@asynchronous
async def test_a_watch_without_a_version_begins_with_what_there_is(cluster: Cluster) -> None:
    async with cluster.client() as client, three_pods(client) as group:
        events = await _collect(client, 3, labelSelector=f"group={group}")
        assert {event["type"] for event in events} == {"ADDED"}
        assert sorted(event["object"]["metadata"]["name"][-1] for event in events) == ["a", "b", "c"]


@asynchronous
async def test_a_watch_answers_before_anything_happens(cluster: Cluster) -> None:
    async with cluster.client() as client:
        params = {"watch": "true", "resourceVersion": await _version(client), "labelSelector": "group=nothing"}
        async with asyncio.timeout(10), client.stream(client.pods, timeoutSeconds="60", **params) as response:
            assert response.status == 200


@asynchronous
async def test_a_pod_that_stops_matching_is_deleted_for_the_watcher(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name, group = unique("move"), unique("group")
        created = await client.create(pod(client, name, labels={"group": group}, nodeName="no-such-node"))
        version = created["metadata"]["resourceVersion"]
        watching = asyncio.create_task(_collect(client, 2, resourceVersion=version, labelSelector=f"group={group}"))
        for value in ("elsewhere", group):
            patch = {"metadata": {"labels": {"group": value}}}
            await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        gone, back = await watching
        assert gone["type"] == "DELETED"
        assert gone["object"]["metadata"]["labels"] == {"group": group}
        assert int(gone["object"]["metadata"]["resourceVersion"]) > int(version)
        assert back["type"] == "ADDED"
        await client.delete(name)


@asynchronous
async def test_a_watch_ends_at_its_timeout(cluster: Cluster) -> None:
    async with cluster.client() as client:
        version = await _version(client)
        params = {"resourceVersion": version, "labelSelector": "group=nothing"}
        began = asyncio.get_running_loop().time()
        # A real watch cache sends bookmarks when it has time, and to short watches often none.
        bookmarks = client.events(client.pods, timeoutSeconds="5", allowWatchBookmarks="true", **params)
        events = [event async for event in bookmarks]
        assert 4 < asyncio.get_running_loop().time() - began < 15
        assert {event["type"] for event in events} <= {"BOOKMARK"}
        assert all(int(event["object"]["metadata"]["resourceVersion"]) >= int(version) for event in events)
        assert [event async for event in client.events(client.pods, timeoutSeconds="1", **params)] == []


@asynchronous
async def test_a_bookmark_tells_a_watch_how_far_it_has_come_without_events_of_its_own(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("elsewhere")
        params = {"resourceVersion": await _version(client), "labelSelector": "group=nothing"}
        # It comes two seconds before the watch's end.
        params |= {"allowWatchBookmarks": "true", "timeoutSeconds": "8"}
        watching = asyncio.create_task(_collect(client, 1, **params))
        created = await client.create(pod(client, name, **UNSCHEDULABLE))
        (bookmark,) = await watching
        assert bookmark["type"] == "BOOKMARK"
        reached = bookmark["object"]
        assert (reached["kind"], reached["apiVersion"]) == ("Pod", "v1")
        version = reached["metadata"]["resourceVersion"]
        assert int(version) >= int(created["metadata"]["resourceVersion"])
        # From there on, nothing is missed and nothing is repeated.
        continued = asyncio.create_task(
            _collect(client, 1, resourceVersion=version, fieldSelector=f"metadata.name={name}")
        )
        await client.delete(name)
        (event,) = await continued
        assert event["type"] in {"MODIFIED", "DELETED"}


@pytest.mark.timeout(COMPACTION_S + 60)
@asynchronous
async def test_a_watch_from_too_far_back_gets_an_error_event(cluster: Cluster) -> None:
    async with cluster.client() as client:
        events: list[dict[str, Any]] = []
        deadline = time.monotonic() + COMPACTION_S
        while [event["type"] for event in events] != ["ERROR"] and time.monotonic() < deadline:
            events = [event async for event in client.events(client.pods, resourceVersion="1", timeoutSeconds="5")]
        assert [event["type"] for event in events] == ["ERROR"]
        status = events[0]["object"]
        assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
        assert status["message"].startswith("too old resource version: 1 (")


@asynchronous
async def test_initial_events_end_with_a_marked_bookmark(cluster: Cluster) -> None:
    async with cluster.client() as client, three_pods(client) as group:
        params = {
            "labelSelector": f"group={group}",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
        }
        events = []
        async for event in client.events(client.pods, timeoutSeconds="20", **params):
            events.append(event)
            if event["type"] == "BOOKMARK":
                break
        # A real scheduler or kubelet may change the pods before the bookmark comes.
        assert [event["type"] for event in events if event["type"] != "MODIFIED"] == ["ADDED"] * 3 + ["BOOKMARK"]
        assert events[-1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        bad = await client.call("GET", client.pods, watch="true", sendInitialEvents="true")
        assert (bad.status, bad.body["reason"]) == (422, "Invalid")


@pytest.mark.parametrize("path", ["/api/v1/nothings", "/api/v1/namespaces/default/nothings/x", "/nothing"])
@asynchronous
async def test_an_unknown_path_is_not_found(cluster: Cluster, path: str) -> None:
    async with cluster.client() as client:
        assert (await client.call("GET", path)).status == 404


@asynchronous
async def test_an_unknown_verb_is_not_allowed(cluster: Cluster) -> None:
    async with cluster.client() as client:
        answer = await client.call("PUT", client.pods, {})
        assert answer.status == 405
        assert answer.body["reason"] == "MethodNotAllowed"

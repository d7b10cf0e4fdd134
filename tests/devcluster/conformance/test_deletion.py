"""Deletions: graceful, hurried, forced, conditional."""

import asyncio

from tests.devcluster.conformance.api_client import (
    OBEDIENT,
    Cluster,
    asynchronous,
    pod,
    sidecar,
    terminated,
    unique,
)


@asynchronous
async def test_a_deletion_lets_the_pod_end_and_its_last_event_tells_how(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("delete")
        inits = [sidecar(client, "side", 3)]
        await client.create(pod(client, name, OBEDIENT.format(code=7), initContainers=inits, grace=20))
        await client.running(name)
        await client.logged(name, b"up", container="run")
        gone = asyncio.create_task(client.until(name, lambda _, kind: kind == "DELETED"))
        await asyncio.sleep(0.2)
        answer = await client.call("DELETE", f"{client.pods}/{name}")
        assert answer.status == 200
        assert answer.body["kind"] == "Pod"
        assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 20
        assert answer.body["metadata"]["deletionTimestamp"] > answer.body["metadata"]["creationTimestamp"]
        assert answer.body["metadata"]["generation"] == 2
        last = await gone
        assert last["status"]["phase"] == "Failed"
        assert terminated(last, "run")["exitCode"] == 7
        assert terminated(last, "side")["exitCode"] == 3
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404


@asynchronous
async def test_what_ignores_sigterm_is_killed_when_its_grace_is_over(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("stubborn")
        await client.create(pod(client, name, "trap '' TERM; echo up; while :; do sleep 0.1; done", grace=6))
        await client.running(name)
        await client.logged(name, b"up")
        gone = asyncio.create_task(client.until(name, lambda _, kind: kind == "DELETED"))
        await client.call("DELETE", f"{client.pods}/{name}")
        # A second deletion may only hurry the first. (The API says so; a containerd that is waiting already does not
        # look again, devcluster does.)
        hurried = await client.call("DELETE", f"{client.pods}/{name}", {"gracePeriodSeconds": 1})
        assert hurried.body["metadata"]["deletionGracePeriodSeconds"] == 1
        slower = await client.call("DELETE", f"{client.pods}/{name}", {"gracePeriodSeconds": 15})
        assert slower.body["metadata"]["deletionGracePeriodSeconds"] == 1
        assert terminated(await gone, "run")["exitCode"] == 137


@asynchronous
async def test_a_deletion_without_grace_is_immediate(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("force")
        await client.create(pod(client, name, "sleep 1000"))
        await client.running(name)
        answer = await client.call("DELETE", f"{client.pods}/{name}", {"gracePeriodSeconds": 0})
        assert answer.status == 200
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404
        again = await client.create(pod(client, name, "exit 0"))
        assert (await client.ended(name))["metadata"]["uid"] == again["metadata"]["uid"]
        await client.delete(name)


@asynchronous
async def test_an_ended_pod_is_deleted_at_once(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("ended")
        await client.create(pod(client, name, grace=60))
        await client.ended(name)
        answer = await client.call("DELETE", f"{client.pods}/{name}")
        assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 0
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404


@asynchronous
async def test_a_deletion_of_another_uid_conflicts(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("uid")
        created = await client.create(pod(client, name, nodeName="no-such-node"))
        uid = created["metadata"]["uid"]
        answer = await client.call("DELETE", f"{client.pods}/{name}", {"preconditions": {"uid": "other"}})
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
        assert answer.body["message"] == (
            f'Operation cannot be fulfilled on Pod "{name}": the UID in the precondition (other) does not match the '
            f"UID in record ({uid}). The object might have been deleted and then recreated"
        )
        wrong = {"preconditions": {"resourceVersion": "1"}}
        answer = await client.call("DELETE", f"{client.pods}/{name}", wrong)
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
        right = {"preconditions": {"uid": uid}, "gracePeriodSeconds": 0}
        assert (await client.call("DELETE", f"{client.pods}/{name}", right)).status == 200


@asynchronous
async def test_a_finalizer_keeps_the_object(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("final")
        manifest = pod(client, name, "exit 0")
        manifest["metadata"]["finalizers"] = ["conformance.test/keep"]
        await client.create(manifest)
        await client.ended(name)
        await client.delete(name)
        kept = await client.call("GET", f"{client.pods}/{name}")
        assert kept.status == 200
        assert "deletionTimestamp" in kept.body["metadata"]
        again = await client.call("POST", client.pods, manifest)
        assert again.body["message"] == f'object is being deleted: pods "{name}" already exists'
        patch = {"metadata": {"finalizers": None}}
        await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404

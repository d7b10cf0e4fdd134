"""What happens to a pod by itself: init containers, ends, deadlines, events."""

import asyncio
import itertools

import pytest

from tests.devcluster.conformance.api_client import (
    OBEDIENT,
    Cluster,
    Json,
    asynchronous,
    conditions,
    container,
    pod,
    sidecar,
    terminated,
    unique,
)


@pytest.mark.parametrize(
    ("script", "code", "reason", "phase"),
    [
        ("exit 0", 0, "Completed", "Succeeded"),
        ("exit 3", 3, "Error", "Failed"),
        # "$$" is Kubernetes' escape of "$". A shell that is process 1 cannot kill itself: its child does it.
        ("sh -c 'kill -9 $$$$'; exit $?", 137, "Error", "Failed"),
    ],
)
@asynchronous
async def test_the_exit_code_decides_the_phase(
    cluster: Cluster, script: str, code: int, reason: str, phase: str
) -> None:
    async with cluster.client() as client:
        name = unique("exit")
        await client.create(pod(client, name, script))
        found = await client.ended(name)
        ended = terminated(found, "run")
        assert (found["status"]["phase"], ended["exitCode"], ended["reason"]) == (phase, code, reason)
        assert ended["startedAt"] <= ended["finishedAt"]
        assert ended["containerID"]
        why = "PodCompleted" if phase == "Succeeded" else "PodFailed"
        assert conditions(found)["Ready"] == ("False", why)
        assert conditions(found)["ContainersReady"] == ("False", why)
        assert conditions(found)["PodScheduled"] == ("True", "")
        assert found["spec"]["nodeName"]
        assert found["status"]["containerStatuses"][0]["restartCount"] == 0
        await client.delete(name)


@asynchronous
async def test_a_running_pod_is_ready(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("ready")
        await client.create(pod(client, name, "sleep 100"))
        found = await client.until(
            name,
            lambda p, _: any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ())),
        )
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"):
            assert conditions(found)[kind][0] == "True"
        status = found["status"]["containerStatuses"][0]
        assert (status["ready"], status["started"], list(status["state"])) == (True, True, ["running"])
        assert found["status"]["hostIP"]
        assert found["status"]["podIP"]
        assert found["status"]["startTime"]
        await client.delete(name)


@asynchronous
async def test_init_containers_run_one_after_the_other(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("init")
        mount = {"volumeMounts": [{"name": "w", "mountPath": "/w"}], "workingDir": "/w"}
        inits = [container(client, f"i{n}", f"cat log; echo i{n} >>log", **mount) for n in (1, 2)]
        manifest = pod(
            client, name, "cat log", initContainers=inits, volumes=[{"name": "w", "emptyDir": {}}], container=mount
        )
        await client.create(manifest)
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed" or await client.log(name, container="run") == b"i1\ni2\n"
        assert await client.log(name, container="run") == b"i1\ni2\n"
        assert [status["ready"] for status in found["status"]["initContainerStatuses"]] == [True, True]
        assert conditions(found)["Initialized"] == ("True", "PodCompleted")
        await client.delete(name)


@asynchronous
async def test_a_failed_init_container_fails_the_pod_and_nothing_after_it_starts(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("initfail")
        inits = [container(client, "bad", "exit 4"), container(client, "never", "exit 0")]
        await client.create(pod(client, name, initContainers=inits))
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed"
        assert terminated(found, "bad")["exitCode"] == 4
        assert found["status"]["initContainerStatuses"][1]["state"]["waiting"]["reason"] == "PodInitializing"
        assert found["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
        assert conditions(found)["Initialized"] == ("False", "ContainersNotInitialized")
        answer = await client.call("GET", f"{client.pods}/{name}/log", container="run")
        assert answer.status == 400
        assert answer.body["message"] == f'container "run" in pod "{name}" is waiting to start: PodInitializing'
        await client.delete(name)


@asynchronous
async def test_the_deadline_ends_the_pod(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("deadline")
        inits = [sidecar(client, "side", 3)]
        manifest = pod(client, name, OBEDIENT.format(code=0), activeDeadlineSeconds=3, initContainers=inits, grace=10)
        await client.create(manifest)
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed"
        assert found["status"]["reason"] == "DeadlineExceeded"
        assert "longer than the specified deadline" in found["status"]["message"]
        assert terminated(found, "run")["exitCode"] == 0
        assert terminated(found, "side")["exitCode"] == 3
        await client.delete(name)


@asynchronous
async def test_a_declared_end_is_taken_back_by_the_kubelet(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("declared")
        await client.create(pod(client, name, OBEDIENT.format(code=0), grace=10))
        await client.running(name)
        patch = {"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}}
        answer = await client.call(
            "PATCH", f"{client.pods}/{name}/status", patch, content_type="application/merge-patch+json"
        )
        assert answer.body["status"]["phase"] == "Failed"
        found = await client.until(name, lambda p, kind: kind == "MODIFIED" and p["status"]["phase"] == "Running")
        assert "reason" not in found["status"]
        assert "running" in found["status"]["containerStatuses"][0]["state"]
        await client.delete(name)


@asynchronous
async def test_a_command_that_does_not_exist_is_a_start_error(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("nocommand")
        await client.create(pod(client, name, container={"command": ["no-such-command"]}))
        found = await client.ended(name)
        ended = terminated(found, "run")
        assert (found["status"]["phase"], ended["exitCode"], ended["reason"]) == ("Failed", 128, "StartError")
        assert 'exec: "no-such-command": executable file not found in $PATH' in ended["message"]
        assert ended["startedAt"] == "1970-01-01T00:00:00Z"
        await client.delete(name)


@asynchronous
async def test_events_tell_what_happened_to_a_pod(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("told")
        await client.create(pod(client, name))
        await client.ended(name)
        selector = f"involvedObject.name={name},involvedObject.kind=Pod"
        async with asyncio.timeout(20):
            while True:
                listed = (await client.call("GET", f"{client.namespaced}/events", fieldSelector=selector)).body["items"]
                reasons = {event["reason"] for event in listed}
                if {"Scheduled", "Pulled", "Created", "Started"} <= reasons:
                    break
                await asyncio.sleep(0.2)
        started = next(event for event in listed if event["reason"] == "Started")
        assert started["type"] == "Normal"
        assert started["involvedObject"]["fieldPath"] == "spec.containers{run}"
        assert "run" in started["message"]
        await client.delete(name)


@asynchronous
async def test_a_pod_that_fits_no_node_says_so(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("nowhere")
        await client.create(pod(client, name, nodeSelector={"conformance.test/no-such-node": "yes"}))

        def told(found: Json, _: str) -> bool:
            return any(c["type"] == "PodScheduled" for c in found["status"].get("conditions", ()))

        found = await client.until(name, told)
        assert found["status"]["phase"] == "Pending"
        assert conditions(found)["PodScheduled"] == ("False", "Unschedulable")
        answer = await client.call("GET", f"{client.pods}/{name}/log")
        assert (answer.status, answer.raw) == (204, b"")
        await client.delete(name)


@pytest.mark.parametrize(("code", "last"), [(0, "Succeeded"), (1, "Failed")])
@asynchronous
async def test_the_phase_goes_from_pending_through_running_to_its_end_and_never_back(
    cluster: Cluster, code: int, last: str
) -> None:
    async with cluster.client() as client:
        name = unique("phases")
        created = await client.create(pod(client, name, f"sleep 2; exit {code}"))
        phases = [created["status"]["phase"]]
        events = client.events(
            client.pods, fieldSelector=f"metadata.name={name}", resourceVersion=created["metadata"]["resourceVersion"]
        )
        async with asyncio.timeout(60):
            async for event in events:
                phases.append(event["object"]["status"]["phase"])
                if phases[-1] == last:
                    break
        assert [phase for phase, _ in itertools.groupby(phases)] == ["Pending", "Running", last]
        await client.delete(name)


@asynchronous
async def test_scratch_folders_may_have_a_size_limit_and_lie_in_memory(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("scratch")
        volumes = [
            {"name": "disk", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]
        mounts = [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]
        created = await client.create(
            pod(
                client,
                name,
                "echo fits >file; cat file",
                volumes=volumes,
                container={"volumeMounts": mounts, "workingDir": "/memory"},
            )
        )
        assert [v["emptyDir"] for v in created["spec"]["volumes"] if "emptyDir" in v] == [
            {"sizeLimit": "16Mi"},
            {"medium": "Memory", "sizeLimit": "1Mi"},
        ]
        assert (await client.ended(name))["status"]["phase"] == "Succeeded"
        assert await client.log(name) == b"fits\n"
        await client.delete(name)


@asynchronous
async def test_host_aliases_are_names_of_the_pod(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("aliases")
        aliases = [{"ip": "127.0.0.1", "hostnames": ["db", "db.test"]}]
        created = await client.create(pod(client, name, "cat /etc/hosts", hostAliases=aliases))
        assert created["spec"]["hostAliases"] == aliases
        assert (await client.ended(name))["status"]["phase"] == "Succeeded"
        if cluster.isolates:  # processes of one machine share its /etc/hosts
            assert b"127.0.0.1\tdb\tdb.test\n" in await client.log(name)
        await client.delete(name)

"""Native sidecars: when they start, restart and end."""

from tests.devcluster.conformance.api_client import (
    OBEDIENT,
    Cluster,
    Json,
    asynchronous,
    container,
    pod,
    sidecar,
    terminated,
    unique,
)


@asynchronous
async def test_sidecars_outlive_the_main_container_and_do_not_decide_the_phase(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("sidecar")
        inits = [sidecar(client, "one", 5), container(client, "init", "exit 0"), sidecar(client, "two", 6)]
        await client.create(pod(client, name, "exit 0", initContainers=inits, grace=20))
        found = await client.ended(name)
        assert found["status"]["phase"] == "Succeeded"
        assert terminated(found, "one")["exitCode"] == 5
        assert terminated(found, "two")["exitCode"] == 6
        starts = [terminated(found, which)["startedAt"] for which in ("one", "init", "two", "run")]
        assert starts == sorted(starts)
        assert terminated(found, "init")["finishedAt"] <= starts[2]
        stopped = [
            (await client.log(name, container=which, timestamps="true")).decode().splitlines()[-1].split()
            for which in ("two", "one")
        ]
        assert [words[1] for words in stopped] == ["stopped", "stopped"]
        assert stopped[0][0] < stopped[1][0]  # the last one started is the first one stopped
        await client.delete(name)


@asynchronous
async def test_the_phase_turns_terminal_only_after_the_sidecars(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("after")
        slow = container(
            client, "slow", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done", restartPolicy="Always"
        )
        await client.create(pod(client, name, "exit 9", initContainers=[slow], grace=20))

        def main_ended(found: Json, _: str) -> bool:
            statuses = found["status"].get("containerStatuses") or [{"state": {}}]
            return "terminated" in statuses[0]["state"]

        found = await client.until(name, main_ended)
        assert found["status"]["phase"] == "Running"
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed"
        assert terminated(found, "slow")["exitCode"] == 0
        assert terminated(found, "run")["exitCode"] == 9
        await client.delete(name)


@asynchronous
async def test_a_sidecar_with_a_startup_probe_holds_back_what_follows(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("probe")
        mount = {"volumeMounts": [{"name": "w", "mountPath": "/w"}], "workingDir": "/w"}
        probe = {"exec": {"command": ["sh", "-c", "test -f ready"]}, "periodSeconds": 1, "failureThreshold": 30}
        if cluster.image != "busybox":
            probe["exec"] = {"command": ["sh", "-c", "test -f /w/ready"]}
        script = "trap 'exit 0' TERM; sleep 2; touch ready; while :; do sleep 0.1; done"
        slow = container(client, "slow", script, restartPolicy="Always", startupProbe=probe, **mount)
        manifest = pod(
            client,
            name,
            "test -f ready",
            initContainers=[slow],
            volumes=[{"name": "w", "emptyDir": {}}],
            container=mount,
        )
        await client.create(manifest)
        assert (await client.ended(name))["status"]["phase"] == "Succeeded"
        await client.delete(name)


@asynchronous
async def test_a_crashing_sidecar_is_restarted(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("crash")
        mount = {"volumeMounts": [{"name": "w", "mountPath": "/w"}], "workingDir": "/w"}
        script = f"test -f again || {{ touch again; echo first; exit 8; }}; {OBEDIENT.format(code=0)}"
        side = container(client, "side", script, restartPolicy="Always", **mount)
        manifest = pod(client, name, "sleep 100", initContainers=[side], volumes=[{"name": "w", "emptyDir": {}}])
        await client.create(manifest)

        def restarted(found: Json, _: str) -> bool:
            status = (found["status"].get("initContainerStatuses") or [{}])[0]
            return status.get("restartCount") == 1 and "running" in status["state"]

        found = await client.until(name, restarted)
        assert found["status"]["initContainerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 8
        assert await client.log(name, container="side", previous="true") == b"first\n"
        await client.delete(name)


@asynchronous
async def test_a_sidecar_that_never_passes_its_startup_probe_is_restarted_and_nothing_follows_it(
    cluster: Cluster,
) -> None:
    async with cluster.client() as client:
        name = unique("unready")
        probe = {"exec": {"command": ["sh", "-c", "exit 1"]}, "periodSeconds": 1, "failureThreshold": 1}
        side = sidecar(client, "side", 5, startupProbe=probe)
        await client.create(pod(client, name, initContainers=[side]))

        def restarted(found: Json, _: str) -> bool:
            return bool((found["status"].get("initContainerStatuses") or [{}])[0].get("restartCount"))

        found = await client.until(name, restarted)
        assert found["status"]["phase"] == "Pending"
        status = found["status"]["initContainerStatuses"][0]
        assert (status["ready"], status["started"]) == (False, False)
        # 5: it was told to stop, and obeyed; 137 or 143: it was told before it could listen.
        assert status["lastState"]["terminated"]["exitCode"] in {5, 137, 143}
        assert found["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
        await client.delete(name)

"""Termination messages: what a container leaves behind in its status."""

import pytest

from tests.devcluster.conformance.api_client import Cluster, asynchronous, container, pod, terminated, unique


@asynchronous
async def test_termination_messages_are_kept_up_to_4096_bytes(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("message")
        variables = {"env": [{"name": "MESSAGE", "value": "/dev/termination-log"}]}
        script = 'i=0; while [ $i -lt 500 ]; do echo "line $i ....."; i=$((i+1)); done >$MESSAGE'
        await client.create(pod(client, name, script, container=variables))
        message = terminated(await client.ended(name), "run")["message"]
        assert len(message) == 4096
        assert message.endswith("line 499 .....\n")
        await client.delete(name)


@asynchronous
async def test_the_log_can_be_the_termination_message(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("fallback")
        fields = {"terminationMessagePolicy": "FallbackToLogsOnError"}
        await client.create(pod(client, name, "echo it broke; exit 1", container=fields))
        assert terminated(await client.ended(name), "run")["message"] == "it broke\n"
        await client.delete(name)


@asynchronous
async def test_the_containers_of_a_pod_share_12_kib_of_messages(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("share")
        variables = {"env": [{"name": "MESSAGE", "value": "/dev/termination-log"}]}
        # 4096 bytes: within each one's own limit.
        script = "printf %s {0} >$MESSAGE; head -c 4095 /dev/zero | tr '\\0' x >>$MESSAGE"
        inits = [container(client, f"i{n}", script.format(n), **variables) for n in (1, 2)]
        manifest = pod(client, name, script.format(3) + "; exit 1", initContainers=inits, container=variables)
        manifest["spec"]["containers"].append(container(client, "fourth", script.format(4), **variables))
        await client.create(manifest)
        found = await client.ended(name)
        for which, first in (("i1", "1"), ("i2", "2"), ("run", "3"), ("fourth", "4")):
            assert terminated(found, which)["message"] == first + "x" * 3071
        await client.delete(name)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo to the log; exit 0", None),
        ("echo to the log; printf own >$MESSAGE; exit 1", "own"),
        ("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; done; exit 1", "".join(f"{n}\n" for n in range(21, 101))),
        ("head -c 5000 /dev/zero | tr '\\0' x; echo end; exit 1", "x" * 2044 + "end\n"),
    ],
    ids=["success", "own message", "80 lines", "2048 bytes"],
)
@asynchronous
async def test_the_log_is_the_message_after_an_error_without_one(
    cluster: Cluster, script: str, message: str | None
) -> None:
    async with cluster.client() as client:
        name = unique("fallback")
        fields = {
            "env": [{"name": "MESSAGE", "value": "/dev/termination-log"}],
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        await client.create(pod(client, name, script, container=fields))
        assert terminated(await client.ended(name), "run").get("message") == message
        await client.delete(name)

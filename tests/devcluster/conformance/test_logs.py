"""`pods/log`, byte for byte."""

import asyncio
import re

import pytest

from tests.devcluster.conformance.api_client import Client, Cluster, asynchronous, container, pod, unique

STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


async def ended_pod(client: Client, script: str) -> str:
    name = unique("log")
    await client.create(pod(client, name, script))
    await client.ended(name)
    return name


@asynchronous
async def test_a_log_is_what_was_written(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = await ended_pod(client, r"printf 'a\n\nb\0\377\r\n'; printf 'no newline'")
        # A carriage return before a newline belongs to the line's end, for containerd.
        assert await client.log(name) == b"a\n\nb\0\xff\nno newline"
        stamped = await client.log(name, timestamps="true")
        assert STAMP.sub(b"", stamped) == b"a\n\nb\0\xff\nno newline"
        assert len(STAMP.findall(stamped)) == 4
        await client.delete(name)


@asynchronous
async def test_a_long_line_has_one_timestamp(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = await ended_pod(client, "head -c 50000 /dev/zero | tr '\\0' x; echo; echo end")
        assert await client.log(name) == b"x" * 50000 + b"\nend\n"
        stamped = await client.log(name, timestamps="true")
        assert len(STAMP.findall(stamped)) == 2
        assert STAMP.sub(b"", stamped) == b"x" * 50000 + b"\nend\n"
        await client.delete(name)


@asynchronous
async def test_a_part_of_a_log_can_be_asked_for(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = await ended_pod(client, "for i in 1 2 3 4 5; do echo line $i; done")
        assert await client.log(name, tailLines="2") == b"line 4\nline 5\n"
        assert await client.log(name, tailLines="0") == b""
        assert await client.log(name, tailLines="99") == b"line 1\nline 2\nline 3\nline 4\nline 5\n"
        assert await client.log(name, limitBytes="9") == b"line 1\nli"
        assert await client.log(name, tailLines="2", limitBytes="8") == b"line 4\nl"
        assert await client.log(name, sinceTime="2001-01-01T00:00:00Z", tailLines="1") == b"line 5\n"
        assert await client.log(name, sinceTime="2999-01-01T00:00:00Z") == b""
        assert await client.log(name, sinceSeconds="3600", tailLines="1") == b"line 5\n"
        await client.delete(name)


@asynchronous
async def test_since_time_repeats_the_second_it_names(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = await ended_pod(client, "echo one; sleep 1.2; echo two")
        first, second = (await client.log(name, timestamps="true")).decode().splitlines()
        stamp = second.split()[0]
        # The API passes whole seconds to the kubelet: a fraction is lost, and nothing with it.
        assert await client.log(name, sinceTime=stamp) == b"two\n"
        assert first.split()[0] < stamp
        await client.delete(name)


@asynchronous
async def test_a_follower_may_leave_in_the_middle(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("leave")
        await client.create(pod(client, name, "while :; do echo again; done"))
        await client.running(name)
        for _ in range(5):  # devcluster's fixture looks for complaints
            assert b"again" in await client.logged(name, b"again")
        assert b"again" in await client.log(name, limitBytes="100")
        await client.delete(name)


@asynchronous
async def test_following_from_a_time_shows_what_came_since(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("resume")
        await client.create(pod(client, name, "echo one; sleep 1.2; echo two; sleep 1.2; echo three; sleep 1"))
        await client.running(name)
        seen = await client.logged(name, b" two\n", timestamps="true")
        stamp = next(line.split()[0] for line in seen.decode().splitlines() if line.endswith(" two"))
        params = {"follow": "true", "timestamps": "true", "sinceTime": stamp}
        async with asyncio.timeout(30), client.stream(f"{client.pods}/{name}/log", **params) as response:
            assert response.status == 200
            lines = (await response.read()).decode().splitlines()
        assert [line.split()[1] for line in lines] == ["two", "three"]
        assert lines[0].split()[0] == stamp
        await client.delete(name)


@asynchronous
async def test_following_a_log_ends_with_the_container(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("follow")
        await client.create(pod(client, name, "for i in 1 2 3; do echo $i; sleep 0.5; done"))
        await client.until(name, lambda p, _: p["status"].get("phase") in ("Running", "Succeeded"))
        async with asyncio.timeout(30):
            async with client.stream(f"{client.pods}/{name}/log", follow="true") as response:
                assert response.status == 200
                assert response.content_type == "text/plain"
                assert await response.read() == b"1\n2\n3\n"
        await client.delete(name)


@asynchronous
async def test_a_pod_with_several_containers_needs_a_name(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("several")
        manifest = pod(client, name, "echo main", initContainers=[container(client, "init", "echo init")])
        manifest["spec"]["containers"].append(container(client, "second", "echo second"))
        await client.create(manifest)
        await client.ended(name)
        answer = await client.call("GET", f"{client.pods}/{name}/log")
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
        assert answer.body["message"] == (
            f"a container name must be specified for pod {name}, choose one of: [init run second]"
        )
        assert await client.log(name, container="init") == b"init\n"
        answer = await client.call("GET", f"{client.pods}/{name}/log", container="third")
        assert answer.body["message"] == f"container third is not valid for pod {name}"
        answer = await client.call("GET", f"{client.pods}/{name}/log", container="init", previous="true")
        assert answer.status == 400
        assert answer.body["message"] == f'previous terminated container "init" in pod "{name}" not found'
        await client.delete(name)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"tailLines": "-1"}, "tailLines"),
        ({"limitBytes": "0"}, "limitBytes"),
        ({"sinceSeconds": "0"}, "sinceSeconds"),
    ],
)
@asynchronous
async def test_options_out_of_range_are_invalid(cluster: Cluster, params: dict[str, str], field: str) -> None:
    async with cluster.client() as client:
        name = unique("options")
        await client.create(pod(client, name, nodeName="no-such-node"))
        answer = await client.call("GET", f"{client.pods}/{name}/log", **params)
        assert (answer.status, answer.body["reason"]) == (422, "Invalid")
        assert answer.body["details"]["causes"][0]["field"] == field
        both = await client.call("GET", f"{client.pods}/{name}/log", sinceSeconds="1", sinceTime="2001-01-01T00:00:00Z")
        assert both.status == 422
        await client.delete(name)


@asynchronous
async def test_the_log_of_a_missing_pod_is_not_found(cluster: Cluster) -> None:
    async with cluster.client() as client:
        answer = await client.call("GET", f"{client.pods}/no-such-pod/log")
        assert (answer.status, answer.body["message"]) == (404, 'pods "no-such-pod" not found')

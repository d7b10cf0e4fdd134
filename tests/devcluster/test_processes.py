"""Containers as processes: nothing survives them, their signals, limits, paths and environment."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devcluster.memory_cgroup import MemoryCgroups
from devcluster.pod_fields import Role
from devcluster.process_runtime import Image, ProcessContainer, ProcessRuntime
from devcluster.runtime import ContainerRequest
from tests.devcluster.conformance.api_client import Client, Cluster, Json, asynchronous, container, pod, terminated
from tests.devcluster.local_cluster import local_cluster

ROOT = Path(__file__).parents[2]


def alive(marker: str) -> list[int]:
    """Processes whose command line holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


async def wait_for_log(client: Client, name: str, text: bytes) -> None:
    await client.running(name)
    await client.logged(name, text)


def escaping(marker: str) -> str:
    """A script that leaves processes in other sessions and groups behind, and ends."""
    sleeper = f"{sys.executable} -c 'import time; time.sleep(600)' {marker}"
    return f"setsid {sleeper} & (setsid setsid {sleeper} &) ; {sleeper} & sleep 0.3; echo up"


@asynchronous
async def test_nothing_outlives_its_container(tmp_path: Path) -> None:
    marker = tmp_path.name
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", escaping(marker)))
        assert (await client.ended("a"))["status"]["phase"] == "Succeeded"
        assert await client.log("a") == b"up\n"
        assert alive(marker) == []


@asynchronous
async def test_a_signal_that_comes_between_the_last_process_and_the_end_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of the pipe to the container's init may belong to somebody else's connection by then."""
    ending, go_on, reads = asyncio.Event(), asyncio.Event(), ProcessContainer._termination_message

    async def slowly(self: ProcessContainer, code: int) -> str:
        ending.set()
        await go_on.wait()
        return await reads(self, code)

    monkeypatch.setattr(ProcessContainer, "_termination_message", slowly)
    spec = {
        "name": "c",
        "image": "i",
        "command": ["true"],
        "resources": {},
        "terminationMessagePath": "/m",
        "terminationMessagePolicy": "File",
    }
    owner = {"metadata": {"name": "a"}}
    started = await ProcessRuntime().start(ContainerRequest(owner, Role.MAIN, spec, {}, (), tmp_path))
    await ending.wait()
    others = [end for _ in range(8) for end in socket.socketpair()]
    started.signal(signal.SIGTERM)
    for _ in range(3):  # turns of the loop in which a writer would be called
        await asyncio.sleep(0)
    received = []
    for end in others:
        end.setblocking(False)
        try:
            received.append(end.recv(100))
        except BlockingIOError:
            received.append(b"")
        end.close()
    go_on.set()
    assert (await started.exited).code == 0
    assert set(received) == {b""}


@asynchronous
async def test_stop_kills_everything_and_removes_the_folders(tmp_path: Path) -> None:
    marker = tmp_path.name
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", f"trap '' TERM; {escaping(marker)}; sleep 600"))
        await wait_for_log(client, "a", b"up")
        assert len(alive(marker)) >= 3
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert alive(marker) == []
    assert not (tmp_path / "pods").exists()


def test_a_killed_cluster_leaves_no_process(tmp_path: Path) -> None:
    marker, kubeconfig = tmp_path.name, tmp_path / "kubeconfig"
    command = [sys.executable, "-m", "devcluster", "--root", str(tmp_path), "--kubeconfig", str(kubeconfig)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        asyncio.run(_start_survivors(json.loads(kubeconfig.read_text()), marker))
        assert len(alive(f"{marker}-survivor")) >= 3
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    end = time.monotonic() + 10
    while alive(f"{marker}-survivor"):
        assert time.monotonic() < end, "processes were left behind"
        time.sleep(0.02)


async def _start_survivors(config: dict[str, list[dict[str, dict[str, str]]]], marker: str) -> None:
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
    cluster = Cluster(config["clusters"][0]["cluster"]["server"], "default", headers)
    async with cluster.client() as client:
        await client.create(pod(client, "a", f"trap '' TERM; {escaping(f'{marker}-survivor')}; sleep 600"))
        await wait_for_log(client, "a", b"up")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
@asynchronous
async def test_a_signal_is_128_more(tmp_path: Path, number: int) -> None:
    async with local_cluster(tmp_path) as (_, client):
        # $$ is written $$$$: Kubernetes reads $$ as an escaped $
        await client.create(pod(client, "a", f"kill -{number} $$$$; sleep 5"))
        assert terminated(await client.ended("a"), "run")["exitCode"] == 128 + number


@pytest.mark.parametrize("limited_by", ["cgroup", "measuring"])
@asynchronous
async def test_too_much_memory_is_an_oom_kill(tmp_path: Path, limited_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if limited_by == "measuring":
        monkeypatch.setattr(MemoryCgroups, "create", lambda *_: None)
    script = f"""{sys.executable} -c '
import time
block = bytearray(200 << 20)
for i in range(0, len(block), 4096): block[i] = 1
time.sleep(60)'; echo survived"""
    fields = {"resources": {"limits": {"memory": "64Mi"}}}
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", script, container=fields))
        found = await client.ended("a")
        ended = terminated(found, "run")
        # The whole container ends, although only a child of the main process used the memory.
        assert (ended["reason"], ended["exitCode"], found["status"]["phase"]) == ("OOMKilled", 137, "Failed")
        assert await client.log("a") == b""
        await client.create(pod(client, "b", "echo fits", container=fields))
        assert (await client.ended("b"))["status"]["phase"] == "Succeeded"


@asynchronous
async def test_paths_of_mounts_become_paths_of_this_pod(tmp_path: Path) -> None:
    fields = {
        "volumeMounts": [
            {"name": "w", "mountPath": "/workspace"},
            {"name": "w", "mountPath": "/workspace/deep", "subPath": "below/here"},
            {"name": "h", "mountPath": "/host"},
        ],
        "workingDir": "/workspace/made",
        "env": [
            {"name": "W", "value": "/workspace"},
            {"name": "LIST", "value": "/usr/bin:/workspace/bin:/workspace2:/host"},
            {"name": "DEEP", "value": "/workspace/deep/x"},
            {"name": "URL", "value": "http://x/workspace"},
        ],
        "command": ["/workspace/tool", "/workspace", "$(W)/y", "--dir=/workspace"],
    }
    host = tmp_path / "host"
    host.mkdir()
    prepare = 'mkdir made; printf \'#!/bin/sh\\npwd; echo "$@"; echo "$W|$LIST|$DEEP|$URL"\\n\' >tool; chmod +x tool'
    async with local_cluster(tmp_path / "cluster") as (_, client):
        init = container(client, "init", prepare, **{k: v for k, v in fields.items() if k == "volumeMounts"})
        init["workingDir"] = "/workspace"
        manifest = pod(
            client,
            "a",
            initContainers=[init],
            volumes=[{"name": "w", "emptyDir": {}}, {"name": "h", "hostPath": {"path": str(host)}}],
            container=fields,
        )
        created = await client.create(manifest)
        found = await client.ended("a")
        assert found["status"]["phase"] == "Succeeded", found["status"]
        w = str(tmp_path / "cluster" / "pods" / created["metadata"]["uid"] / "volumes" / "w")
        assert (await client.log("a", container="run")).decode().splitlines() == [
            f"{w}/made",
            f"{w} {w}/y --dir=/workspace",
            f"{w}|/usr/bin:{w}/bin:/workspace2:{host}|{w}/below/here/x|http://x/workspace",
        ]


@asynchronous
async def test_dynapods_own_containers_are_told_where_their_folders_are_and_no_others(tmp_path: Path) -> None:
    paths = {"workspace": "/workspace", "state": "/dynapod/state", "token": "/dynapod/token", "plan": "/dynapod/plan"}
    mounts = [{"name": name, "mountPath": path} for name, path in paths.items()]
    show = "env | grep ^DYNAPOD_ | sort"
    async with local_cluster(tmp_path) as (_, client):
        service = container(client, "service", show, volumeMounts=mounts[:1])
        created = await client.create(
            pod(
                client,
                "a",
                show,
                initContainers=[service],
                volumes=[{"name": name, "emptyDir": {}} for name in paths],
                container={"volumeMounts": mounts, "terminationMessagePath": "/dev/termination-log"},
            )
        )
        assert (await client.ended("a"))["status"]["phase"] == "Succeeded"
        folder = tmp_path / "pods" / created["metadata"]["uid"]
        found = dict(line.split("=", 1) for line in (await client.log("a", container="run")).decode().splitlines())
        assert Path(found.pop("DYNAPOD_TERMINATION_LOG")).is_relative_to(folder)
        assert found == {
            "DYNAPOD_PLAN": f"{folder}/volumes/plan",
            "DYNAPOD_STATE": f"{folder}/volumes/state",
            "DYNAPOD_TOKEN": f"{folder}/volumes/token/token",
            "DYNAPOD_WORKSPACE": f"{folder}/volumes/workspace",
        }
        assert await client.log("a", container="service") == b""


@asynchronous
async def test_the_environment_starts_without_the_developers_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "private")
    monkeypatch.setenv("TZ", "UTC")
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", "env"))
        await client.ended("a")
        variables = dict(line.split("=", 1) for line in (await client.log("a")).decode().splitlines())
        assert "AWS_SECRET_ACCESS_KEY" not in variables
        assert variables["HOSTNAME"] == "a"
        assert variables["PATH"] == os.environ["PATH"]
        assert variables["HOME"].startswith(str(tmp_path))
        assert variables["TMPDIR"].startswith(str(tmp_path))
        assert set(variables) <= {
            "HOSTNAME", "PATH", "HOME", "TMPDIR", "TZ", "PWD", "OLDPWD", "SHLVL", "_", "LANG", "LC_ALL", "LC_CTYPE",
        }  # fmt: skip


@asynchronous
async def test_images_stand_for_environments_and_commands(tmp_path: Path) -> None:
    runtime = ProcessRuntime(
        {
            "tool:1": Image(env={"KIND": "exact"}, command=("sh", "-c", 'echo "$KIND $1"', "sh")),
            "tool:*": Image(env={"KIND": "glob"}, path="/usr/bin:/bin"),
            "missing/*": None,
        }
    )
    async with local_cluster(tmp_path, runtime) as (_, client):
        for name, image, fields in (
            ("exact", "tool:1", {"command": None, "args": ["word"]}),
            ("glob", "tool:2", {"command": ["sh", "-c", "echo $KIND $PATH"]}),
        ):
            await client.create(pod(client, name, container={"image": image, **fields}))
            await client.ended(name)
        assert await client.log("exact") == b"exact word\n"
        assert await client.log("glob") == b"glob /usr/bin:/bin\n"
        await client.create(pod(client, "entry", container={"image": "other", "command": None}))
        waiting = await _waiting(client, "entry", "RunContainerError")
        assert "have no image entrypoint" in waiting["message"]
        assert "'run'" in waiting["message"]
        await client.create(pod(client, "pull", container={"image": "missing/x:1"}))
        await _waiting(client, "pull", "ErrImagePull")
        await _waiting(client, "pull", "ImagePullBackOff")
        answer = await client.call("GET", f"{client.pods}/pull/log")
        assert answer.body["message"] == (
            'container "run" in pod "pull" is waiting to start: trying and failing to pull image'
        )


async def _waiting(client: Client, name: str, reason: str) -> dict[str, str]:
    def reached(found: Json, _: str) -> bool:
        statuses = found["status"].get("containerStatuses")
        return bool(statuses) and statuses[0]["state"].get("waiting", {}).get("reason") == reason

    found = await client.until(name, reached)
    assert found["status"]["phase"] == "Pending"
    return dict(found["status"]["containerStatuses"][0]["state"]["waiting"])


@asynchronous
async def test_a_pod_deleted_while_it_waits_ends_as_failed(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", container={"command": None}))
        await _waiting(client, "a", "RunContainerError")
        gone = asyncio.create_task(client.until("a", lambda _, kind: kind == "DELETED"))
        await asyncio.sleep(0)
        async with client.stream(client.pods, watch="true", fieldSelector="metadata.name=a") as response:
            await response.content.readany()  # the watch above is served by now too
            await client.call("DELETE", f"{client.pods}/a")
        last = await gone
        assert last["status"]["phase"] == "Failed"
        assert terminated(last, "run")["reason"] == "ContainerStatusUnknown"


@asynchronous
async def test_two_hundred_thousand_lines_arrive_whole_and_fast(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 20 ]; do seq 10000; i=$((i+1)); done"
    expected = b"".join(b"%d\n" % n for n in range(1, 10001)) * 20
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", f"sleep 0.2; {script}"))
        await client.running("a")
        began = time.monotonic()
        async with client.stream(f"{client.pods}/a/log", follow="true", timestamps="true") as response:
            stamped = await response.read()
        assert time.monotonic() - began < 20
        lines = stamped.split(b"\n")[:-1]
        stamps = [line[:30] for line in lines]
        assert b"".join(line[31:] + b"\n" for line in lines) == expected
        assert stamps == sorted(set(stamps))


@asynchronous
async def test_the_folder_of_a_deleted_pod_is_removed(tmp_path: Path) -> None:
    script = "mkdir -p $W/a/b; touch $W/a/b/c; chmod 000 $W/a/b; chmod 500 $W/a"
    fields = {
        "volumeMounts": [{"name": "w", "mountPath": "/w"}],
        "env": [{"name": "W", "value": "/w"}],
    }
    async with local_cluster(tmp_path) as (_, client):
        manifest = pod(client, "a", script, volumes=[{"name": "w", "emptyDir": {}}], container=fields)
        uid = (await client.create(manifest))["metadata"]["uid"]
        await client.ended("a")
        assert (tmp_path / "pods" / uid).exists()
        await client.delete("a")
        async with asyncio.timeout(10):
            while (tmp_path / "pods" / uid).exists():  # noqa: ASYNC110 - a folder gives no event
                await asyncio.sleep(0.01)


@asynchronous
async def test_a_stuck_reader_of_the_log_does_not_hold_up_the_container(tmp_path: Path) -> None:
    async with local_cluster(tmp_path) as (_, client):
        await client.create(pod(client, "a", "sleep 0.3; seq 1000000"))
        await client.running("a")
        async with client.stream(f"{client.pods}/a/log", follow="true"):  # connected, and never read
            assert (await client.ended("a"))["status"]["phase"] == "Succeeded"


@asynchronous
async def test_labels_reach_the_files_that_show_them(tmp_path: Path) -> None:
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    fields = {"volumeMounts": [{"name": "d", "mountPath": "/d"}], "workingDir": "/d"}
    script = "until grep -q new labels; do sleep 0.05; done; cat labels"
    async with local_cluster(tmp_path) as (_, client):
        await client.create(
            pod(client, "a", script, volumes=[{"name": "d", "downwardAPI": {"items": items}}], container=fields)
        )
        await client.running("a")
        patch = {"metadata": {"labels": {"l": "new"}}}
        await client.call("PATCH", f"{client.pods}/a", patch, content_type="application/merge-patch+json")
        await client.ended("a")
        assert await client.log("a") == b'l="new"'

"""Jobs that misbehave, as real pods, beside one that does not: each fails or is contained, and the other is unharmed.

docs/security.md has the list, by number, with what its owner is told. The scripts are in `misbehaviour/`; they reach
for nothing but the test cluster's own addresses. All of them run at the same time.
"""

import asyncio
import hashlib
import io
import logging
import re
import subprocess
import tarfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from runner_spec import storage
from runner_spec.transfer import CACHES_PATH
from tests.cluster import images
from tests.cluster.rendezvous import rendezvous
from tests.cluster.servers import git_daemon
from tests.cluster.site import Ended, Site, WorkerProcess, job
from tests.cluster.test_identity import ask, mint, pod_of
from tests.runner.git_server import new_repository

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LOG = logging.getLogger(__name__)  # what the owners are told: --log-cli-level=INFO
SCRIPTS = Path(__file__).parent / "misbehaviour"
PATIENCE_S = 170.0
TINY = {"cpu": "50m", "memory": "96Mi", "ephemeral-storage": "1Gi"}
LINES = 1000
LOG_LIMIT = 2 * 1024**2
ONE_READ = 4 * 1024**2  # what the worker may have read when it finds that the limit is passed
GIBIBYTE = 1024**3
# Of the worker's process, over all jobs of this file: as many bytes would be a log that it keeps.
WORKER_MEMORY_KIB = 200 * 1024
GATEWAY_NAME = "gateway.test"
# Runs a command with a hosts file of its own, which nobody else sees: the first argument, before the command.
OWN_HOSTS = ("unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')
WALLS = {1, 2, 3, 4, 5, 6, 7, 8, 13, 19, 21, 22}

Jobs = dict[str, Coroutine[Any, Any, Any]]


def script(name: str) -> str:
    return (SCRIPTS / name).read_text()


def test_misbehaving_jobs_are_contained_and_the_job_beside_them_is_unharmed(site: Site, tmp_path: Path) -> None:
    new_repository(tmp_path / "app")

    async def test() -> None:
        policy: dict[str, Any] = {"default_resources": TINY, "max_log_bytes": LOG_LIMIT, "upload_budget": "60s"}
        with (
            site.worker("rooted", user_namespaces=True, **policy) as rooted,
            site.worker("user", user_namespaces=False, **policy) as user,
            site.worker("good") as good,
            git_daemon(tmp_path, site.host) as repositories,
        ):
            jobs: Jobs = {"neighbour": unharmed(good)}
            for place, worker in (("root inside", rooted), ("uid 1000", user)):
                jobs |= {f"walls, {place}": walls(worker), f"forge, {place}": forged(worker)}
                jobs[f"clutter, {place}"] = cluttered(worker)
                jobs[f"plant, {place}"] = planted(worker, f"{repositories}/app")
            jobs |= {"fork": forked(user), "disk": filled_disk(rooted), "memory": filled_memory(user)}
            jobs |= {"log": flooded(rooted), "daemon": daemons(rooted), "hide": hidden(user), "stop": stopped(user)}
            jobs["archive"] = hostile_archive(rooted)
            found = await asyncio.gather(*(named(name, it) for name, it in jobs.items()), return_exceptions=True)
            assert not (failures := [problem for problem in found if problem]), "\n\n".join(map(str, failures))
            for worker in (rooted, user):
                assert worker.process.poll() is None
                assert peak_memory_kib(worker) < WORKER_MEMORY_KIB

    asyncio.run(test())


def test_a_job_that_takes_the_gateways_name_for_itself_gets_neither_tokens_nor_artifacts(
    site: Site, tmp_path: Path
) -> None:
    """27: the worker was given the gateway by name, which only it can look up: its pods have the number."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{site.host} {GATEWAY_NAME}\n")
    under = [*OWN_HOSTS, str(hosts)]
    if (tried := subprocess.run([*under, "true"], capture_output=True, text=True, check=False, timeout=30)).returncode:
        pytest.skip(f"a hosts file of its own cannot be given to a process here: {tried.stderr.strip()}")
    port = str(urlsplit(site.gateway_url).port)
    url = f"http://{GATEWAY_NAME}:{port}"

    async def test() -> None:
        with site.worker("named", under=under, user_namespaces=True, gateway_url=url) as worker:
            await renamed(worker, {"NAME": GATEWAY_NAME, "PORT": port})

    asyncio.run(test())


def peak_memory_kib(worker: WorkerProcess) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0])


async def named(name: str, it: Coroutine[Any, Any, Any]) -> str:
    """The job's own failure with its name, or nothing: one that fails must not hide how the others ended."""
    began = time.monotonic()
    try:
        await it
    except Exception as error:  # noqa: BLE001 - reported by the caller, with all others
        return f"{name}, after {time.monotonic() - began:.0f} s: {type(error).__name__}: {error}"
    return ""


def surroundings(site: Site) -> dict[str, str]:
    """What an attacker may well know."""
    return {"GATEWAY": site.gateway_url, "NODE": site.host, "NAMESPACE": site.namespace, "NEIGHBOUR": "neighbour"}


def text(ended: Ended, container: str = "run") -> str:
    return b"\n".join(ended.logs.get(container, [])).decode(errors="replace")


def message(ended: Ended) -> str:
    return str(ended.status.result.get("message"))


async def run(worker: WorkerProcess, *scripts: str, **more: Any) -> Ended:
    ended = await worker.run(job(*scripts, **more), patience=PATIENCE_S)
    LOG.info("%s: %s, %s: %s", scripts[0].split("\n", 3)[0][:60], ended.verdict, ended.reason, message(ended))
    return ended


async def stored(site: Site, ended: Ended) -> dict[str, int]:
    """The artifacts of the job's only attempt: path without the job's folder → size."""
    prefix = storage.artifacts_prefix(ended.status.id, 1)
    return {meta.path.removeprefix(f"{prefix}/"): meta.size async for meta in site.store().list(prefix)}


async def unharmed(worker: WorkerProcess) -> None:
    cache = [{"key": "neighbour", "paths": ["cache"]}]
    artifacts = [{"name": "dist", "paths": ["dist/*"]}]
    more: dict[str, Any] = {"name": "neighbour", "cache": cache, "artifacts": artifacts}
    ended = await run(worker, script("neighbour.py"), env={"LINES_OF_LOG": str(LINES)}, **more)
    assert (ended.verdict, ended.reason) == ("succeeded", "ok"), ended
    assert ended.output.split(b"\n") == [f"line {number} of {LINES}".encode() for number in range(LINES)]
    assert await stored(worker.site, ended) == {"dist/dist/result": 500_000}
    again = await run(worker, "sha256sum cache/result", **{**more, "artifacts": []})
    assert again.verdict == "succeeded", again
    assert again.output.startswith(hashlib.sha256(b"mine\n" * 100_000).hexdigest().encode())
    assert [cache["result"] for cache in again.status.result["caches"]] == ["hit", "unchanged"]


async def walls(worker: WorkerProcess) -> None:
    """1 to 8, 13, 19, 21, 22: what a process can try at once."""
    ended = await run(worker, script("walls.py"), env=surroundings(worker.site))
    lines = ended.output.decode().splitlines()
    assert ended.verdict == "succeeded", "\n".join(lines)
    assert {int(line.split(" ", 1)[0]) for line in lines if ": contained: " in line} == WALLS, lines


async def forged(worker: WorkerProcess) -> None:
    """14, 15, 16."""
    artifacts = [{"name": "made", "paths": ["made"]}, {"name": "log", "paths": ["made"], "when": "failure"}]
    cache = [{"key": "forged", "paths": ["made"]}]
    ended = await run(worker, script("forge.sh"), "echo never", artifacts=artifacts, cache=cache, name="forge")
    assert (ended.verdict, ended.status.result["fault"]) == ("failed", "job"), ended
    assert ended.status.result["exit_code"] == 3, ended
    assert "exit code 3" in message(ended)
    assert "never" not in text(ended)


async def stopped(worker: WorkerProcess) -> None:
    """16: a step that tells the shim to stop, or kills all it can see, fails its own job, and no more."""
    artifacts = [{"name": "made", "paths": ["made"], "when": "always"}]
    scripts = (
        "echo made >made; kill -TERM 1; sleep 100",
        "echo made >made; python3 -c 'import os; os.kill(-1, 9)'",
    )
    told, killed = await asyncio.gather(*(run(worker, it, artifacts=artifacts) for it in scripts))
    # Nobody can tell who sent the signal: the job gains the retries that a node's shutdown would give it, and no green.
    assert (told.verdict, told.reason, told.status.result["exit_code"]) == ("failed", "run-killed", 143), told
    assert (killed.verdict, killed.reason, killed.status.result["fault"]) == ("failed", "signal", "job"), killed
    assert "was killed by SIGKILL" in message(killed)
    for ended in (told, killed):  # upload was there, and has done its work
        assert await stored(worker.site, ended) == {"made/made": 5}


async def hidden(worker: WorkerProcess) -> None:
    """25: no green without the artifacts that it should have."""
    artifacts = [{"name": "made", "paths": ["made"]}]
    ended = await run(worker, script("hide.sh"), artifacts=artifacts)
    assert (ended.verdict, ended.reason, ended.status.result["fault"]) == ("failed", "run-failed", "job"), ended
    assert "a process of the job wrote or removed its exit code" in message(ended)
    assert await stored(worker.site, ended) == {}


async def planted(worker: WorkerProcess, repository: str) -> None:
    """26: the workspace is read-only for services, whenever they try."""
    service = {
        "name": "planter",
        "image": images.SERVICES,
        "command": ["sh", "-c", script("plant.sh")],
        "resources": TINY,
        "ready": {"command": ["test", "-e", "/tmp/tried"], "timeout": "60s"},
    }
    look = "cat README; git config --local --list; ls -A . .git; test ! -e obeyed"
    ended = await run(worker, look, name="plant", source={"git": repository}, services=[service])
    said = text(ended, "planter")
    assert (ended.verdict, ended.reason) == ("succeeded", "ok"), (ended, said)
    assert "ESCAPED" not in said
    assert said.count(": contained: ") == 5, said
    for what in ("mkdir", "ln"):
        assert re.search(f"^26 {what} .*: contained: .*Read-only file system", said, re.MULTILINE), said
    assert b"hello" in ended.output
    assert not re.search("fsmonitor|hookspath", text(ended), re.IGNORECASE), text(ended)


async def renamed(worker: WorkerProcess, gateway: dict[str, str]) -> None:
    """27: checkout asks for a cache and upload sends one, with artifacts, while the name leads to the impostor."""
    service = {
        "name": "impostor",
        "image": images.JOB,
        "command": ["python3", "-c", script("impostor.py")],
        "env": gateway,
        "ready": {"command": ["test", "-e", "/tmp/ready"], "timeout": "60s"},
    }
    files: dict[str, Any] = {
        "artifacts": [{"name": "dist", "paths": ["dist/*"]}],
        "cache": [{"key": "renamed", "paths": ["cached"]}],
    }
    ended = await run(worker, script("rename.sh"), name="rename", env=gateway, services=[service], **files)
    said = text(ended, "impostor")
    assert (ended.verdict, ended.reason) == ("succeeded", "ok"), (ended, said)
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        assert f"27 {path}: written" in text(ended)
        assert f"27 {path}: written" in said
    assert '27 the name leads to {"impostor": true}' in text(ended)
    assert re.findall("^27 asked: .*", said, re.MULTILINE) == ["27 asked: GET /probe without a token"]
    assert await stored(worker.site, ended) == {"dist/dist/made": 5}
    assert [cache["result"] for cache in ended.status.result["caches"]] == ["miss", "saved"]


async def cluttered(worker: WorkerProcess) -> None:
    """17, 23, 24."""
    patterns = {
        "links": ["links"],
        "through": ["linked/etc/passwd", "links/folder/*"],
        "names": ["names"],
        "many": ["many"],
    }
    artifacts = [{"name": name, "paths": paths} for name, paths in patterns.items()]
    cache = [{"key": "clutter", "paths": ["cached"]}]
    ended = await run(worker, script("clutter.py"), artifacts=artifacts, cache=cache, name=f"clutter-{worker.queue}")
    assert (ended.verdict, ended.status.result["fault"]) == ("failed", "job"), ended
    results = {artifact["name"]: artifact for artifact in ended.status.result["artifacts"]}
    assert "is a link that leads out of the workspace: left out" in results["links"]["message"]
    assert results["through"]["result"] == "missing"
    assert "20000 files" in results["many"]["message"]
    assert "its name holds a control character: rename it" in results["names"]["message"]
    kept = await stored(worker.site, ended)
    assert {path: size for path, size in kept.items() if path.startswith("links/")} == {
        "links/links/honest": 6,
        "links/links/inside": 6,
    }
    assert all(size in {5, 6} for size in kept.values()), kept
    (saved,) = [cache for cache in ended.status.result["caches"] if cache["result"] != "miss"]
    assert (saved["result"], "leads out of the workspace" in saved["message"]) == ("failed", True), saved
    assert "root:" not in text(ended, "upload")


async def hostile_archive(worker: WorkerProcess) -> None:
    """18: the archives are made here, for a job has no say in names; they come from a token of the right scope."""
    site, name = worker.site, "archive"
    archives = {
        "climb": climbing(),
        "absolute": tar_of(entry("/workspace/cached/f")),
        "through": tar_of(*through_a_link()),
    }
    async with rendezvous(site.host) as meeting, site.api() as api, site.client() as client:
        caches = [{"key": "k", "paths": ["cached"]}]
        job_id = await client.submit(job(meeting.script, name=name, cache=caches), queue=worker.queue)
        async with asyncio.timeout(PATIENCE_S):
            await meeting.arrived()
        bearer = f"Bearer {await mint(api, pod=await pod_of(api, job_id))}"
        for key, archive in archives.items():
            sealed = archive + hashlib.sha256(archive).digest()
            assert ask(site, "PUT", f"{CACHES_PATH}/{key}", bearer, sealed).status == 201
        meeting.release()
        async with asyncio.timeout(PATIENCE_S):
            await client.wait(job_id)
    wanted = [{"key": key, "paths": ["cached", f"other-{key}"]} for key in archives]
    look = "ls -AR /workspace /dynapod/home; cat /dynapod/bin/shim | head -1; test ! -e /workspace/evil"
    ended = await run(worker, look, name=name, cache=wanted)
    assert ended.verdict == "succeeded", ended
    assert b"evil" not in ended.output
    restored = {cache["key"]: cache for cache in ended.status.result["caches"] if cache["result"] == "failed"}
    assert restored.keys() >= set(archives), ended.status.result["caches"]
    for key, word in {"climb": "unsafe name", "absolute": "unsafe name", "through": "leads out"}.items():
        assert word in restored[key]["message"]
        assert f"cache {key}: " in text(ended, "checkout")


def entry(name: str, *, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
    info.size = 0 if link else 4
    return info


def climbing() -> bytes:
    return tar_of(entry("workspace/cached/ok"), entry("workspace/cached/../../dynapod/bin/evil"))


def through_a_link() -> list[tarfile.TarInfo]:
    return [entry("workspace/cached/link", link="/dynapod/state"), entry("workspace/cached/link/evil")]


def tar_of(*entries: tarfile.TarInfo) -> bytes:
    """As tar.gz; each file holds `evil`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for info in entries:
            archive.addfile(info, io.BytesIO(b"evil") if info.size else None)
    return packed.getvalue()


async def forked(worker: WorkerProcess) -> None:
    """9: the kubelet's limit of processes, or the memory limit, whichever comes first."""
    resources = {"cpu": "300m", "memory": "768Mi"}
    ended = await run(worker, script("fork.py"), resources=resources)
    assert (ended.verdict, ended.status.result["fault"]) == ("failed", "job"), ended
    assert ended.reason == "oom" or "9 fork bomb: contained: EAGAIN" in text(ended), ended


async def filled_disk(worker: WorkerProcess) -> None:
    """10: the kubelet looks every ten seconds."""
    fill = "head -c 300M /dev/zero >/workspace/big; echo filled; sleep 120"
    ended = await run(worker, fill, resources={"ephemeral-storage": "64Mi"})
    assert (ended.verdict, ended.reason, ended.status.result["fault"]) == ("failed", "storage-limit", "job"), ended
    assert re.search(r"used more disk than its limit: .*64Mi", message(ended)), ended


async def filled_memory(worker: WorkerProcess) -> None:
    """11."""
    ended = await run(worker, "python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 20))'")
    assert (ended.verdict, ended.status.result["fault"]) == ("failed", "job"), ended
    assert ended.reason == "oom", ended
    assert "memory limit of 96Mi" in message(ended)


async def flooded(worker: WorkerProcess) -> None:
    """12: all of it passes the kubelet, which rotates; what is kept is bounded, and says so."""
    line = "'x' * 8191 + '\\n'"
    write = f'python3 -c "import sys\nfor _ in range({GIBIBYTE // 8192}): sys.stdout.write({line})"'
    ended = await run(worker, write, "echo survived", resources={"cpu": "500m", "ephemeral-storage": "8Gi"})
    assert ended.verdict == "succeeded", ended
    pieces = worker.site.store().list(storage.log_prefix(ended.status.id, 1, "run"))
    size = sum([meta.size async for meta in pieces])
    assert 0 < size <= LOG_LIMIT + ONE_READ, size
    assert f"this log is longer than the limit of {LOG_LIMIT} bytes: the rest is not stored" in text(ended)[-500:]


async def daemons(worker: WorkerProcess) -> None:
    """20: they end with the container; the log closes."""
    ended = await run(worker, script("daemon.sh"), "echo next")
    assert ended.verdict == "succeeded", ended
    assert "the daemon has the log" in text(ended)
    assert "\nnext\n" in text(ended)

"""`dynapod debug` up to the moment at which it becomes kubectl: the real command, Redis and the embedded cluster.

kubectl itself is a script here, which tells its arguments: what comes of them is tested on a real cluster.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters import redis_server
from adapters.kubernetes_api import ApiError, KubernetesApi, current_namespace
from runner_spec import anatomy, wire
from runner_spec.steps import entered
from tests.devcluster.local_cluster import local_cluster
from worker.cli.debug import SHELL, check_pod, exec_arguments
from worker.cli.exit_status import InvalidInputError

ALLOWED = {anatomy.ANNOTATION_DEBUG: anatomy.DEBUG_ALLOWED}
CODE = "import sys; from worker.cli.main import main; sys.exit(main())"
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with nothing but a kubectl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 5\n")
    (folder / "kubectl").chmod(0o755)
    return folder


def dynapod_debug(
    redis_url: str, programs: Path, kubeconfig: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    own = {"DYNAPOD_REDIS_URL": redis_url, "DYNAPOD_KUBECONFIG": str(kubeconfig), "PATH": str(programs)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DYNAPOD_")} | own
    command = [sys.executable, "-c", CODE, "debug", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, check=False, timeout=60
    )


def put_job(redis_url: str, status: str, pod: str = "") -> None:
    client = redis_server.connect(redis_url).sync
    client.hset("rq:job:j", mapping={"status": status, "origin": "jobs"})
    if pod:
        client.hset(wire.state_key("j"), mapping={"attempt": "1", "stage": "run", "pod": pod})
    client.close()
    client.connection_pool.disconnect()


def manifest(**annotations: str) -> dict[str, Any]:
    mounts = [{"name": "bin", "mountPath": anatomy.BIN_PATH}]
    run = {"name": "run", "image": "busybox", "command": ["sleep", "60"], "volumeMounts": mounts}
    spec = {"restartPolicy": "Never", "containers": [run], "volumes": [{"name": "bin", "emptyDir": {}}]}
    metadata = {"name": "p", "labels": {"a": "b"}, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def until_running(api: KubernetesApi) -> None:
    _, version = await api.list_pods("a=b")
    while True:
        pod = await api.get_pod("p")
        if pod is not None and pod["status"]["phase"] == "Running":
            return
        async for _ in api.watch_pods("a=b", version, seconds=10):
            break


def on_cluster(
    redis_url: str, programs: Path, pod: dict[str, Any], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """The command while the pod runs in the embedded cluster."""

    async def test() -> "subprocess.CompletedProcess[str]":
        folder = programs.parent / "cluster"
        async with local_cluster(folder) as (cluster, _):
            cluster.write_kubeconfig(programs.parent / "kubeconfig")
            api = await KubernetesApi.connect("default", kubeconfig=cluster.kubeconfig())
            try:
                await api.create_pod(pod)
                await until_running(api)
            finally:
                await api.close()
            return await asyncio.to_thread(
                dynapod_debug, redis_url, programs, programs.parent / "kubeconfig", *arguments
            )

    return asyncio.run(test())


@pytest.mark.redis
def test_it_becomes_kubectl_with_its_exit_status(redis_url: str, programs: Path) -> None:
    put_job(redis_url, "started", "p")
    done = on_cluster(redis_url, programs, manifest(**ALLOWED), "j", "--", "cat", "-n", "a file")
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines() == [
        f"--kubeconfig={programs.parent / 'kubeconfig'}",
        "--namespace=default",
        "exec",
        "--stdin",
        "--container=run",
        "p",
        "--",
        "cat",
        "-n",
        "a file",
    ]


@pytest.mark.redis
def test_a_policy_that_lets_nobody_in_is_obeyed(redis_url: str, programs: Path) -> None:
    put_job(redis_url, "started", "p")
    done = on_cluster(redis_url, programs, manifest(), "j")
    assert (done.returncode, done.stdout, "`allow_debug: true`" in done.stderr) == (2, "", True)


@pytest.mark.redis
def test_a_pod_elsewhere_is_asked_for_by_namespace(redis_url: str, programs: Path) -> None:
    put_job(redis_url, "started", "q")
    done = on_cluster(redis_url, programs, manifest(**ALLOWED), "j")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pod 'q', which is not in namespace 'default': name the jobs' namespace with --namespace" in done.stderr


@pytest.mark.redis
@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("queued", "has no pod yet"),
        ("finished", "has ended (unknown, no-result): its containers are gone. `dynapod logs j` has its log"),
    ],
)
def test_a_job_without_a_pod_is_told_with_what_to_do(
    redis_url: str, programs: Path, tmp_path: Path, status: str, told: str
) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    put_job(redis_url, status)
    done = dynapod_debug(redis_url, programs, tmp_path / "kubeconfig", "j")
    assert (done.returncode, done.stdout, told in done.stderr) == (2, "", True), done.stderr


@pytest.mark.redis
def test_an_unknown_job_and_a_missing_kubectl_are_told(redis_url: str, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    unknown = dynapod_debug(redis_url, programs, tmp_path / "kubeconfig", "nobody")
    assert (unknown.returncode, "no job 'nobody'" in unknown.stderr) == (2, True)
    (programs / "kubectl").unlink()
    bare = dynapod_debug(redis_url, programs, tmp_path / "kubeconfig", "nobody")
    assert (bare.returncode, "kubectl is not on PATH" in bare.stderr) == (2, True)


@pytest.mark.redis
def test_a_kubeconfig_that_cannot_be_used_is_a_fault_of_the_platform(
    redis_url: str, programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    put_job(redis_url, "started", "p")
    done = dynapod_debug(redis_url, programs, tmp_path / "kubeconfig", "j")
    assert (done.returncode, "no usable Kubernetes configuration" in done.stderr) == (3, True), done.stderr


def seen(**states: dict[str, Any]) -> dict[str, Any]:
    """A pod with `run` as its container and all others before it, in these states."""
    entries = {name: {"name": name, "state": state} for name, state in states.items()}
    run = entries.pop("run")
    mounts = [{"name": "bin", "mountPath": anatomy.BIN_PATH}]
    return {
        "metadata": {"name": "p", "namespace": "jobs", "annotations": ALLOWED},
        "spec": {
            "initContainers": [{"name": name} for name in entries],
            "containers": [{"name": "run", "volumeMounts": mounts}],
        },
        "status": {"initContainerStatuses": [*entries.values()], "containerStatuses": [run]},
    }


@pytest.mark.parametrize(
    ("container", "told"),
    [
        ("nothing", "has no container 'nothing': choose of db, checkout, run"),
        ("checkout", "'checkout' of job 'j' has ended with exit code 0: choose of db with -c"),
        ("run", r"'run' of job 'j' has not started \(ImagePullBackOff\): choose of db with -c"),
    ],
)
def test_a_container_that_does_not_run_is_told_with_those_that_do(container: str, told: str) -> None:
    pod = seen(db=RUNNING, checkout={"terminated": {"exitCode": 0}}, run={"waiting": {"reason": "ImagePullBackOff"}})
    check_pod(pod, "j", "db")
    with pytest.raises(InvalidInputError, match=told):
        check_pod(pod, "j", container)


@pytest.mark.parametrize("command", [(), ("git", "status")])
def test_in_run_the_command_sees_the_steps_variables(command: tuple[str, ...]) -> None:
    pod = seen(checkout=RUNNING, run=RUNNING)
    both = [{"name": path, "mountPath": path} for path in (anatomy.BIN_PATH, anatomy.PLAN_PATH)]
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        container["volumeMounts"] = both
    in_run = exec_arguments(pod, "run", command, terminal=False, kubeconfig=None)
    assert in_run[in_run.index("--") + 1 :] == entered(command or [SHELL])
    in_checkout = exec_arguments(pod, "checkout", command, terminal=False, kubeconfig=None)
    assert in_checkout[in_checkout.index("--") + 1 :] == list(command or [SHELL])


@pytest.mark.parametrize(
    ("container", "terminal", "expected"),
    [
        ("run", True, ["--stdin", "--tty", "--container=run", "p", "--", SHELL]),
        ("run", False, ["--stdin", "--container=run", "p", "--", SHELL]),
        ("db", True, ["--stdin", "--tty", "--container=db", "p", "--", "sh"]),
    ],
)
def test_the_shell_is_the_one_that_the_container_has(container: str, terminal: bool, expected: list[str]) -> None:  # noqa: FBT001 - a parameter
    pod = seen(db=RUNNING, run=RUNNING)
    arguments = exec_arguments(pod, container, (), terminal=terminal, kubeconfig=None)
    assert arguments == ["--namespace=jobs", "exec", *expected]


def test_the_namespace_is_the_one_that_kubectl_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kubeconfig(**context: str) -> str:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", **context}}],
            "current-context": "x",
        }
        path = tmp_path / f"kubeconfig-{len(context)}"
        path.write_text(json.dumps(document))
        return str(path)

    assert current_namespace(kubeconfig(namespace="jobs")) == "jobs"
    assert current_namespace(kubeconfig()) == "default"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ApiError, match="no usable Kubernetes configuration"):
        current_namespace(str(tmp_path / "none"))

"""`dynapod debug`: a shell, or a command, in a running job's container.

What goes to and fro on the terminal is kubectl's: it does TTYs, resizing, proxies and authentication plug-ins well.
This command finds the pod, refuses with a reason and a remedy, and then becomes `kubectl exec`.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runner_spec import anatomy
from runner_spec.steps import entered
from worker.cli.connection import redis_option, with_client
from worker.cli.exit_status import InvalidInputError
from worker.cli.faults import told_as_faults
from worker.cli.log_text import display_text
from worker.cli.policy_file import read_policy
from worker.cli.status_view import doing

if TYPE_CHECKING:
    from worker.job_status import JobStatus

# The static shell that `checkout` brings, or the runner's image: in `run` it is there whatever the job's image holds.
SHELL: Final = f"{anatomy.BIN_PATH}/sh"
ASK_S: Final = 5.0  # for an answer of the cluster; somebody is waiting at a terminal


HELP: Final = """Open a shell in a container of JOB while it runs, or run COMMAND there.

\b
dynapod debug JOB                       a shell in the job's workspace
dynapod debug JOB -- cat build.log      a command; its exit status is this one's
dynapod debug JOB -c db -- psql         in a service

A job that has failed stays for as long as its description says: `keep: on-failure 1h`. When you have seen enough,
`dynapod cancel JOB` ends the keeping; the job stays failed.

It works where the operator's policy has `allow_debug: true`. It is kubectl that opens the shell, with your own rights
in the cluster: you need `get` on pods and `create` on pods/exec in the jobs' namespace."""


@click.command(help=HELP)
@click.argument("job")
@click.argument("command", nargs=-1, metavar="[-- COMMAND [ARG]...]", type=click.UNPROCESSED)
@click.option(
    "-c",
    "--container",
    metavar="NAME",
    default=anatomy.RUN,
    show_default=True,
    help="The container: run, checkout, upload or a service.",
)
@click.option(
    "-n",
    "--namespace",
    metavar="NAME",
    envvar="DYNAPOD_NAMESPACE",
    show_envvar=True,
    help="Namespace of the jobs' pods; without it the policy's, else the kubeconfig's.",
)
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, dir_okay=False),
    envvar="DYNAPOD_POLICY",
    show_envvar=True,
    help="The operator's policy: it names the namespace.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False),
    envvar="DYNAPOD_KUBECONFIG",
    show_envvar=True,
    help="Your credentials; without it $KUBECONFIG, else ~/.kube/config.",
)
@redis_option
def debug(
    job: str,
    command: tuple[str, ...],
    container: str,
    namespace: str | None,
    policy_file: str | None,
    kubeconfig: str | None,
    redis_url: str,
) -> None:
    """Find the pod, check that there is a way in, and become kubectl."""
    kubectl = find_kubectl()
    status = with_client(lambda client: client.status(job), redis_url)
    pod_name = pod_of(status)
    known = kubeconfig or _default_kubeconfig()
    with told_as_faults():
        where = namespace or _namespace(policy_file, known)
        pod = asyncio.run(_get_pod(pod_name, where, known))
    if pod is None:
        raise InvalidInputError(
            f"job {job!r} runs as pod {pod_name!r}, which is not in namespace {where!r}: name the jobs' namespace with "
            "--namespace, and their cluster with --kubeconfig"
        )
    check_pod(pod, job, container)
    arguments = exec_arguments(pod, container, command, terminal=sys.stdin.isatty(), kubeconfig=kubeconfig)
    sys.stdout.flush()
    # Not a child: signals, the terminal and the exit status are then kubectl's own, without anything in between.
    os.execv(kubectl, ["kubectl", *arguments])  # noqa: S606 - no shell: the arguments are the user's own


def find_kubectl() -> str:
    """The path of kubectl.

    Raises:
        InvalidInputError: it is not installed.
    """
    found = shutil.which("kubectl")
    if found is None:
        raise InvalidInputError("kubectl is not on PATH, and it opens the shell: install it, then try again")
    return found


def pod_of(status: "JobStatus") -> str:
    """The name of the pod that runs the job.

    Raises:
        InvalidInputError: it has ended, or there is no pod yet.
    """
    if status.ended:
        raise InvalidInputError(
            f"job {status.id!r} has ended ({doing(status)}): its containers are gone. `dynapod logs {status.id}` has "
            "its log; to look around after a failure, submit it with `keep: on-failure 1h` in its description"
        )
    if not status.pod:
        raise InvalidInputError(f"job {status.id!r} has no pod yet ({doing(status)}): try again when it runs")
    return status.pod


def check_pod(pod: Mapping[str, Any], job: str, container: str) -> None:
    """Refuse where the operator, or the container's state, leaves no way in.

    Raises:
        InvalidInputError: the policy does not allow it, or the container is none of the pod's or does not run.
    """
    annotations = pod["metadata"].get("annotations") or {}
    if annotations.get(anatomy.ANNOTATION_DEBUG) != anatomy.DEBUG_ALLOWED:
        raise InvalidInputError(
            f"the policy under which job {job!r} was started lets nobody into its containers: the operator can set "
            "`allow_debug: true`, for jobs that start afterwards"
        )
    states = _states(pod)
    if container not in states:
        raise InvalidInputError(f"job {job!r} has no container {container!r}: choose of {', '.join(states)}")
    if states[container] != "running":
        running = [name for name, state in states.items() if state == "running"]
        remedy = f"choose of {', '.join(running)} with -c" if running else "try again when it runs"
        raise InvalidInputError(f"container {container!r} of job {job!r} {states[container]}: {remedy}")


def _states(pod: Mapping[str, Any]) -> dict[str, str]:
    """By container, in the order of their start: `running`, or what it does instead."""
    status, spec = pod.get("status", {}), pod["spec"]
    seen = {
        entry["name"]: entry.get("state", {})
        for kind in ("initContainerStatuses", "containerStatuses")
        for entry in status.get(kind) or []
    }
    names = [entry["name"] for kind in ("initContainers", "containers") for entry in spec.get(kind) or []]
    return {name: _state(seen.get(name, {})) for name in names}


def _state(state: Mapping[str, Any]) -> str:
    if "running" in state:
        return "running"
    if "terminated" in state:
        return f"has ended with exit code {state['terminated'].get('exitCode')}"
    reason = display_text(str(state.get("waiting", {}).get("reason") or ""))
    return "has not started" + (f" ({reason})" if reason else "")


def exec_arguments(
    pod: Mapping[str, Any], container: str, command: Sequence[str], *, terminal: bool, kubeconfig: str | None
) -> list[str]:
    """The arguments of `kubectl`; without a command, a shell that the container surely has, if there is one.

    In `run`, the command sees the steps' variables.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    (entry,) = [
        found
        for kind in ("initContainers", "containers")
        for found in spec.get(kind) or []
        if found["name"] == container
    ]
    mounted = {mount["mountPath"] for mount in entry.get("volumeMounts") or []}
    words = list(command) or [SHELL if anatomy.BIN_PATH in mounted else "sh"]
    if container == anatomy.RUN and mounted >= {anatomy.BIN_PATH, anatomy.PLAN_PATH}:
        words = entered(words)
    return [
        *([f"--kubeconfig={kubeconfig}"] if kubeconfig else []),
        f"--namespace={metadata['namespace']}",
        "exec",
        "--stdin",
        *(["--tty"] if terminal else []),
        f"--container={container}",
        metadata["name"],
        "--",
        *words,
    ]


def _default_kubeconfig() -> str | None:
    """Where kubectl looks without $KUBECONFIG; None where it reads that, or is inside a cluster."""
    usual = Path.home() / ".kube" / "config"
    return None if os.environ.get("KUBECONFIG") or not usual.exists() else str(usual)


def _namespace(policy_file: str | None, kubeconfig: str | None) -> str:
    from adapters.kubernetes_api import current_namespace

    if policy_file:
        return read_policy(policy_file, local=False).namespace
    return current_namespace(kubeconfig)


async def _get_pod(name: str, namespace: str, kubeconfig: str | None) -> dict[str, Any] | None:
    from adapters.kubernetes_api import KubernetesApi

    api = await KubernetesApi.connect(namespace, kubeconfig=kubeconfig, retry_seconds=ASK_S)
    try:
        return await api.get_pod(name)
    finally:
        await api.close()

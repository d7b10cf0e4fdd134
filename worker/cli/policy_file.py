"""The operator's policy as the commands take it: from a file, or the one of local runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.description_file import DescriptionFile, problem_lines
from worker.cli.exit_status import InvalidInputError
from worker.cli.local_source import local_source

if TYPE_CHECKING:
    from runner_spec.admission import Admission
    from runner_spec.policy import Policy

ASK_S: Final = 5.0  # for an answer of the cluster; somebody is waiting at a terminal
# Where the gateway of a local run would be: it takes any free port.
LOCAL_GATEWAY: Final = "http://127.0.0.1:8080"

policy_option = click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, dir_okay=False),
    envvar="DYNAPOD_POLICY",
    show_envvar=True,
    help="The operator's policy; the default policy without it.",
)
kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False),
    help="Ask this cluster whether it offers user namespaces, as a worker does when it starts.",
)
local_option = click.option(
    "--local", is_flag=True, help="As `dynapod run` would: its policy, and source paths of this machine."
)


def read_policy(policy_file: str | None, *, local: bool) -> "Policy":
    """The policy of `--policy`, the local one, or the default.

    Raises:
        InvalidInputError: with every problem of the file.
    """
    from runner_spec.document import load_document
    from runner_spec.policy import Policy, local_policy, parse_policy
    from runner_spec.problem import ProblemsError

    if local:
        return local_policy(gateway_url=LOCAL_GATEWAY)
    if policy_file is None:
        return Policy()
    try:
        document = load_document(Path(policy_file).read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{policy_file}: {error.strerror or error}") from error
    except ProblemsError as error:
        raise InvalidInputError("\n".join(problem_lines(policy_file, error.problems))) from error
    try:
        return parse_policy(document.data)
    except ProblemsError as error:
        raise InvalidInputError("\n".join(problem_lines(policy_file, document.locate(error.problems)))) from error


def settled(policy: "Policy", kubeconfig: str) -> tuple["Policy", str]:
    """The policy as a cluster settles it, and why; see `worker.capabilities`.

    Raises:
        InvalidInputError: the kubeconfig, or a pod patch, cannot be used.
        PlatformError: the cluster does not answer.
    """
    import asyncio

    from adapters.kubernetes_api import KubernetesApi
    from worker.capabilities import UserNamespaces, ask_user_namespaces
    from worker.cli.faults import told_as_faults
    from worker.service import incarnation

    async def ask() -> UserNamespaces:
        api = await KubernetesApi.connect(policy.namespace, kubeconfig=kubeconfig, retry_seconds=ASK_S)
        try:
            return await ask_user_namespaces(policy, api, asker=incarnation())
        finally:
            await api.close()

    if policy.user_namespaces != "auto" or policy.shim_delivery == "image-volume":
        return policy, ""
    with told_as_faults():
        found = asyncio.run(ask())
    return policy.resolved(user_namespaces=found.offered), found.why


def admitted(file: DescriptionFile, policy: "Policy", *, local: bool) -> "Admission":
    """The description as admitted under a policy.

    Raises:
        InvalidDescriptionError: with every problem, of the description or against the policy.
    """
    from runner_spec.admission import admit
    from runner_spec.problem import ProblemsError

    data: dict[str, Any] | None = local_source(file.document.data, file.folder) if local else None
    description = file.parse(data)
    try:
        return admit(description, policy)
    except ProblemsError as error:
        raise file.refused(error.problems) from error

"""`dynapod render` and `dynapod explain`: the pod that a description becomes, and why."""

import json
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.description_file import DescriptionFile, file_argument, read_file
from worker.cli.exit_status import InvalidInputError
from worker.cli.policy_file import admitted, kubeconfig_option, local_option, policy_option, read_policy, settled
from worker.cli.table import table

if TYPE_CHECKING:
    from runner_spec.admission import Admission

EXAMPLE_JOB: Final = "example"
EXAMPLE_WORKER: Final = "worker"

job_option = click.option("--job-id", default=EXAMPLE_JOB, show_default=True, metavar="ID", help="The job's id.")
attempt_option = click.option(
    "--attempt", type=click.IntRange(min=1), default=1, show_default=True, help="The attempt's number."
)


@click.command()
@file_argument
@policy_option
@local_option
@job_option
@attempt_option
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render(file: str, policy_file: str | None, job_id: str, attempt: int, form: str, *, local: bool) -> None:
    """Print the manifest of the pod that FILE becomes. Equal inputs give equal manifests."""
    description = read_file(file)
    admission = admitted(description, read_policy(policy_file, local=local), local=local)
    pod = _pod(description, admission, job_id, attempt)
    click.echo(json.dumps(pod, indent=2, ensure_ascii=False) if form == "json" else _yaml(pod), nl=form == "json")


@click.command()
@file_argument
@policy_option
@local_option
@job_option
@attempt_option
@kubeconfig_option
def explain(
    file: str, policy_file: str | None, job_id: str, attempt: int, kubeconfig: str | None, *, local: bool
) -> None:
    """Say where each effective value comes from (description or which rule of the policy), then print the pod.

    With `user_namespaces: auto` in the policy, the cluster decides who the job runs as: --kubeconfig asks it.
    """
    description = read_file(file)
    policy, why = read_policy(policy_file, local=local), ""
    if kubeconfig is not None:
        policy, why = settled(policy, kubeconfig)
    admission = admitted(description, policy, local=local)
    rows = [(item.path, item.value, item.source, item.rule or "-") for item in admission.decisions]
    for line in table(("value of", "is", "set by", "rule"), rows):
        click.echo(f"# {line}")
    if why:
        click.echo(f"# user_namespaces: auto: {' '.join(why.split())}")
    click.echo("---")
    click.echo(_yaml(_pod(description, admission, job_id, attempt)), nl=False)


def _pod(file: DescriptionFile, admission: "Admission", job_id: str, attempt: int) -> dict[str, Any]:
    from runner_spec.problem import InvalidDescription, InvalidPolicy
    from runner_spec.render import Attempt
    from runner_spec.render import render as render_pod

    try:
        return render_pod(admission, Attempt(job_id, attempt, EXAMPLE_WORKER))
    except InvalidDescription as error:
        raise file.refused(error.problems) from error
    except (InvalidPolicy, ValueError) as error:
        raise InvalidInputError(str(error)) from error


def _yaml(pod: dict[str, Any]) -> str:
    import yaml

    class ManifestDumper(yaml.SafeDumper):
        """Texts of several lines as blocks: scripts are to be read."""

    def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    ManifestDumper.add_representer(str, represent_text)
    dumped: str = yaml.dump(pod, Dumper=ManifestDumper, sort_keys=False, allow_unicode=True, width=120)
    return dumped

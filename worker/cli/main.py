"""The `dynapod` command: the table of commands, and how an exception becomes a message and an exit status."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from runner_spec.version import __version__
from worker.cli.exit_status import DOCUMENTATION, ExitStatus
from worker.cli.lazy_group import LazyCommand, LazyGroup, OutputClosedError

LOCAL: Final = "On this machine"
QUEUE: Final = "With a queue"
DESCRIPTIONS: Final = "Descriptions"
SERVICES: Final = "Services"

BROKEN_PIPE: Final = 141  # 128+SIGPIPE, as a shell reports it; not 0: the command did not see its end

COMMANDS: Final = {
    "run": LazyCommand("worker.cli.run:run", "Run a job here and now, with everything embedded.", LOCAL),
    "dev": LazyCommand("worker.cli.dev:dev", "Start queue, cluster, worker and gateway; stay up.", LOCAL),
    "submit": LazyCommand("worker.cli.submit:submit", "Put a job on the queue.", QUEUE),
    "status": LazyCommand("worker.cli.status:status", "Show what a job does, or how it ended.", QUEUE),
    "logs": LazyCommand("worker.cli.logs:logs", "Print a job's log.", QUEUE),
    "debug": LazyCommand("worker.cli.debug:debug", "Open a shell in a running job's container.", QUEUE),
    "cancel": LazyCommand("worker.cli.cancel:cancel", "Cancel jobs.", QUEUE),
    "list": LazyCommand("worker.cli.listing:list_jobs", "List the newest jobs.", QUEUE),
    "validate": LazyCommand("worker.cli.validate:validate", "Check descriptions; list every problem.", DESCRIPTIONS),
    "render": LazyCommand("worker.cli.render:render", "Print the pod that a description becomes.", DESCRIPTIONS),
    "explain": LazyCommand("worker.cli.render:explain", "Say which rule set each value of the pod.", DESCRIPTIONS),
    "schema": LazyCommand("worker.cli.schema:schema", "Print the JSON Schema of descriptions.", DESCRIPTIONS),
    "worker": LazyCommand("worker.cli.services:worker", "Run a worker against a Kubernetes cluster.", SERVICES),
    "gateway": LazyCommand("worker.cli.services:gateway", "Serve artifacts and caches to the pods.", SERVICES),
    "completion": LazyCommand("worker.cli.completion:completion", "Print a shell's completion script.", SERVICES),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=f"Run jobs as Kubernetes pods, and be told the truth about how they ended.\n\n{DOCUMENTATION}",
)
@click.version_option(__version__, prog_name="dynapod")
def cli() -> None:
    """The group itself does nothing: its commands do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; the console script passes it to `sys.exit`."""
    try:
        status = cli.main(args=arguments, prog_name="dynapod", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("dynapod: canceled", err=True)
        return int(ExitStatus.CANCELED)
    except (BrokenPipeError, OutputClosedError):
        # The reader (`| head`) has gone: say nothing more, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception:  # noqa: BLE001 - a bug of ours must not look like a job that failed
        traceback.print_exc()
        click.echo("dynapod: this is a bug in dynapod itself; please report it with the lines above", err=True)
        return int(ExitStatus.PLATFORM_FAULT)
    return status if isinstance(status, int) else int(ExitStatus.SUCCEEDED)

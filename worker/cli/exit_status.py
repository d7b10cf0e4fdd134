"""The exit status of a command: what a script may rely on."""

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from worker.cli.ending import Ending


class ExitStatus(IntEnum):
    """Documented in `dynapod --help`; never renumber."""

    SUCCEEDED = 0
    JOB_FAILED = 1
    INVALID = 2  # also click's own code for wrong usage
    PLATFORM_FAULT = 3
    CANCELED = 130  # 128+SIGINT, as a shell reports an interrupted program


DOCUMENTATION: Final = """\b
Exit status:
    0  succeeded
    1  the job failed
    2  invalid description, or wrong usage
    3  a fault of the platform
  130  canceled"""


class InvalidInputError(click.ClickException):
    """The user's input cannot be used; the message names the field, the value and the remedy."""

    exit_code = int(ExitStatus.INVALID)


class PlatformError(click.ClickException):
    """Something that the command relies on (Redis, the store, the cluster) did not do its part."""

    exit_code = int(ExitStatus.PLATFORM_FAULT)


def exit_status(ending: "Ending") -> ExitStatus:
    """The exit status for a job's end; only a recorded success gives 0."""
    match ending.verdict:
        case "succeeded":
            return ExitStatus.SUCCEEDED
        case "canceled":
            return ExitStatus.CANCELED
        case "rejected":
            return ExitStatus.INVALID
        case "failed" if ending.fault != "platform":
            return ExitStatus.JOB_FAILED
        case _:
            return ExitStatus.PLATFORM_FAULT

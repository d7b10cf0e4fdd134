"""Telling a job's life and end: the narrator that a command follows with, and the report it closes with."""

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from worker.cli.ending import read_ending
from worker.cli.exit_status import ExitStatus, exit_status
from worker.cli.following import TerminalNarrator
from worker.cli.live_view import LiveView
from worker.cli.summary import summary, summary_document
from worker.cli.terminal import Terminal
from worker.job_status import JobStatus

_NOWHERE: Final[Mapping[str, str]] = MappingProxyType({})


def narrator(terminal: Terminal, *, quiet: bool = False, timestamps: bool = False) -> TerminalNarrator:
    """A narrator whose clock begins now."""
    view = LiveView(time.time(), terminal.paint, timestamps=timestamps, progress_line=terminal.rewrites)
    return TerminalNarrator(terminal, view, quiet=quiet)


def report(
    status: JobStatus,
    terminal: Terminal,
    *,
    seconds: float,
    paths: Mapping[str, str] = _NOWHERE,
    as_json: bool = False,
    interrupted: bool = False,
) -> ExitStatus:
    """Print how the job ended, and return the exit status; `interrupted` jobs give that of a cancellation.

    With `as_json`, the summary goes to the terminal (standard error) and one JSON document to standard output.
    """
    ending = read_ending(status)
    code = ExitStatus.CANCELED if interrupted else exit_status(ending)
    terminal.progress("")
    terminal.print(summary(ending, job_id=status.id, seconds=seconds, paths=paths, paint=terminal.paint))
    if as_json:
        click.echo(json.dumps(summary_document(ending, status, seconds=seconds, paths=paths, exit_status=int(code))))
    return code

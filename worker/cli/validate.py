"""`dynapod validate`: every problem of every file."""

import json
from typing import Any

import click

from worker.cli.connection import json_option
from worker.cli.description_file import InvalidDescriptionError, read_file
from worker.cli.exit_status import ExitStatus, InvalidInputError


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@json_option
@click.pass_context
def validate(context: click.Context, files: tuple[str, ...], *, as_json: bool) -> None:
    """Check the descriptions FILES, and list every problem: line, path, value, remedy.

    The exit status is 2 when there are any, also when a file cannot be read: the others are checked nevertheless.
    """
    reports = [_report(file) for file in files]
    if as_json:
        click.echo(json.dumps([_as_dict(file, error) for file, error in reports], indent=2))
    else:
        for file, error in reports:
            click.echo(f"{file}: valid" if error is None else error.message)
    if any(error for _, error in reports):
        context.exit(int(ExitStatus.INVALID))


def _report(file: str) -> tuple[str, InvalidInputError | None]:
    try:
        read_file(file).parse()
    except InvalidInputError as error:
        return file, error
    return file, None


def _as_dict(file: str, error: InvalidInputError | None) -> dict[str, Any]:
    problems = [problem.as_dict() for problem in error.problems] if isinstance(error, InvalidDescriptionError) else []
    unreadable = {} if error is None or problems else {"error": error.message}
    return {"file": file, "valid": error is None, "problems": problems, **unreadable}

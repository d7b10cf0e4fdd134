"""Secrets for local runs: given as options, taken from variables or files, never shown."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.exit_status import InvalidInputError

if TYPE_CHECKING:
    from runner_spec.description import JobDescription

Secrets = dict[str, dict[str, str]]
Command = Callable[..., Any]


def secret_options(command: Command) -> Command:
    """The options `--secret`, `--secret-env` and `--secret-file`."""
    options = (
        (
            "--secret",
            "NAME/KEY=VALUE",
            "A value of a Secret; other users of this machine can see it in the process list.",
        ),
        ("--secret-env", "NAME/KEY=VARIABLE", "A value of a Secret, from an environment variable."),
        ("--secret-file", "NAME/KEY=PATH", "A value of a Secret, from a file of UTF-8 text, with its line ends."),
    )
    for flag, metavar, text in reversed(options):
        command = click.option(flag, multiple=True, metavar=metavar, help=text + " Repeatable.")(command)
    return command


def read_secrets(
    values: Iterable[str], variables: Iterable[str], files: Iterable[str], environ: Mapping[str, str] = os.environ
) -> Secrets:
    """Secret name → key → value.

    Raises:
        click.BadParameter: naming the option and the Secret, never the value.
    """
    secrets: Secrets = {}
    for option, given, read in (
        ("--secret", values, str),
        ("--secret-env", variables, lambda name: _variable(name, environ)),
        ("--secret-file", files, _file),
    ):
        for text in given:
            place, separator, rest = text.partition("=")
            name, slash, key = place.partition("/")
            if not (separator and slash and name and key):
                # The text may be a value without its name: it must not be repeated.
                raise click.BadParameter("write NAME/KEY=…; what was given is not shown", param_hint=option)
            try:
                secrets.setdefault(name, {})[key] = read(rest)
            except ValueError as error:
                raise click.BadParameter(f"{place}: {error}", param_hint=option) from error
    return secrets


def require_secrets(description: "JobDescription", given: Secrets) -> None:
    """See that each secret of a description has a value.

    Raises:
        InvalidInputError: naming all that have none.
    """
    problems = [
        f"  secrets.{name}: no value was given; add --secret-env {ref.secret}/{ref.key}=VARIABLE, or --secret-file"
        for name, ref in description.secrets.items()
        if ref.key not in given.get(ref.secret, {})
    ]
    if problems:
        raise InvalidInputError("\n".join(["secrets are missing", *problems]))


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ValueError(f"the environment variable {name!r} is not set")
    return environ[name]


def _file(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8 text; encode it, in base64 say") from error
    except OSError as error:
        raise ValueError(f"{path!r} cannot be read: {error.strerror or error}") from error

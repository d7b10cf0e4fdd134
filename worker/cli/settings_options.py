"""Command-line options made from settings dataclasses, so that each setting is written down once.

A field's metadata holds how its text is read (`parse` or `read`, raising ValueError) and its meaning (`help` or
`meaning`). The command receives `environ`: the process's environment, with the given flags in place of their
variables; the dataclass's own `load` does the rest. So a flag wins over the variable, the variable over the default.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from functools import update_wrapper
from typing import Any

import click

Command = Callable[..., Any]


def settings_options(kinds: Sequence[type], prefix: str) -> Callable[[Command], Command]:
    """A decorator that adds an option per documented field of `kinds`; variables are `prefix` and the field's name."""
    documented = [field for kind in kinds for field in fields(kind) if field.metadata]

    def decorate(command: Command) -> Command:
        def with_environment(**given: Any) -> Any:  # noqa: ANN401 - whatever click parsed
            texts = {_variable(prefix, field): given.pop(field.name) for field in documented}
            flags = {name: text for name, text in texts.items() if text is not None}
            return command(environ={**os.environ, **flags}, **given)

        decorated: Command = update_wrapper(with_environment, command)
        for field in reversed(documented):
            decorated = _option(prefix, field)(decorated)
        return decorated

    return decorate


def _option(prefix: str, field: "Field[Any]") -> Callable[[Command], Command]:
    meaning = str(field.metadata.get("help") or field.metadata.get("meaning"))
    default = _written(field.default)
    notes = f"  [env: {_variable(prefix, field)}" + (f"; default: {default}]" if default else "]")
    return click.option(
        f"--{field.name.replace('_', '-')}",
        field.name,
        metavar=_metavar(field),
        callback=_checked(field.metadata.get("parse") or field.metadata["read"]),
        help=meaning[0].upper() + meaning[1:] + "." + notes,
    )


def _checked(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Reads the text to tell whether it is good, and keeps the text: the environment holds nothing else."""

    def check(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
        try:
            if text is not None:
                read(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} cannot be used: {error}") from error
        return text

    return check


def _variable(prefix: str, field: "Field[Any]") -> str:
    return prefix + field.name.upper()


def _metavar(field: "Field[Any]") -> str:
    if isinstance(field.default, bool | int | float):
        return "NUMBER"
    return "NAMES" if isinstance(field.default, tuple) else "TEXT"


def _written(default: object) -> str:
    if default is MISSING or default is None:
        return ""
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)

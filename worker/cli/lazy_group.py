"""A click group that imports a command's module only when that command is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives (`module:attribute`), and its one line in the group's help."""

    target: str
    summary: str
    section: str = "Commands"


class OutputClosedError(Exception):
    """Whoever read our output has gone (`| head`)."""


class LazyGroup(click.Group):
    """Lists its commands without importing them: the help must not wait for the Kubernetes client."""

    def __init__(self, *args: object, lazy: Mapping[str, LazyCommand], **settings: object) -> None:
        super().__init__(*args, **settings)  # type: ignore[arg-type]  # click's own signature, passed through
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import the command, or None when there is none of this name."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words name; an unknown one is answered with the names that are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if similar := get_close_matches(args[0], self.lazy):
                ctx.fail(f"{error.message} Did you mean {' or '.join(similar)}?")
            raise

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever a command returns
        """Run the command.

        Raises:
            OutputClosedError: instead of BrokenPipeError, which click would turn into the status of a failed job.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosedError from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The summaries come from the table, by section."""
        width = max(map(len, self.lazy))
        for section in dict.fromkeys(entry.section for entry in self.lazy.values()):
            with formatter.section(section):
                entries = [(name, entry) for name, entry in self.lazy.items() if entry.section == section]
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in entries])

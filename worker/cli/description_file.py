"""A description's file: read, checked, and its problems told with their lines."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.exit_status import InvalidInputError
from worker.cli.quantity import counted

if TYPE_CHECKING:
    from runner_spec.description import JobDescription
    from runner_spec.document import Document
    from runner_spec.problem import Problem

STDIN: Final = "-"

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))


class InvalidDescriptionError(InvalidInputError):
    """A description that cannot be used, with all its problems."""

    def __init__(self, file: str, problems: "Sequence[Problem]") -> None:
        self.file, self.problems = file, tuple(problems)
        super().__init__("\n".join(problem_lines(file, problems)))


@dataclass(frozen=True, slots=True)
class DescriptionFile:
    """What stands in a file; `folder` is where its relative paths begin."""

    file: str
    document: "Document"

    @property
    def folder(self) -> Path:
        """The folder of the file; the present one for standard input."""
        return Path.cwd() if self.file == STDIN else Path(self.file).resolve().parent

    def parse(self, data: Mapping[str, Any] | None = None) -> "JobDescription":
        """Check `data` (the document's own by default, or one that an option changed).

        Raises:
            InvalidDescriptionError: with every problem, and the line of each that the document has.
        """
        from runner_spec.description import parse_description
        from runner_spec.problem import ProblemsError

        try:
            return parse_description(self.document.data if data is None else data)
        except ProblemsError as error:
            raise self.refused(error.problems) from error

    def refused(self, problems: "Sequence[Problem]") -> InvalidDescriptionError:
        """The error for these problems, with their lines."""
        return InvalidDescriptionError(self.file, self.document.locate(problems))


def read_file(file: str) -> DescriptionFile:
    """Read a file, or standard input for `-`.

    Raises:
        InvalidDescriptionError: when it is no YAML or JSON document, with the line.
        InvalidInputError: when it cannot be read.
    """
    from runner_spec.document import load_document
    from runner_spec.problem import ProblemsError

    try:
        content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{file}: {error.strerror or error}") from error
    try:
        return DescriptionFile(file, load_document(content))
    except ProblemsError as error:
        raise InvalidDescriptionError(file, error.problems) from error


def problem_lines(file: str, problems: "Sequence[Problem]") -> list[str]:
    """One line for each problem, below one with their number."""
    return [f"{file}: {counted(len(problems), 'problem')}", *(f"  {problem}" for problem in problems)]

"""Globs: `*`, `?`, `[…]` within a path component, `**` across components, `!` to exclude.

Hidden files are like any other. A pattern that names a folder takes all beneath it. The order of patterns does not
matter: what an exclusion matches is left out.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WILDCARDS: Final = re.compile(r"[*?\[]")


class GlobError(ValueError):
    """A pattern cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Glob:
    """One compiled pattern: `base` are the leading components without wildcards, where a walk may begin."""

    pattern: str
    base: tuple[str, ...]
    expression: re.Pattern[str]

    def matches(self, path: str) -> bool:
        """Whether a relative path, or a folder above it, matches."""
        return self.expression.match(path) is not None


@dataclass(frozen=True, slots=True)
class GlobSet:
    """What to take and what to leave."""

    take: tuple[Glob, ...]
    leave: tuple[Glob, ...]

    def matches(self, path: str) -> bool:
        """Whether a path relative to the root is taken."""
        return any(glob.matches(path) for glob in self.take) and not self.excludes(path)

    def excludes(self, path: str) -> bool:
        """Whether an exclusion matches the path: of a folder, nothing beneath it can be taken."""
        return any(glob.matches(path) for glob in self.leave)


def compile_globs(patterns: Sequence[str]) -> GlobSet:
    """The set of these patterns.

    Raises:
        GlobError: when a pattern is empty, absolute, or holds `..`.
    """
    take = tuple(_compile(pattern) for pattern in patterns if not pattern.startswith("!"))
    leave = tuple(_compile(pattern[1:]) for pattern in patterns if pattern.startswith("!"))
    return GlobSet(take, leave)


def find(root: Path, globs: GlobSet) -> Iterator[str]:
    """The files and links beneath `root` that are taken, relative, `/`-separated, in no particular order.

    Folders are entered, links to folders are not. What disappears during the walk is left out.
    """
    bases = sorted({glob.base for glob in globs.take})
    starts = [base for base in bases if not any(base[: len(o)] == o for o in bases if o != base)]
    for base in starts:
        if _is_link_inside(root, base):
            continue
        start = "/".join(base)
        place = root / start
        if place.is_dir() and not (start and place.is_symlink()):
            yield from _walk(str(place), start, globs)
        elif os.path.lexists(place) and globs.matches(start):
            yield start


def _is_link_inside(root: Path, base: Sequence[str]) -> bool:
    """Whether a folder on the way to `base` is a link: the walk would enter it."""
    return any(root.joinpath(*base[:depth]).is_symlink() for depth in range(1, len(base)))


def _walk(folder: str, prefix: str, globs: GlobSet) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_dir(follow_symlinks=False):
            if not globs.excludes(path):
                yield from _walk(entry.path, path, globs)
        elif (entry.is_file(follow_symlinks=False) or entry.is_symlink()) and globs.matches(path):
            yield path


def _compile(pattern: str) -> Glob:
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    if pattern.startswith("/") or not pattern:
        raise GlobError(f"pattern {pattern!r}: must be relative to the workspace")
    if ".." in parts:
        raise GlobError(f"pattern {pattern!r}: '..' would leave the workspace")
    base: list[str] = []
    for part in parts:
        if _WILDCARDS.search(part):
            break
        base.append(part)
    return Glob(pattern, tuple(base), re.compile(_expression(parts), re.DOTALL))


def _expression(parts: Sequence[str]) -> str:
    """`(?:/|$)` at the end: a folder that matches brings all beneath it."""
    if not parts:  # "." and "./": everything
        return ""
    text = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:[^/]+/)*"
        else:
            text += _component(part) + ("(?:/|$)" if last else "/")
    return text + ("" if parts[-1] != "**" else "$")


def _component(part: str) -> str:
    """One path component as a regular expression. Wildcards never match `/`."""
    text, position = "", 0
    while position < len(part):
        character = part[position]
        position += 1
        if character == "*":
            text += "[^/]*" if not text.endswith("[^/]*") else ""
        elif character == "?":
            text += "[^/]"
        elif character == "[" and (end := part.find("]", position + 1 + (part[position : position + 1] in "!^"))) > 0:
            text += _character_class(part[position:end])
            position = end + 1
        else:
            text += re.escape(character)
    return text


def _character_class(body: str) -> str:
    negated = body[0] in "!^"
    inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", body[1:] if negated else body)
    # A hyphen in front is itself, also behind the `^/` of a negation; and `--` would be read as a set difference.
    first = "\\-" if inner.startswith("-") else ""
    inner = first + inner.removeprefix("-").replace("--", "-\\-")
    expression = f"[{'^/' if negated else ''}{inner}]"
    try:
        re.compile(expression)
    except re.error as error:
        raise GlobError(f"pattern with [{body}]: {error}") from error
    return f"(?!/){expression}"

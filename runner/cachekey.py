"""Cache keys: `pip-{{ hash('requirements*.txt', 'setup.cfg') }}`, resolved against the workspace."""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from runner import tree
from runner.globs import GlobError, compile_globs, find

_EXPRESSION: Final = re.compile(r"\{\{(?P<body>.*?)\}\}", re.DOTALL)
_STRING: Final = r"""(?:'[^']*'|"[^"]*")"""
_HASH: Final = re.compile(rf"\s*hash\(\s*(?P<globs>{_STRING}(?:\s*,\s*{_STRING})*)\s*,?\s*\)\s*")


class KeyExpressionError(ValueError):
    """The key holds an expression that is not `hash('glob', …)`, or a file it names cannot be read."""


def resolve(key: str, workspace: Path) -> str:
    """The key with every `{{ hash(…) }}` replaced by 64 hex digits.

    The digest covers the sorted relative paths and the contents of all files that match. Where nothing matches it is
    that of no input at all: always the same.

    Raises:
        KeyExpressionError: see there.
    """

    def replace(match: re.Match[str]) -> str:
        call = _HASH.fullmatch(match["body"])
        if not call:
            raise KeyExpressionError(f"cache key {key!r}: only {{{{ hash('glob', …) }}}} can stand between braces")
        patterns = [quoted[1:-1] for quoted in re.findall(_STRING, call["globs"])]
        try:
            return digest(patterns, workspace)
        except (GlobError, OSError) as error:
            raise KeyExpressionError(f"cache key {key!r}: {error}") from error

    return _EXPRESSION.sub(replace, key)


def digest(patterns: list[str], workspace: Path) -> str:
    """Hex SHA-256 over path, NUL, and the contents' own SHA-256, of each regular file that matches, sorted by path."""
    total = hashlib.sha256()
    paths = {path for path in find(workspace, compile_globs(patterns)) if not (workspace / path).is_symlink()}
    for path in sorted(paths, key=os.fsencode):
        parts = tree.split(path)
        with tree.directory(workspace, parts[:-1]) as parent:
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - of a descriptor
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(os.fsencode(path) + b"\0" + content)
    return total.hexdigest()

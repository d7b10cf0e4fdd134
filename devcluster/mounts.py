"""Paths inside a container, as host paths: what a mount namespace would do, done by rewriting text. Pure.

Rewritten are: values of environment variables, words of command and args, the working directory. A text is rewritten
when it *is* a path at or below a mount path (component by component: `/workspace2` is not below `/workspace`), or a
list of such paths joined by `:`. Text that merely contains a path (`sh -c "cat /workspace/x"`, `--dir=/workspace`) is
left alone: a container that is to run here takes its paths from its environment.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from devcluster.runtime import Mount


class PathMap:
    """The mounts of one container; the longest mount path wins."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        entries = ((PurePosixPath(mount.path).parts, mount.host) for mount in mounts)
        self._entries = sorted(entries, key=lambda entry: -len(entry[0]))

    def path(self, text: str) -> str:
        """One path; anything else comes back as it is."""
        if not text.startswith("/"):
            return text
        parts = PurePosixPath(text).parts
        for mounted, host in self._entries:
            if parts[: len(mounted)] == mounted:
                below = Path(host, *parts[len(mounted) :])
                return f"{below}/" if text.endswith("/") else str(below)
        return text

    def text(self, value: str) -> str:
        """A path, or a `:`-separated list in which every path is rewritten."""
        if "/" not in value:
            return value
        return ":".join(self.path(part) for part in value.split(":"))

    def environment(self, values: Mapping[str, str]) -> dict[str, str]:
        """All values rewritten; names stay."""
        return {name: self.text(value) for name, value in values.items()}

    def words(self, words: Iterable[str]) -> list[str]:
        """A command line, word by word."""
        return [self.text(word) for word in words]

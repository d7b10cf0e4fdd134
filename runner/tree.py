"""A directory tree beneath a root, entered without ever following a symbolic link.

Whatever an archive, a source folder or a job has put there, nothing here reaches a file outside the root: each
component is opened relative to its parent with O_NOFOLLOW.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EscapeError(Exception):
    """A path would leave its root, or leads through something that is not a folder."""


def split(path: str) -> tuple[str, ...]:
    """The components of a relative path; `.` has none.

    Raises:
        EscapeError: when it is absolute, or holds `..` or NUL.
    """
    if path.startswith("/") or "\0" in path:
        raise EscapeError(f"{path!r} is not a relative path")
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if ".." in parts:
        raise EscapeError(f"{path!r} leaves its folder with '..'")
    return parts


@contextmanager
def directory(root: Path | int, parts: Sequence[str] = (), *, create: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` beneath `root` (a path, or a descriptor that stays open).

    Raises:
        EscapeError: when a component is a symbolic link or not a folder.
        OSError: when it is absent (and not to be created) or cannot be opened.
    """
    # O_NOFOLLOW must not apply to the root itself: /workspace may well be a link, made by whoever made the container.
    current = os.dup(root) if isinstance(root, int) else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, part in enumerate(parts):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
            following = _open_component(part, current, parts[: number + 1])
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def _open_component(part: str, parent: int, path: Sequence[str]) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=parent)
    except NotADirectoryError as error:  # also what O_DIRECTORY | O_NOFOLLOW say to a symbolic link
        raise EscapeError(f"{'/'.join(path)!r} is a link or a file, not a folder") from error


def status(parent: int, name: str) -> os.stat_result | None:
    """What `name` is in the folder `parent`, links not followed; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """A small file that a job may have put there: it is not waited for (a fifo), nor followed, nor taken whole.

    Raises:
        OSError: when it is absent, a link, no regular file, or larger than `limit` bytes.
    """
    descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - of a descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        if found.st_size > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
        return file.read(limit) or b""


def remove(parent: int, name: str) -> None:
    """Remove `name` and all beneath it, read-only folders (as in Go's module cache) included.

    Raises:
        OSError: when something cannot be removed.
    """
    found = status(parent, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for entry in os.listdir(descriptor):  # noqa: PTH208 - of a descriptor
            remove(descriptor, entry)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)

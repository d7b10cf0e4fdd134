"""Copying a local folder into the workspace: modes, times and symbolic links kept, nothing outside reached."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from runner import console, tree
from runner.errors import JobFaultError, TemporaryError
from runner_spec.plan import FolderSource

_LEFT_OUT: Final = frozenset({".git", ".dynapod"})
_CHUNK: Final = 256 * 1024


def copy(source: FolderSource, root: Path, workspace: Path) -> int:
    """Copy what the plan names; the number of files and links copied.

    Raises:
        JobFaultError: (`source`) when a listed path would leave the folder.
        TemporaryError: (`source`) when the folder is not mounted, or a file cannot be read or written.
    """
    if not root.is_dir():
        raise TemporaryError("source", "the source folder is not mounted here")
    console.say("copying the source folder" if source.files is None else f"copying {len(source.files)} source files")
    count = 0
    try:
        for path in _everything(root) if source.files is None else source.files:
            count += _copy(root, workspace, path)
    except tree.EscapeError as error:
        raise JobFaultError("source", f"a source file would leave its folder: {error}") from error
    except OSError as error:
        raise TemporaryError("source", f"cannot copy the source folder: {error}") from error
    console.say(f"copied {count} files")
    return count


def _everything(root: Path, prefix: str = "") -> Iterator[str]:
    """All entries but folders, and empty folders, so that they exist as well."""
    parts = tree.split(prefix)
    with tree.directory(root, parts) as descriptor:
        names = sorted(os.listdir(descriptor))  # noqa: PTH208 - of a descriptor
        kinds = {name: found for name in names if (found := tree.status(descriptor, name))}
    if not kinds and prefix:
        yield prefix
    for name, found in kinds.items():
        path = f"{prefix}/{name}" if prefix else name
        if name in _LEFT_OUT:
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _everything(root, path)
        else:
            yield path


def _copy(root: Path, workspace: Path, path: str) -> int:
    parts = tree.split(path)
    if not parts:
        raise tree.EscapeError(f"{path!r} names no file")
    try:
        with tree.directory(root, parts[:-1]) as source:
            found = os.stat(parts[-1], dir_fd=source, follow_symlinks=False)
            with _target_folder(root, workspace, parts[:-1]) as target:
                return _copy_entry(source, target, parts[-1], found, path)
    except FileNotFoundError:
        # Listed and gone: an editor's temporary file, or one deleted and not yet committed.
        console.warn(f"{path} is not in the source folder any more: left out")
        return 0


def _target_folder(root: Path, workspace: Path, parts: tuple[str, ...]) -> AbstractContextManager[int]:
    """The folder in the workspace, made with the modes of the source's folders."""
    for depth in range(1, len(parts) + 1):
        with tree.directory(workspace, parts[: depth - 1]) as parent:
            if tree.status(parent, parts[depth - 1]) is None:
                with tree.directory(root, parts[:depth]) as original:
                    mode = stat.S_IMODE(os.fstat(original).st_mode) | stat.S_IRWXU
                os.mkdir(parts[depth - 1], dir_fd=parent)
                os.chmod(parts[depth - 1], mode, dir_fd=parent)
    return tree.directory(workspace, parts)


def _copy_entry(source: int, target: int, name: str, found: os.stat_result, path: str) -> int:
    if stat.S_ISDIR(found.st_mode):  # an empty folder, or a submodule's place in a list of files
        with suppress(FileExistsError):
            os.mkdir(name, stat.S_IMODE(found.st_mode) | stat.S_IRWXU, dir_fd=target)
        return 0
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        console.warn(f"{path} is a device, a socket or a pipe: left out")
        return 0
    tree.remove(target, name)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        return 1
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    with open(reading, "rb", buffering=0) as original:  # noqa: PTH123 - of a descriptor
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        with open(writing, "wb", buffering=0) as copied:  # noqa: PTH123 - of a descriptor
            shutil.copyfileobj(original, copied, _CHUNK)
            os.fchmod(writing, stat.S_IMODE(found.st_mode) & 0o777)
            os.utime(writing, ns=(found.st_atime_ns, found.st_mtime_ns))
    return 1

"""Where a local run takes its source from: paths in a description become URLs and folders of this machine."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from runner_spec.grammar import git_scheme
from worker.cli.exit_status import InvalidInputError

# Never copied: git's own folder, and what dynapod itself has written there.
EXCLUDED: Final = frozenset({".git", ".dynapod"})


def local_source(
    description: Mapping[str, Any], folder: Path, *, override: str | None = None, ref: str | None = None
) -> dict[str, Any]:
    """The description with a source that this machine can check out.

    A relative path in `source.git` or `source.folder` is resolved against `folder`, that of the description's file.
    Without the key `source`, the source is that folder itself. `override` is a git URL or a path (relative to the
    present folder); with `ref`, a path means the git repository there, and otherwise its files as they are now.
    Anything that is not understood is left for validation to report.

    Raises:
        InvalidInputError: when a path does not exist, or a ref is given for a folder that is copied.
    """
    source = description.get("source", {"folder": "."})
    if override is not None:
        kept = {key: value for key, value in source.items() if key != "folder"} if isinstance(source, Mapping) else {}
        if _is_url(override):
            source = {**kept, "git": override}
        else:
            path = _existing(Path.cwd() / override, "--source")
            source = {**kept, "git": path.as_uri()} if ref else {"folder": str(path)}
    elif isinstance(source, Mapping):
        source = _resolved(source, folder)
    if ref is not None:
        source = _at_ref(source, ref)
    local = {**description, "source": source}
    # Nobody can `kubectl exec` into a local run: what it leaves is in its folders.
    if isinstance(local.get("keep"), str):
        del local["keep"]
    return local


def _resolved(source: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    git, local = source.get("git"), source.get("folder")
    if isinstance(git, str) and git and not _is_url(git):
        return {**source, "git": _existing(folder / git, "source.git").as_uri()}
    if isinstance(local, str) and local:
        return {**source, "folder": str(_existing(folder / local, "source.folder"))}
    return dict(source)


def _at_ref(source: object, ref: str) -> dict[str, Any]:
    if not isinstance(source, Mapping):
        raise InvalidInputError("--ref: the description has no source; name one with --source")
    if isinstance(source.get("folder"), str):
        # The files as they are now have no ref: take the repository instead.
        rest = {key: value for key, value in source.items() if key not in {"folder", "files"}}
        source = {**rest, "git": Path(str(source["folder"])).absolute().as_uri()}
    return {**source, "ref": ref}


def _is_url(text: str) -> bool:
    return "://" in text or (git_scheme(text) is not None and not Path(text).exists())


def _existing(path: Path, field: str) -> Path:
    found = path.resolve()
    if not found.is_dir():
        raise InvalidInputError(f"{field}: there is no folder {str(found)!r}; name a folder or a git URL")
    return found


def source_files(folder: Path) -> tuple[str, ...] | None:
    """What git would consider part of `folder`: tracked files, and untracked ones that are not ignored.

    Relative, sorted, without files that were deleted. None when `folder` is in no git work tree: then everything is.
    """
    listed = _git_files(folder)
    return None if listed is None else tuple(sorted(listed))


def _git_files(folder: Path) -> set[str] | None:
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no work tree: the caller copies everything
    return set(_files(folder, os.fsdecode(done.stdout).split("\0")))


def _files(folder: Path, names: list[str]) -> Iterator[str]:
    for name in filter(None, names):
        path = folder / name
        if EXCLUDED.intersection(name.split("/")) or not os.path.lexists(path):
            continue
        if path.is_dir() and not path.is_symlink():  # a submodule, or a repository inside this one
            inner = _git_files(path) or set()
            yield from (f"{name.rstrip('/')}/{file}" for file in inner)
        else:
            yield name

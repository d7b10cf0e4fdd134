"""A copy of the chosen files of a folder, for lists of files that cannot travel with a job."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from worker.cli.local_source import source_files

# The list travels in the pod's plan annotation, and all annotations together hold 256 KiB (runner_spec.anatomy).
LIST_LIMIT_BYTES: Final = 64 * 1024


def staged_source(source: dict[str, Any], staging: Path) -> dict[str, Any]:
    """A folder source that copies what git considers part of it, and no ignored build results.

    Short lists are named in the source. Long ones, and names that are not UTF-8, cannot be: then the files are copied
    to `staging` (an empty folder, removed by the caller), which becomes the source. Anything else stays as it is.
    """
    folder = source.get("folder")
    if not isinstance(folder, str) or source.get("files") is not None:
        return source
    files = source_files(Path(folder))
    if files is None:
        return source
    try:
        size = len(json.dumps(files, ensure_ascii=False).encode())
    except UnicodeEncodeError:  # a name that is not UTF-8
        size = LIST_LIMIT_BYTES + 1
    if files and size <= LIST_LIMIT_BYTES:
        return {**source, "files": list(files)}
    _copy(Path(folder), files, staging)
    return {**source, "folder": str(staging)}


def _copy(folder: Path, files: Sequence[str], target: Path) -> None:
    for name in files:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / name, copy, follow_symlinks=False)

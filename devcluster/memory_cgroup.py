"""Memory limits by cgroup, where this process may make one: version 2 (delegated, or root) or version 1.

Without one, `container_init` measures the container's memory four times a second and kills it when it is over its
limit. RLIMIT_AS and RLIMIT_DATA are no substitute: they count address space per process, so they fail runtimes that
reserve far more than they use (the JVM, Go, V8), do not see a container of many small processes, and end in ENOMEM
instead of a kill that can be told as OOMKilled.
"""

import logging
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path("/sys/fs/cgroup")
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """One container's cgroup."""

    version: int
    folder: Path

    def as_orders(self) -> dict[str, Any]:
        """For `container_init`, JSON-pure."""
        events = self.folder / ("memory.events" if self.version == 2 else "memory.oom_control")  # noqa: PLR2004
        return {"version": self.version, "folder": str(self.folder), "events": str(events)}

    def remove(self) -> None:
        """Delete it; its processes are gone."""
        with suppress(OSError):
            self.folder.rmdir()


class MemoryCgroups:
    """Makes cgroups below the one this process is in (or beside it, where a delegated parent allows that)."""

    def __init__(self, root: Path = _ROOT, own: str | None = None) -> None:
        self._version, self._parent = _usable_parent(root, own)

    @property
    def available(self) -> bool:
        """Whether limits are enforced by the kernel."""
        return self._parent is not None

    def create(self, limit: int) -> MemoryCgroup | None:
        """A cgroup limited to so many bytes, swap included; None when the system permits none."""
        if self._parent is None:
            return None
        return _make(self._version, self._parent, limit)


def _make(version: int, parent: Path, limit: int) -> MemoryCgroup | None:
    cgroup = MemoryCgroup(version, parent / f"devcluster-{uuid.uuid4().hex[:12]}")
    try:
        # Moving a process needs write access to the files of the nearest common ancestor (cgroups(7), delegation).
        if not os.access(parent / "cgroup.procs", os.W_OK):
            return None
        cgroup.folder.mkdir()
        if version == 2:  # noqa: PLR2004
            (cgroup.folder / "memory.max").write_text(str(limit))
            (cgroup.folder / "memory.oom.group").write_text("1")
            with suppress(OSError):  # no swap accounting on this kernel
                (cgroup.folder / "memory.swap.max").write_text("0")
        else:
            (cgroup.folder / "memory.limit_in_bytes").write_text(str(limit))
            (cgroup.folder / "memory.oom_control").write_text("1")  # container_init kills, see there
            with suppress(OSError):
                (cgroup.folder / "memory.memsw.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        _LOG.debug("no cgroup below %s: %s", parent, error)
        cgroup.remove()
        return None
    return cgroup


def _usable_parent(root: Path, own: str | None) -> tuple[int, Path | None]:
    text = own
    if text is None:
        try:
            text = Path("/proc/self/cgroup").read_text("utf-8")
        except OSError:
            return 0, None
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "memory":
            candidates, version = [root / "memory" / below], 1
        elif controllers == "" and (root / "cgroup.controllers").exists():
            folder = root / below
            with suppress(OSError):
                (folder / "cgroup.subtree_control").write_text("+memory")
            candidates, version = [folder, folder.parent] if below else [folder], 2
        else:
            continue
        for candidate in candidates:
            if (probe := _make(version, candidate, 64 << 20)) is not None:
                probe.remove()
                return version, candidate
    return 0, None

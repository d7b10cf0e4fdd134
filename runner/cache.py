"""Restoring and saving caches. Whatever goes wrong with one is a warning: a job must not fail for want of a cache."""

import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from runner import archive, cachekey, compression, console, tree
from runner.archive import ArchiveError, Member
from runner.compression import CompressionError
from runner.environment import Environment
from runner.errors import RunnerError
from runner.gateway import CacheEntry, Gateway
from runner.seal import SealedReader, Sealer, SealError
from runner_spec.plan import CachePlan
from runner_spec.report import CacheReport

# Keys are resolved once, by checkout: the job may change the hashed files, and must still save under the key it asked
# for. Upload resolves them itself where checkout could not leave this file.
KEYS_FILE: Final = "cache-keys.json"
_KEYS_LIMIT_BYTES: Final = 1024 * 1024
_CREATED: Final = 201
_FAILURES: Final = (ArchiveError, CompressionError, SealError, tree.EscapeError, RunnerError, OSError)


class Caches:
    """The caches of one plan; `roots` are the workspace and the home folder."""

    def __init__(self, plans: Sequence[CachePlan], environment: Environment) -> None:
        self._plans = plans
        self._state = environment.state
        self._roots = {"workspace": environment.workspace, "home": environment.home}

    # --- keys -------------------------------------------------------------------------------------------------------

    def resolve_keys(self) -> list[str | None]:
        """The key of each cache, None where it cannot be resolved (a warning was printed)."""
        keys: list[str | None] = []
        for plan in self._plans:
            try:
                keys.append(cachekey.resolve(plan.key, self._roots["workspace"]))
            except cachekey.KeyExpressionError as error:
                console.warn(str(error))
                keys.append(None)
        return keys

    def keep_keys(self, keys: Sequence[str | None]) -> None:
        """Leave the resolved keys for upload; where this container may not write them, upload resolves its own."""
        with suppress(OSError):
            (self._state / KEYS_FILE).write_text(json.dumps(keys), encoding="utf-8")

    def kept_keys(self) -> list[str | None]:
        """What checkout left, else resolved now."""
        try:
            keys = json.loads(tree.read_file(self._state, KEYS_FILE, _KEYS_LIMIT_BYTES))
        except (OSError, ValueError, RecursionError):
            return self.resolve_keys()
        usable = isinstance(keys, list) and len(keys) == len(self._plans)
        if usable and all(key is None or isinstance(key, str) for key in keys):
            return list(keys)
        return self.resolve_keys()

    # --- restore ----------------------------------------------------------------------------------------------------

    def restore(self, gateway: Callable[[], Gateway]) -> tuple[CacheReport, ...]:
        """Restore every cache; never raises for a cache's sake."""
        keys = self.resolve_keys()
        self.keep_keys(keys)
        return tuple(
            _reported(key, plan.key, partial(self._restore, plan, gateway))
            for plan, key in zip(self._plans, keys, strict=True)
        )

    def _restore(self, plan: CachePlan, connect: Callable[[], Gateway], key: str) -> CacheReport:
        gateway = connect()
        allowed = [member_of(path) for path in plan.paths]
        entry = gateway.get_cache(key, plan.fallback)
        if entry is None:
            return CacheReport(key, "miss")
        try:
            size = self._receive(entry, allowed)
        finally:
            entry.body.close()
            gateway.close()  # an archive may have been left half-read: the connection is of no further use
        if entry.key == key:
            return CacheReport(key, "hit", size)
        return CacheReport(key, "fallback", size, message=f"from {entry.key}")

    def _receive(self, entry: CacheEntry, allowed: Sequence[Member]) -> int:
        """Unpack beside the final place, check the seal, then move: a damaged archive leaves no trace."""
        sealed = SealedReader(entry.body)
        with _staging(self._roots) as staging:
            with compression.expand(sealed, entry.archive) as stream:
                archive.Unpacker(staging, allowed, self._roots).unpack(stream)
                while stream.read(archive.CHUNK):
                    pass  # padding; the end of the stream is where damage shows
            sealed.drain()
            for act in (_check_move, _move):
                for member in allowed:
                    _place(staging[member[0]], self._roots[member[0]], member[1:], act)
        return sealed.size

    # --- save -------------------------------------------------------------------------------------------------------

    def save(self, keys: Sequence[str | None], gateway: Gateway, deadline: float) -> tuple[CacheReport, ...]:
        """Save every cache that has no entry under its key yet; never raises for a cache's sake."""
        return tuple(
            _reported(key, plan.key, partial(self._save, plan, gateway, deadline))
            for plan, key in zip(self._plans, keys, strict=True)
        )

    def _save(self, plan: CachePlan, gateway: Gateway, deadline: float, key: str) -> CacheReport:
        members = [member_of(path) for path in plan.paths]
        present = [member for member in members if archive.exists(self._roots, member)]
        if not present:
            return CacheReport(key, "skipped", message="none of its paths exists")
        if gateway.has_cache(key, deadline):
            return CacheReport(key, "unchanged")
        form = compression.best_format()
        sealer = Sealer()

        def body() -> Iterator[bytes]:
            nonlocal sealer
            sealer = Sealer()
            try:
                with compression.compress(archive.pack(self._roots, present), form) as chunks:
                    yield from sealer.seal(chunks)
            except OSError as error:  # of the files, not of the connection: no reason to try again
                raise ArchiveError(f"cannot read the files: {error}") from error

        answer = gateway.put_cache(key, form, body, deadline)
        return CacheReport(key, "saved" if answer.status == _CREATED else "unchanged", sealer.size)


def member_of(path: str) -> Member:
    """Where a plan's path lies in an archive: `~/` is the home folder, anything else the workspace.

    Raises:
        EscapeError: when it leaves its root.
    """
    if path == "~" or path.startswith("~/"):
        return ("home", *tree.split(path[2:]))
    return ("workspace", *tree.split(path))


def _reported(key: str | None, template: str, action: Callable[[str], CacheReport]) -> CacheReport:
    began = time.monotonic()
    if key is None:
        return CacheReport(template, "failed", message="its key cannot be resolved")
    try:
        report = action(key)
    except (*_FAILURES, cachekey.KeyExpressionError) as error:
        message = console.redact(str(error))
        console.warn(f"cache {key}: {message}; the job goes on without it")
        return CacheReport(key, "failed", seconds=_since(began), message=message)
    seconds = _since(began)
    size = f", {console.megabytes(report.size)} in {seconds:.1f} s" if report.size else ""
    console.say(f"cache {key}: {report.result}{size}{' (' + report.message + ')' if report.message else ''}")
    return CacheReport(key, report.result, report.size, seconds, report.message)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)


# --- From the staging folders to the final place ----------------------------------------------------------------------


@contextmanager
def _staging(roots: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """A folder inside each root (the same filesystem, so that moving is renaming), removed afterwards."""
    staging: dict[str, Path] = {}
    try:
        for name, root in roots.items():
            root.mkdir(parents=True, exist_ok=True)
            staging[name] = Path(tempfile.mkdtemp(prefix=".dynapod-restore-", dir=root))
        yield staging
    finally:
        for path in staging.values():
            with tree.directory(path.parent) as parent:
                tree.remove(parent, path.name)


Act = Callable[[int, int, str], None]  # source folder, destination folder, name


def _place(staging: Path, root: Path, parts: Member, act: Act) -> None:
    """Apply `act` to what was restored at `parts`."""
    if not parts:  # the whole root: its entries one by one
        with tree.directory(staging) as source, tree.directory(root) as target:
            for name in os.listdir(source):  # noqa: PTH208 - of a descriptor
                act(source, target, name)
        return
    try:
        with tree.directory(staging, parts[:-1]) as source:
            if tree.status(source, parts[-1]) is not None:
                with tree.directory(root, parts[:-1], create=True) as target:
                    act(source, target, parts[-1])
    except FileNotFoundError:
        return  # the archive has nothing there


def _check_move(source: int, target: int, name: str) -> None:
    """Refuse before anything is moved what could not be moved: a folder over a file, or a file over a folder.

    Raises:
        ArchiveError: naming the path.
    """
    there = tree.status(target, name)
    here = os.stat(name, dir_fd=source, follow_symlinks=False)
    if there is None:
        return
    if stat.S_ISDIR(here.st_mode) != stat.S_ISDIR(there.st_mode):
        raise ArchiveError(f"{name!r} is a folder on one side only, in the cache or in the workspace")
    if stat.S_ISDIR(here.st_mode):
        _each_child(source, target, name, _check_move)


def _move(source: int, target: int, name: str) -> None:
    """Rename, or merge a folder into the one that is there; files that are there are replaced."""
    here = os.stat(name, dir_fd=source, follow_symlinks=False)
    if not stat.S_ISDIR(here.st_mode):
        os.replace(name, name, src_dir_fd=source, dst_dir_fd=target)
    elif tree.status(target, name) is None:
        # To change a folder's parent is to write into it: a read-only one (Go's module cache) refuses.
        os.chmod(name, stat.S_IRWXU, dir_fd=source)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        os.chmod(name, stat.S_IMODE(here.st_mode), dir_fd=target)
        os.utime(name, ns=(here.st_mtime_ns, here.st_mtime_ns), dir_fd=target)
    else:
        _each_child(source, target, name, _move)


def _each_child(source: int, target: int, name: str, act: Act) -> None:
    with tree.directory(source, (name,)) as inner_source, tree.directory(target, (name,)) as inner_target:
        for child in os.listdir(inner_source):  # noqa: PTH208 - of a descriptor
            act(inner_source, inner_target, child)

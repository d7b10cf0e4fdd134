"""Uploading one artifact: find its files, send each with its seal, sum up JUnit files."""

import http.client
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runner import console, tree
from runner.errors import JobFaultError, TemporaryError
from runner.gateway import Gateway, GatewayRefusedError
from runner.globs import GlobError, compile_globs, find
from runner.junit import JUnitTotals
from runner.seal import Sealer
from runner_spec.plan import ArtifactPlan
from runner_spec.report import ArtifactReport, FileReport
from runner_spec.transfer import SEAL_BYTES

# The manifest lists every file and is held in memory: 20,000 entries take some 10 MB.
FILES_LIMIT: Final = 20_000
_CHUNK: Final = 256 * 1024
NOTES_LIMIT: Final = 5
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")  # what the gateway refuses in a name


class _FileChangedError(Exception):
    """A file became shorter while it was being sent."""


class _LeftOutError(Exception):
    """What matched is no file of the workspace."""


@dataclass(frozen=True, slots=True)
class ArtifactResult:
    """What became of an artifact; `error` ends the container, but only after the others have had their turn."""

    report: ArtifactReport
    error: JobFaultError | TemporaryError | None = None


def applies(plan: ArtifactPlan, *, succeeded: bool) -> bool:
    """Whether the artifact is wanted after a run that ended like this."""
    return plan.when == "always" or (plan.when == "success") == succeeded


class ArtifactUpload:
    """Uploads one artifact. `deadline` is in monotonic seconds."""

    def __init__(self, plan: ArtifactPlan, workspace: Path, gateway: Gateway, deadline: float) -> None:
        self._plan = plan
        self._workspace = workspace
        self._gateway = gateway
        self._deadline = deadline
        self._files: list[FileReport] = []
        self._notes: list[str] = []
        self._totals = JUnitTotals() if plan.kind == "junit" else None

    def run(self) -> ArtifactResult:
        """Upload everything that matches, until the first file that cannot be stored."""
        error: JobFaultError | TemporaryError | None = None
        try:
            for path in self._matching():
                self._upload(path)
        except (JobFaultError, TemporaryError) as problem:
            error = problem
            self._notes.insert(0, str(problem))
        result = "failed" if error else "uploaded" if self._files else "missing"
        if result == "missing":
            self._notes.insert(0, f"artifact {self._plan.name!r}: no file matches {', '.join(self._plan.paths)}")
            if not self._plan.optional:
                error = JobFaultError("missing-artifact", self._note())
        return ArtifactResult(self._report(result), error)

    def _report(self, result: str) -> ArtifactReport:
        return ArtifactReport(
            name=self._plan.name,
            result=result,
            count=len(self._files),
            size=sum(file.size for file in self._files),
            files=tuple(self._files),
            junit=self._totals.report() if self._totals and self._files else None,
            message=console.redact(self._note()),
        )

    def _note(self) -> str:
        more = len(self._notes) - NOTES_LIMIT
        return "; ".join(self._notes[:NOTES_LIMIT]) + (f"; and {more} more" if more > 0 else "")

    def _matching(self) -> list[str]:
        found: list[str] = []
        try:
            for path in find(self._workspace, compile_globs(self._plan.paths)):
                found.append(path)
                if len(found) > FILES_LIMIT:
                    raise JobFaultError(
                        "artifact-quota", f"more than {FILES_LIMIT} files match: pack them into an archive"
                    )
        except (GlobError, OSError) as error:
            raise JobFaultError("artifact", f"artifact {self._plan.name!r}: {error}") from error
        return sorted(found)

    def _upload(self, path: str) -> None:
        """Send one file, once more when it changes meanwhile; what cannot be an artifact is left out with a note.

        Raises:
            JobFaultError, TemporaryError: when the file cannot be stored.
        """
        if not _is_text(path):
            raise JobFaultError("artifact", f"{os.fsencode(path)!r}: its name is not valid UTF-8: rename it")
        if _CONTROL.search(path):
            raise JobFaultError("artifact", f"{path!r}: its name holds a control character: rename it")
        for last in (False, False, True):
            try:
                with _opened(path, self._workspace) as descriptor:
                    self._files.append(self._send(path, descriptor))
                    if self._totals and (problem := self._totals.add(os.dup(descriptor))):
                        self._notes.append(f"{path}: {problem}")
            except _LeftOutError as error:
                self._notes.append(f"{path} {error}: left out")
                console.warn(self._notes[-1])
            except _FileChangedError as error:
                if last:
                    raise JobFaultError("artifact", f"{path} became shorter while it was read") from error
                continue
            except OSError as error:
                raise JobFaultError("artifact", f"{path} cannot be read: {error.strerror}") from error
            return

    def _send(self, path: str, descriptor: int) -> FileReport:
        size = os.fstat(descriptor).st_size
        sealer = Sealer()

        def body() -> Iterator[bytes]:
            nonlocal sealer
            sealer = Sealer()
            return sealer.seal(_content(path, descriptor, size))

        try:
            self._gateway.put_artifact(self._plan.name, path, body, size + SEAL_BYTES, self._deadline)
        except GatewayRefusedError as error:
            if error.status == http.client.REQUEST_ENTITY_TOO_LARGE:
                raise JobFaultError(
                    "artifact-quota", f"{path} ({console.megabytes(size)}) is over quota: {error}"
                ) from error
            if error.status == http.client.BAD_REQUEST:  # a name that the gateway takes from no attempt
                raise JobFaultError("artifact", f"{path}: {error}") from error
            raise
        return FileReport(path, size, sealer.sha256)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: str, descriptor: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        try:
            chunk = os.pread(descriptor, min(_CHUNK, size - offset), offset)
        except OSError as error:  # not of the connection: no reason to try again
            raise JobFaultError("artifact", f"{path} cannot be read: {error.strerror}") from error
        if not chunk:
            raise _FileChangedError
        offset += len(chunk)
        yield chunk


@contextmanager
def _opened(path: str, workspace: Path) -> Iterator[int]:
    """The file's descriptor; a link is followed, but only inside the workspace.

    Raises:
        _LeftOutError: when there is no regular file there.
    """
    real, root = os.path.realpath(workspace / path), os.path.realpath(workspace)
    if os.path.commonpath((real, root)) != root:
        raise _LeftOutError("is a link that leads out of the workspace")
    parts = tree.split(os.path.relpath(real, root))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a fifo must not block
    try:
        with tree.directory(workspace, parts[:-1]) as parent:
            descriptor = os.open(parts[-1] if parts else ".", flags, dir_fd=parent)
    except FileNotFoundError as error:
        raise _LeftOutError("is a link to nothing, or gone") from error
    except tree.EscapeError as error:
        raise _LeftOutError(str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _LeftOutError("is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)

"""A job's artifacts as files on this machine, each checked against its recorded digest."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runner_spec import storage
from runner_spec.report import ArtifactReport, FileReport, UploadReport, parse_report

if TYPE_CHECKING:
    from adapters.object_store import ObjectStore

UPLOADED: Final = "uploaded"


class DownloadError(Exception):
    """An artifact could not be fetched whole; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Download:
    """An artifact that was fetched: its name, and its folder, or its file when there is only one."""

    name: str
    path: Path


async def recorded_artifacts(store: "ObjectStore", job_id: str, attempt: int) -> tuple[ArtifactReport, ...]:
    """The artifacts of an attempt with all their files, from its manifest; empty when there is none.

    Raises:
        DownloadError: when there is a manifest that cannot be read.
    """
    from adapters.object_store import NotFound

    path = storage.manifest_path(job_id, attempt)
    try:
        _, chunks = await store.open(path)
        content = b"".join([bytes(chunk) async for chunk in chunks])
    except NotFound:
        return ()
    manifest = parse_report(UploadReport, content.decode("utf-8", "replace"))
    if manifest is None:
        raise DownloadError(f"the manifest {path!r} cannot be read: the artifacts are in the store, unlisted")
    return manifest.artifacts


async def download_artifacts(
    store: "ObjectStore", job_id: str, attempt: int, artifacts: Sequence[ArtifactReport], output: Path
) -> list[Download]:
    """Write every uploaded file to `output/<artifact>/<path>`, replacing files that are there.

    Raises:
        DownloadError: for a path that leaves `output`, or content that is not what was uploaded.
        StoreError: as the store.
    """
    downloads = []
    for artifact in artifacts:
        if artifact.result != UPLOADED or not artifact.files:
            continue
        folder = output / _inside(artifact.name, artifact.name)
        for file in artifact.files:
            target = folder / _inside(file.path, artifact.name)
            await _fetch(store, storage.artifact_path(job_id, attempt, artifact.name, file.path), target, file)
        single = len(artifact.files) == 1
        downloads.append(Download(artifact.name, folder / artifact.files[0].path if single else folder))
    return downloads


def _inside(path: str, artifact: str) -> Path:
    """The job chose the path: it must stay below the folder it is appended to."""
    parts = path.split("/")
    if "\0" in path or not all(part not in {"", ".", ".."} for part in parts):
        raise DownloadError(f"artifact {artifact!r}: the path {path!r} would leave its folder; it was not written")
    return Path(*parts)


async def _fetch(store: "ObjectStore", source: str, target: Path, expected: FileReport) -> None:
    """Write beside the target and rename: nobody ever sees half a file under its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name[:100]}.{os.getpid()}.partial")
    digest = hashlib.sha256()
    try:
        _, chunks = await store.open(source)
        # Local files, a chunk of 1 MiB at a time: shorter than a thread's hand-over is worth.
        with partial.open("wb") as file:
            async for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != expected.sha256:
            message = f"{expected.path!r}: the store's content does not have the digest that was recorded at upload"
            raise DownloadError(message)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)

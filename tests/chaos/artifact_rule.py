"""The rule for artifacts of a green job: the manifest names each with its digest, and the store has its bytes."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.chaos.records import Artifact, StoredArtifacts


def unproven(stored: StoredArtifacts | None, made: Iterable[Artifact]) -> list[str]:
    """What is wrong with the artifacts of a job that `made` these files, a sentence each; empty when nothing is."""
    if stored is None or stored.manifest is None:
        return ["its manifest is not in the store"]
    troubles = list(_contradictions(stored))
    named = dict(_named(stored.manifest))
    for artifact in made:
        key = artifact.name, artifact.path
        content = stored.files.get(key)
        if key not in named:
            troubles.append(f"the manifest does not name {_words(key)}")
        elif content is not None and content != artifact.content:
            troubles.append(
                f"{_words(key)}: {len(content)} bytes are stored that the job did not write: it wrote "
                f"{len(artifact.content)} others"
            )
    return troubles


def _contradictions(stored: StoredArtifacts) -> Iterator[str]:
    """Where the manifest admits a failure, or says something else than the objects do."""
    manifest = stored.manifest or {}
    results = [artifact["result"] for artifact in manifest["artifacts"]]
    if manifest["reason"] != "ok" or not {"uploaded", "skipped"}.issuperset(results):
        yield f"the manifest itself says {manifest['reason']!r}, of its artifacts {results}"
    for key, file in _named(manifest):
        content = stored.files.get(key)
        if content is None:
            yield f"{_words(key)} is named in the manifest, and is not in the store"
        elif (len(content), hashlib.sha256(content).hexdigest()) != (file["size"], file["sha256"]):
            yield f"{_words(key)}: {len(content)} bytes are stored whose digest is not that of the manifest"


def _named(manifest: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    for artifact in manifest["artifacts"]:
        for file in artifact["files"]:
            yield (artifact["name"], file["path"]), file


def _words(key: tuple[str, str]) -> str:
    return f"file {key[1]!r} of artifact {key[0]!r}"

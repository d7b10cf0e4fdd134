"""Termination messages: the kubelet keeps 4096 bytes, so a report gives up its least telling parts first."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from runner import console
from runner_spec.report import (
    ArtifactReport,
    CacheReport,
    CheckoutReport,
    UploadReport,
    fits,
    to_json,
)


def write(path: Path | None, report: CheckoutReport | UploadReport) -> None:
    """Write the message; a missing or unwritable file is a warning, for the exit code alone decides."""
    if path is None:
        return
    try:
        with path.open("wb") as file:
            file.write(message(report).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        console.warn(f"cannot write the termination message: {error}")


def message(report: CheckoutReport | UploadReport) -> str:
    """JSON of at most 4096 bytes."""
    for shorter in _shorter(report):
        text = to_json(shorter)
        # ensure_ascii=False in to_json: a name that is no valid UTF-8 must not cost the whole message.
        text = text.encode("utf-8", "backslashreplace").decode()
        if fits(text):
            return text
    return to_json(type(report)(reason=report.reason, message=_cut(report.message, 200)))


def _shorter(report: CheckoutReport | UploadReport) -> Iterator[CheckoutReport | UploadReport]:
    yield report
    if isinstance(report, UploadReport):
        report = _each_artifact(report, lambda artifact: replace(artifact, files=()))
        yield report
        for count in (20, 5, 1):
            report = _each_artifact(report, partial(_fewer_failed, count=count))
            yield report
    for length in (300, 100, 40):
        report = replace(
            report,
            message=_cut(report.message, 2 * length),
            caches=tuple(_short_cache(cache, length) for cache in report.caches),
        )
        if isinstance(report, UploadReport):
            report = _each_artifact(report, partial(_short_artifact, length=length))
        yield report
    for count in (15, 7, 3):
        report = replace(report, caches=report.caches[:count])
        if isinstance(report, UploadReport):
            report = replace(report, artifacts=report.artifacts[:count])
        yield report


def _each_artifact(report: UploadReport, change: Callable[[ArtifactReport], ArtifactReport]) -> UploadReport:
    return replace(report, artifacts=tuple(change(artifact) for artifact in report.artifacts))


def _fewer_failed(artifact: ArtifactReport, count: int) -> ArtifactReport:
    if artifact.junit is None:
        return artifact
    failed = tuple(_cut(name, 120) for name in artifact.junit.failed[:count])
    return replace(artifact, junit=replace(artifact.junit, failed=failed))


def _short_artifact(artifact: ArtifactReport, length: int) -> ArtifactReport:
    return replace(artifact, name=_cut(artifact.name, length), message=_cut(artifact.message, length))


def _short_cache(cache: CacheReport, length: int) -> CacheReport:
    return replace(cache, key=_cut(cache.key, length), message=_cut(cache.message, length))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

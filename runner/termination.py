"""Termination messages: the kubelet keeps at most 4096 bytes, so a report gives up its least telling parts first."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from runner import console
from runner.environment import Environment
from runner_spec.anatomy import TERMINATION_MESSAGE_LIMIT_BYTES
from runner_spec.report import (
    ArtifactReport,
    CacheReport,
    CheckoutReport,
    UploadReport,
    to_json,
)


def write(environment: Environment, report: CheckoutReport | UploadReport) -> None:
    """Write the message; a missing or unwritable file is a warning, for the exit code alone decides."""
    limit = TERMINATION_MESSAGE_LIMIT_BYTES if environment.report_limit is None else environment.report_limit
    try:
        # Never made here: the kubelet mounts it. Outside a pod it would be a file in the machine's own /dev.
        descriptor = os.open(environment.termination_log, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
            file.write(message(report, limit).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        console.warn(f"cannot write the termination message: {error}")


def message(report: CheckoutReport | UploadReport, limit: int = TERMINATION_MESSAGE_LIMIT_BYTES) -> str:
    """JSON of at most `limit` bytes: more would be cut anywhere, and a cut report is none. A limit of 512 always holds.

    ensure_ascii=False in `to_json`: a name that is no valid UTF-8 must not cost the whole message.
    """
    for shorter in _shorter(report):
        text = to_json(shorter).encode("utf-8", "backslashreplace").decode()
        if len(text.encode()) <= limit:
            break
    return text


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
    for count in (15, 7, 3, 1, 0):
        report = replace(report, caches=report.caches[:count])
        if isinstance(report, UploadReport):
            report = replace(report, artifacts=report.artifacts[:count])
        yield report
    for length in (60, 20):
        # A character may take six bytes: a control character, escaped.
        yield replace(report, reason=_cut(report.reason, 40), message=_cut(report.message, length))


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

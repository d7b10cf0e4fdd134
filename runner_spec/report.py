"""What the containers report about themselves, for display: JSON in their termination messages (4 KiB at most).

Standard library only. Verdicts never come from here: a process in `run` can write whatever it likes into its own
message. The shim writes `RunReport`, checkout `CheckoutReport`, upload `UploadReport`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar, cast

from runner_spec.anatomy import TERMINATION_MESSAGE_LIMIT_BYTES

# A report's durations lie between 0 and this, 31 years: sums of them stay finite, and JSON and clocks can hold them.
SECONDS_LIMIT: Final = 1e9


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step: `seconds` of wall time, exit code as the shell sees it (128+N for signal N)."""

    name: str
    exit: int
    seconds: float
    after: bool = False


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the shim did. `reason` is one of `ok`, `step`, `timeout`, `canceled`, `shim` (the shim itself failed)."""

    reason: str
    steps: tuple[StepReport, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One cache. `result`: `hit`, `fallback`, `miss`, `saved`, `unchanged`, `skipped` or `failed`; bytes in `size`."""

    key: str
    result: str
    size: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class CheckoutReport:
    """What checkout did. `reason` is `ok` or a stable word (`ref-not-found`, `auth`, `network`, `service`, …)."""

    reason: str
    message: str = ""
    commit: str = ""
    seconds: float = 0.0
    caches: tuple[CacheReport, ...] = ()


@dataclass(frozen=True, slots=True)
class FileReport:
    """One uploaded file: path relative to the workspace, bytes, hex SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class JUnitReport:
    """Totals over all JUnit files of an artifact; `failed` holds the first failing cases as `classname::name`."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """One artifact. `result`: `uploaded`, `skipped` (its `when` did not apply), `missing`, `failed`.

    `count` and `size` are totals; `files` may be shortened to fit a termination message, never in the manifest.
    """

    name: str
    result: str
    count: int = 0
    size: int = 0
    files: tuple[FileReport, ...] = ()
    junit: JUnitReport | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What upload did. `reason` is `ok` or a stable word (`missing-artifact`, `artifact-quota`, `gateway`, …)."""

    reason: str
    message: str = ""
    seconds: float = 0.0
    artifacts: tuple[ArtifactReport, ...] = ()
    caches: tuple[CacheReport, ...] = ()


Report = RunReport | CheckoutReport | UploadReport
AnyReport = TypeVar("AnyReport", RunReport, CheckoutReport, UploadReport)


def to_json(report: Report) -> str:
    """The whole report as compact JSON."""
    return json.dumps(asdict(report), separators=(",", ":"), ensure_ascii=False)


def parse_report(kind: type[AnyReport], text: str | None) -> AnyReport | None:
    """Read a termination message; None when it is absent, foreign or damaged.

    Whatever the text holds (a job may forge its own), this neither raises nor returns fields of a wrong type, or
    durations that nothing can take.
    """
    try:
        data = json.loads(text or "")
        return cast("AnyReport", _build(kind, data)) if isinstance(data, dict) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _build(kind: type[Report], data: Mapping[str, Any]) -> Report:
    if kind is RunReport:
        return RunReport(_text(data, "reason"), tuple(_step(s) for s in data.get("steps", ())), _text(data, "message"))
    caches = tuple(_cache(c) for c in data.get("caches", ()))
    reason, message, seconds = _text(data, "reason"), _text(data, "message"), _seconds(data)
    if kind is CheckoutReport:
        return CheckoutReport(reason, message, _text(data, "commit"), seconds, caches)
    artifacts = tuple(_artifact(a) for a in data.get("artifacts", ()))
    return UploadReport(reason, message, seconds, artifacts, caches)


def _text(data: Mapping[str, Any], name: str) -> str:
    return str(data.get(name, ""))


def _seconds(data: Mapping[str, Any]) -> float:
    # In this order, which makes 0 of NaN.
    return min(max(0.0, float(data.get("seconds", 0))), SECONDS_LIMIT)


def _step(data: Mapping[str, Any]) -> StepReport:
    return StepReport(_text(data, "name"), int(data["exit"]), _seconds(data), bool(data.get("after", False)))


def _cache(data: Mapping[str, Any]) -> CacheReport:
    size = int(data.get("size", 0))
    return CacheReport(_text(data, "key"), _text(data, "result"), size, _seconds(data), _text(data, "message"))


def _artifact(data: Mapping[str, Any]) -> ArtifactReport:
    files = tuple(
        FileReport(_text(f, "path"), int(f.get("size", 0)), _text(f, "sha256")) for f in data.get("files", ())
    )
    counts = ("tests", "failures", "errors", "skipped")
    junit = None
    if found := data.get("junit"):
        totals = {name: int(found.get(name, 0)) for name in counts}
        junit = JUnitReport(**totals, seconds=_seconds(found), failed=tuple(map(str, found.get("failed", ()))))
    return ArtifactReport(
        name=_text(data, "name"),
        result=_text(data, "result"),
        count=int(data.get("count", 0)),
        size=int(data.get("size", 0)),
        files=files,
        junit=junit,
        message=_text(data, "message"),
    )


def fits(text: str) -> bool:
    """Whether the kubelet would keep this termination message whole."""
    return len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES

"""The outside ledger: what the pods themselves write down, one line of JSON at a start and one at an end.

Append-only. Each process has a writer of its own, and a line is one `write` to a file opened with O_APPEND, so writers
do not disturb each other. A process that is killed in the middle leaves a torn last line: it is counted, not believed.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.chaos.records import Run
from tests.chaos.scripted_log import log_content


@dataclass(frozen=True, slots=True)
class Start:
    """Who starts: one container of a pod. `lines` is how many its log will have (`scripted_log`)."""

    job: str
    attempt: int
    pod: str
    uid: str
    container: str
    lines: int = 0


class LedgerError(Exception):
    """The ledger contradicts itself; the message names file and line."""


class LedgerWriter:
    """Writes one process' lines to `path`; other processes may write to the same file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def started(self, start: Start, at: float | None = None) -> None:
        """A container has started, at `at` (Unix seconds, None for now)."""
        # Not `asdict`, which copies: this runs once for each of tens of thousands of pods.
        facts = {name: getattr(start, name) for name in Start.__slots__}
        self._write({"event": "started", "at": time.time() if at is None else at, **facts})

    def ended(self, uid: str, container: str, exit_code: int, written: int, at: float | None = None) -> None:
        """It has ended by itself or by a signal; `written` bytes of its scripted log came to be."""
        self._ended(uid, container, exit_code, at, {"written": written})

    def ended_with(self, uid: str, container: str, exit_code: int, log: bytes, at: float | None = None) -> None:
        """As `ended`, of a container without a script: `log` is what it wrote."""
        self._ended(uid, container, exit_code, at, {"log": log.decode("latin-1")})  # any bytes, one character each

    def _ended(self, uid: str, container: str, exit_code: int, at: float | None, facts: dict[str, Any]) -> None:
        at = time.time() if at is None else at
        self._write({"event": "ended", "at": at, "uid": uid, "container": container, "exit_code": exit_code, **facts})

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise LedgerError(f"a line of {len(line)} bytes was written in part: is the disk full?")

    def close(self) -> None:
        """Nothing more will be written."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was read: the runs in the order of their starts, and how many lines were torn."""

    runs: tuple[Run, ...]
    torn: int = 0


def read_ledger(path: Path) -> Ledger:
    """Everything that was written down so far; a file that does not exist yet is an empty ledger.

    Raises:
        LedgerError: an end without a start, or a second one.
    """
    starts: dict[tuple[str, str], dict[str, Any]] = {}
    ends: dict[tuple[str, str], dict[str, Any]] = {}
    torn = 0
    for number, entry in enumerate(_entries(path), 1):
        if entry is None:
            torn += 1
            continue
        key = (entry["uid"], entry["container"])
        known = starts if entry["event"] == "started" else ends
        if key in known or (known is ends and key not in starts):
            raise LedgerError(f"{path.name}, line {number}: {entry['event']} of {key} does not fit what is before it")
        known[key] = entry
    return Ledger(tuple(_run(start, ends.get(key)) for key, start in starts.items()), torn)


def _entries(path: Path) -> Iterator[dict[str, Any] | None]:
    """Line by line; None for a torn one."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                yield None


def _run(start: dict[str, Any], end: dict[str, Any] | None) -> Run:
    run = Run(start["job"], start["attempt"], start["pod"], start["uid"], start["container"], start["at"])
    if end is None:
        return run
    if "log" in end:
        log = end["log"].encode("latin-1")
    else:
        log = log_content(run.uid, run.container, start["lines"])[: end["written"]]
    return Run(run.job, run.attempt, run.pod, run.uid, run.container, run.started, end["at"], end["exit_code"], log)

"""Totals of JUnit XML files, read as a stream of events.

The file is the job's and may be anything: document types and entities (expansion bombs) are refused, depth and token
size are bounded, and damage becomes a message beside the totals found so far.
"""

import math
import os
from pathlib import Path
from typing import Final
from xml.parsers import expat

from runner_spec.report import JUnitReport

FAILED_LIMIT: Final = 50
_NAME_LIMIT: Final = 300  # characters
_DEPTH_LIMIT: Final = 200
_TOKEN_LIMIT: Final = 4 * 1024 * 1024  # bytes that expat may hold back: one tag with its attributes
_CHUNK: Final = 64 * 1024
_VERDICTS: Final = frozenset({"failure", "error", "skipped"})


class _RefusedError(Exception):
    pass


class JUnitTotals:
    """Adds up any number of files."""

    def __init__(self) -> None:
        self._counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        self._seconds = 0.0
        self._failed: list[str] = []

    def report(self) -> JUnitReport:
        """The totals so far."""
        return JUnitReport(**self._counts, seconds=round(self._seconds, 3), failed=tuple(self._failed))

    def add(self, file: Path | int) -> str:
        """Add one file (a path or a descriptor, which is closed); what is wrong with it, or the empty text."""
        reader = _Reader(self)
        try:
            with open(file, "rb", buffering=0) as stream:  # noqa: PTH123 - may be a descriptor
                reader.read(stream.fileno())
        except expat.ExpatError as error:
            return f"not well-formed XML: {error}"
        except _RefusedError as error:
            return str(error)
        except (OSError, ValueError, LookupError) as error:  # the last two: an encoding that Python does not know
            return f"cannot be read: {error}"
        return ""

    def count(self, name: str, seconds: float, verdicts: set[str]) -> None:
        """Count one test case."""
        self._counts["tests"] += 1
        self._seconds += seconds
        if "error" in verdicts:
            self._counts["errors"] += 1
        elif "failure" in verdicts:
            self._counts["failures"] += 1
        elif "skipped" in verdicts:
            self._counts["skipped"] += 1
        if verdicts & {"error", "failure"} and len(self._failed) < FAILED_LIMIT:
            self._failed.append(name[:_NAME_LIMIT])


class _Reader:
    def __init__(self, totals: JUnitTotals) -> None:
        self._totals = totals
        self._depth = 0
        self._case: tuple[int, str, float] | None = None  # depth, name, seconds
        self._verdicts: set[str] = set()
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._doctype

    def read(self, descriptor: int) -> None:
        fed = 0
        while chunk := os.read(descriptor, _CHUNK):
            self._parser.Parse(chunk, False)
            fed += len(chunk)
            if fed - max(0, self._parser.CurrentByteIndex) > _TOKEN_LIMIT:
                raise _RefusedError(f"refused: one tag is larger than {_TOKEN_LIMIT} bytes")
        self._parser.Parse(b"", True)

    def _doctype(self, *_: object) -> None:
        raise _RefusedError("refused: it has a document type, which JUnit files do not need")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise _RefusedError(f"refused: nested deeper than {_DEPTH_LIMIT} elements")
        local = tag.rpartition(":")[2]
        if local == "testcase" and self._case is None:
            name = "::".join(filter(None, (attributes.get("classname", ""), attributes.get("name", ""))))
            self._case = (self._depth, name, _seconds(attributes.get("time", "")))
            self._verdicts = set()
        elif self._case and self._depth == self._case[0] + 1 and local in _VERDICTS:
            self._verdicts.add(local)

    def _end(self, _: str) -> None:
        if self._case and self._depth == self._case[0]:
            self._totals.count(self._case[1], self._case[2], self._verdicts)
            self._case = None
        self._depth -= 1


def _seconds(text: str) -> float:
    try:
        value = float(text.replace(",", ""))  # some writers group thousands
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0

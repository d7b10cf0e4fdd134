"""Where lines go: a terminal with one line that is rewritten, or a plain stream. The only module that prints a log."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import TextIO

from worker.cli.paint import Paint

_ERASE_LINE = "\r\x1b[2K"


def wants_colours(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour what goes to `stream`: a terminal, unless NO_COLOR (no-color.org) or TERM=dumb says no."""
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream.isatty()


class Terminal:
    """Prints lines above a progress line; without a terminal there is no progress line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.paint = Paint(wants_colours(self.stream))
        self.rewrites = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._progress = ""

    def print(self, lines: Iterable[str]) -> None:
        """Print whole lines, keeping the progress line below them."""
        text = "".join(f"{line}\n" for line in lines)
        if text:
            self._write((_ERASE_LINE if self._progress else "") + text + self._progress)

    def progress(self, line: str) -> None:
        """Rewrite the progress line; an empty one removes it."""
        if not self.rewrites:
            return
        shown = _shortened(line, shutil.get_terminal_size().columns - 1)
        if shown != self._progress:
            self._write(_ERASE_LINE + shown)
            self._progress = shown

    def _write(self, text: str) -> None:
        # A terminal that cannot show a character (LANG=C) gets a question mark, not a traceback.
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(text.encode(encoding, "replace").decode(encoding))
        self.stream.flush()


def _shortened(line: str, columns: int) -> str:
    """At most `columns` characters: a line that wraps could not be erased. Colour sequences take no column."""
    kept, width, position = [], 0, 0
    while position < len(line):
        if line[position] == "\x1b":
            end = line.find("m", position) + 1
            kept.append(line[position:end])
            position = end
            continue
        if width < columns:
            kept.append(line[position])
            width += 1
        position += 1
    return "".join(kept)

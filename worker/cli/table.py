"""Plain tables: columns as wide as their widest cell. Pure."""

import unicodedata
from collections.abc import Sequence
from typing import Final

_GAP: Final = "  "


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Aligned lines, the header first; nothing when there are no rows. Columns named in `right` hold numbers.

    Raises:
        ValueError: when a row has another number of cells than the header.
    """
    if not rows:
        return []
    lines = [header, *rows]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return [_line(cells, widths, [name in right for name in header]) for cells in lines]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, flush_right in zip(cells, widths, right, strict=True):
        blank = " " * (width - _width(cell))
        padded.append(blank + cell if flush_right else cell + blank)
    return _GAP.join(padded).rstrip()


def _width(text: str) -> int:
    """Columns in a terminal: East Asian wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )

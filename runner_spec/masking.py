"""Hiding secrets in a log: whole values, also those that arrive in pieces."""

import re
from collections.abc import Iterable
from typing import Final

MASK: Final = b"[masked]"
# Shorter values would mask half of the log and tell the reader what they are.
MIN_BYTES: Final = 4
# A longer value is masked piece by piece: what is held back of a line stays small beside `log_cursor.PART_BYTES`.
_PIECE_BYTES: Final = 16 * 1024
# Could a value match a line's timestamp (digits and punctuation only)? Then lines are matched with theirs set aside.
_LIKE_A_TIMESTAMP: Final = re.compile(rb"[0-9TZ:.+-]+")
_STAMP: Final = re.compile(rb"(?P<stamp>^[0-9T:.+-]+Z? )", re.MULTILINE)
_OF_A_STAMP: Final = b"0123456789TZ:.+- "


def maskable(values: Iterable[bytes]) -> list[bytes]:
    """What to look for: each line of each value (a log has no values across lines), longest first."""
    found: set[bytes] = set()
    for value in values:
        for line in value.split(b"\n"):
            stripped = line.strip()
            for at in range(0, len(stripped), _PIECE_BYTES):
                piece = stripped[at : at + _PIECE_BYTES]
                if len(piece) >= MIN_BYTES and b"\n" not in piece:
                    found.add(piece)
    return sorted(found, key=lambda v: (-len(v), v))


class Masker:
    """Replaces every value by `[masked]` in a stream of timestamped lines.

    A value may be split over two chunks when a line is passed on in parts; so, of an unfinished line, the last bytes
    that could be the beginning of a value are held back until the next chunk or `finish`.

    Most logs hold few of the values, if any, and each line of a key is one. To look for each by itself takes a fifth of
    the time of one pattern with all of them (34 values: 3 instead of 18 ms/MB), so a pattern is made of those found.
    """

    def __init__(self, values: Iterable[bytes]) -> None:
        self._values = maskable(values)
        self._longest = max(map(len, self._values), default=0)
        self._held = b""
        self._line_start = True
        self._keeps_stamps = any(map(_LIKE_A_TIMESTAMP.fullmatch, self._values))

    def feed(self, data: bytes) -> bytes:
        """The masked bytes that can be passed on now."""
        if not self._values or not data:
            return data
        data = self._held + data
        cut = self._safe_cut(data)
        self._held = data[cut:]
        return self._mask(data[:cut])

    @property
    def held(self) -> int:
        """How many bytes are held back: a cursor stored now must stand this much earlier (`LogCursor.behind`)."""
        return len(self._held)

    def finish(self) -> bytes:
        """What was held back, when the stream has ended."""
        rest, self._held = self._held, b""
        return self._mask(rest)

    def _mask(self, data: bytes) -> bytes:
        if not data:
            return data
        starts_line, self._line_start = self._line_start, data.endswith(b"\n")
        pattern = self._pattern_for(data)
        if pattern is None:
            return data
        if starts_line:
            return pattern.sub(_replacement, data)
        # `^` must not match at the beginning of a piece that continues a line: put a byte in front that is no newline.
        return pattern.sub(_replacement, b"\0" + data)[1:]

    def _pattern_for(self, data: bytes) -> re.Pattern[bytes] | None:
        """Matches every value that occurs in the data, and timestamps where such a match could begin in one."""
        found = [value for value in self._values if value in data]
        if not found:
            return None
        words = list(map(re.escape, found))
        if self._keeps_stamps and any(value[0] in _OF_A_STAMP for value in found):
            words.insert(0, _STAMP.pattern)
        return re.compile(b"|".join(words), re.MULTILINE)  # `re` remembers the last 512 patterns

    def _safe_cut(self, data: bytes) -> int:
        """Up to where no value can begin that is not complete yet, and no complete one is cut in two."""
        if data.endswith(b"\n"):  # no value contains a newline: see `maskable`
            return len(data)
        line = data.rfind(b"\n") + 1
        cut = len(data)
        for length in range(min(self._longest - 1, len(data) - line), 0, -1):
            tail = data[-length:]
            if any(len(v) > length and v.startswith(tail) for v in self._values):
                cut -= length
                break
        if self._keeps_stamps and (stamp := _STAMP.match(data, line)) and cut < stamp.end():
            return line
        pattern = self._pattern_for(data[line:])
        for match in pattern.finditer(data, line) if pattern else ():
            if match.start() < cut < match.end():
                return match.start()
        return cut


def _replacement(match: re.Match[bytes]) -> bytes:
    if match.re.groups and match.group("stamp") is not None:
        return match.group("stamp")
    return MASK

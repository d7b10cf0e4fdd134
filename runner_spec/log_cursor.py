r"""Where a container's log was left, and how to go on from there without a hole or a repetition.

Kubernetes sends a log as lines `<timestamp> <content>\n`, one timestamp per line however long, and resumes by
`sinceTime` in whole seconds. So a resumed stream repeats up to a second of lines, several lines can bear the same
timestamp, and a line may have been cut in the middle. `LogCursor` names a place exactly; `LogResumer` drops what was
already seen and says when the place itself is gone (the log was rotated meanwhile): that is a gap, to be declared.
"""

from dataclasses import dataclass
from typing import Final

# A line longer than this is passed on, or skipped, in parts: a job without newlines cannot fill the worker's memory.
PART_BYTES: Final = 256 * 1024
_FRACTION_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class LogCursor:
    """A place in a log.

    `time` is the timestamp of the last line passed on, as text; `repeats` counts the complete lines with exactly this
    timestamp that were passed on; `partial` is the number of content bytes passed on of a further line with this
    timestamp that is not complete yet (-1: there is none).
    """

    time: str = ""
    repeats: int = 0
    partial: int = -1

    def as_list(self) -> list[str | int]:
        """JSON-pure form."""
        return [self.time, self.repeats, self.partial]

    @classmethod
    def from_list(cls, data: list[str | int]) -> "LogCursor":
        """Read what `as_list` wrote."""
        time, repeats, partial = data
        return cls(str(time), int(repeats), int(partial))

    def behind(self, held: int) -> "LogCursor":
        """The place `held` content bytes earlier in the line that is not complete (see `Masker.held`)."""
        return LogCursor(self.time, self.repeats, self.partial - held) if held else self

    @property
    def since_time(self) -> str | None:
        """The `sinceTime` to resume with; None at the beginning."""
        return self.time or None


def time_key(timestamp: str) -> str:
    """RFC 3339 with any number of fraction digits, as text that sorts by time (UTC only, as the kubelet writes)."""
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<{_FRACTION_DIGITS}}"


class LogResumer:
    """Turns the chunks of one (resumed) stream into the bytes not seen before.

    `cursor` is the place after everything returned so far. `gap` turns true when the stream went on behind the place
    it was resumed from without containing it: what is returned then begins with a line of its own, even if the place
    is within a line. `missing` is true until the place was seen or passed. `remark` is what the kubelet itself had to
    say at the stream's end, where a line of the log would begin with a time: `unable to retrieve container logs for
    containerd://…`, say.
    """

    def __init__(self, cursor: LogCursor | None = None) -> None:
        self.cursor = cursor or LogCursor()
        self.gap = False
        self.remark = ""
        self._buffer = bytearray()
        self._in_line = False  # the part of the current line in the buffer has no timestamp in front of it any more
        # What is still to be recognised of the place resumed from; None once the stream is past it.
        self._seeking: LogCursor | None = self.cursor if self.cursor.time else None
        self._seen = 0
        self._skip = 0  # bytes of the current line that were seen before and are still to come; -1: all of it

    def feed(self, chunk: bytes) -> bytes:
        """New bytes of the log, from raw bytes of the stream: complete lines, and parts of overlong ones."""
        self._buffer += self._unseen(chunk) if self._skip else chunk
        end = self._buffer.rfind(b"\n") + 1
        fresh = b""
        if end:
            lines = bytes(self._buffer[:end])
            del self._buffer[:end]
            fresh = self._take_lines(lines)
        if len(self._buffer) > PART_BYTES:
            fresh += self._take_part() if self._seeking is None else self._seek_in_part(self._seeking)
        return fresh

    def finish(self) -> bytes:
        """The rest, when the stream has ended: a last line without newline."""
        if not self._buffer:
            return b""
        if not self._in_line and not self._buffer[:1].isdigit():
            self.remark = self._buffer.decode(errors="replace").strip() or "?"
            self._buffer.clear()
            return b""
        if self._seeking is not None:
            return self._take_unfinished(self._seeking)
        return self._take_part()

    @property
    def missing(self) -> bool:
        """Whether the place resumed from has not been seen; when the stream is over, it is not in there."""
        place = self._seeking
        return place is not None and (self._seen < place.repeats or place.partial >= 0)

    def _seek_in_part(self, place: LogCursor) -> bytes:
        """The beginning of an overlong line, in a stream that is not past its place yet: seen before, cut, or new."""
        stamp, _, content = bytes(self._buffer).partition(b" ")
        order = _compare(stamp.decode(errors="replace"), place.time)
        if order < 0 or (order == 0 and self._seen < place.repeats):
            self._seen += order == 0
            self._skip = -1
            self._buffer.clear()
            return b""
        self._seeking = None
        if order > 0 or place.partial < 0:
            self.gap = order > 0 and (self._seen < place.repeats or place.partial >= 0)
            return self._take_part()
        self._buffer.clear()
        self._in_line = True
        self._skip = max(place.partial - len(content), 0)
        self.cursor = LogCursor(place.time, place.repeats, max(place.partial, len(content)))
        return content[place.partial :]

    def _unseen(self, chunk: bytes) -> bytes:
        """The chunk without what is to be skipped of the current line."""
        end = chunk.find(b"\n")
        if self._skip < 0:
            self._skip = 0 if end >= 0 else -1
            return chunk[end + 1 :] if end >= 0 else b""
        left_out = min(self._skip, len(chunk) if end < 0 else end)
        self._skip = 0 if end >= 0 else self._skip - left_out
        return chunk[left_out:]

    def _take_unfinished(self, place: LogCursor) -> bytes:
        """The last line of the stream, without newline: it may be the very one that was cut."""
        line = bytes(self._buffer) + b"\n"
        self._buffer.clear()
        kept, new = self._skip_seen(line)
        if kept or self.cursor != place:  # the cut line, further than it was seen, and still not at its end
            seen = len(line.partition(b" ")[2]) - 1
            self.cursor = LogCursor(place.time, place.repeats, max(seen, place.partial))
            return kept.removesuffix(b"\n")
        self._buffer += new.removesuffix(b"\n")
        return self._take_part() if self._buffer else b""

    def _take_lines(self, lines: bytes) -> bytes:
        fresh = b""
        if self._in_line:  # the first line completes the one whose beginning was passed on before
            head, _, lines = lines.partition(b"\n")
            fresh, self._in_line = head + b"\n", False
            self.cursor = LogCursor(self.cursor.time, self.cursor.repeats + 1)
        if self._seeking is not None and lines:
            kept, lines = self._skip_seen(lines)
            fresh += kept
        if lines:
            self._advance(lines)
        return fresh + lines

    def _skip_seen(self, lines: bytes) -> tuple[bytes, bytes]:
        """The unseen end of a cut line (its timestamp was passed on before), and the lines after it."""
        place = self._seeking
        assert place is not None
        at = 0
        while at < len(lines):
            newline = lines.index(b"\n", at) + 1
            stamp, _, content = lines[at:newline].partition(b" ")
            order = _compare(stamp.decode(errors="replace"), place.time)
            if order > 0:
                self.gap = self._seen < place.repeats or place.partial >= 0
                self._seeking = None
                return b"", lines[at:]
            if order == 0:
                if self._seen == place.repeats:  # all complete ones seen before: this one is the cut one, or new
                    self._seeking = None
                    if place.partial < 0:
                        return b"", lines[at:]
                    self.cursor = LogCursor(place.time, place.repeats + 1)
                    return content[place.partial :], lines[newline:]
                self._seen += 1
            at = newline
        return b"", b""

    def _advance(self, lines: bytes) -> None:
        """Move the cursor behind these complete lines: count the last ones that share a timestamp."""
        end, time, repeats = len(lines), b"", 0
        while end > 0:
            start = lines.rfind(b"\n", 0, end - 1) + 1
            stamp = lines[start:end].split(b" ", 1)[0].rstrip(b"\n")
            if repeats and stamp != time:
                break
            time, repeats, end = stamp, repeats + 1, start
        text = time.decode(errors="replace")
        if end == 0 and text == self.cursor.time:  # all of them: the run may have begun before
            repeats += self.cursor.repeats
        self.cursor = LogCursor(text, repeats)

    def _take_part(self) -> bytes:
        part = bytes(self._buffer)
        self._buffer.clear()
        if self._in_line:
            self.cursor = LogCursor(self.cursor.time, self.cursor.repeats, self.cursor.partial + len(part))
            return part
        stamp, _, content = part.partition(b" ")
        time = stamp.decode(errors="replace")
        repeats = self.cursor.repeats if time == self.cursor.time else 0
        self.cursor, self._in_line = LogCursor(time, repeats, len(content)), True
        return part


def _compare(one: str, other: str) -> int:
    left, right = time_key(one), time_key(other)
    return (left > right) - (left < right)

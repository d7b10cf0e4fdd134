"""What a scripted container writes: the same bytes whenever they are asked for, unlike those of any other container."""

from collections.abc import Iterator
from typing import Final
from zlib import crc32

LONG_LINE_BYTES: Final = 10_000
# Beyond the 16 KiB at which a container runtime cuts a line into records.
CUT_LINE_BYTES: Final = 40_000


def log_lines(uid: str, container: str, count: int) -> Iterator[bytes]:
    """`count` lines with their newlines; the very last one may have none, as that of a program that was interrupted.

    Each names pod, container and number, so that no piece of a log can be taken for another. Of a hundred about four
    are empty, two have 10 KB and one has 40 KB.
    """
    seed = crc32(f"{uid}/{container}".encode())
    for number in range(count):
        kind = crc32(number.to_bytes(4, "big"), seed) % 100
        line = b"" if kind < 4 else f"{uid} {container} line {number}".encode()
        if kind in {4, 5}:
            line = line.ljust(LONG_LINE_BYTES, b".")
        elif kind == 6:
            line = line.ljust(CUT_LINE_BYTES, b"#")
        unfinished = number == count - 1 and seed % 3 == 0 and line
        yield line if unfinished else line + b"\n"


def log_content(uid: str, container: str, count: int) -> bytes:
    """All of it."""
    return b"".join(log_lines(uid, container, count))

"""The rule for one log: what is stored is what was written, or what is missing is declared, at its place."""

from collections.abc import Sequence
from itertools import pairwise, permutations

from tests.chaos.records import StoredLog


def silent_loss(stored: StoredLog | None, written: bytes, *, at_least: int | None = None) -> str:
    """What is wrong with a stored log, in a sentence; empty when nothing is.

    Between two gaps the stored bytes must be a contiguous part of what was written, and the parts must follow each
    other; the first one begins at the beginning and the last one ends at the end, unless a gap stands there.

    Of a container that was killed it is known only that it wrote `at_least` so many of these bytes: its log may end
    anywhere after them.
    """
    sure = len(written) if at_least is None else at_least
    if stored is None:
        return f"nothing is stored of {sure} bytes" if sure else ""
    offsets = [offset for offset, _ in stored.gaps]
    ends_in_gap = len(stored.content) in offsets
    if not stored.complete and not ends_in_gap:
        return (
            f"not complete after the end: {len(stored.content)} of {len(written)} bytes, and nothing declared missing"
        )
    parts = _parts(stored.content, offsets)
    at = 0
    for number, part in enumerate(parts):
        first, last = number == 0 and 0 not in offsets, number == len(parts) - 1 and not ends_in_gap
        if last and at_least is not None:
            written = _ended_with(written, part, max(at, at_least - len(part)))
        found = _place(written, part, at, first=first, last=last)
        if found < 0:
            where = sum(map(len, parts[:number]))
            return f"bytes {where} to {where + len(part)} as stored are not what was written {_after(at, written)}"
        at = found + len(part)
    return ""


def silent_loss_of_several(stored: StoredLog | None, runs: Sequence[tuple[bytes, int | None]]) -> str:
    """The same where several pods ran as one attempt, because Redis forgot it; `runs` is what each wrote (see above).

    The log is that of one of them. Or it is one's beginning, and another's all behind a declared border: a worker that
    did not know yet went on with the first.
    """
    troubles = [silent_loss(stored, written, at_least=at_least) for written, at_least in runs]
    if not all(troubles):
        return ""
    if stored is None:
        return troubles[0]
    for border, _ in stored.gaps:
        head = StoredLog(stored.content[:border], tuple(g for g in stored.gaps if g[0] <= border), complete=False)
        gaps = tuple((offset - border, why) for offset, why in stored.gaps if offset > border)
        tail = StoredLog(stored.content[border:], gaps, complete=stored.complete)
        for first, last in permutations(runs, 2):
            if not silent_loss(head, first[0], at_least=first[1]) and not silent_loss(tail, last[0], at_least=last[1]):
                return ""
    return troubles[0]


def _ended_with(written: bytes, part: bytes, earliest: int) -> bytes:
    """What was written if it ended with this part, which begins there or later; all of it if it cannot have."""
    begin = written.find(part, max(earliest, 0))
    return written if begin < 0 else written[: begin + len(part)]


def _parts(content: bytes, offsets: list[int]) -> list[bytes]:
    borders = [0, *sorted(offsets), len(content)]
    return [content[begin:end] for begin, end in pairwise(borders)]


def _place(written: bytes, part: bytes, at: int, *, first: bool, last: bool) -> int:
    """Where a part lies, not before `at`; -1 when it does not. The leftmost place leaves most room for the others."""
    if first and last:
        return 0 if written == part else -1
    if first:
        return 0 if written.startswith(part) else -1
    if last:
        begin = len(written) - len(part)
        return begin if begin >= at and written.endswith(part) else -1
    return written.find(part, at)


def _after(at: int, written: bytes) -> str:
    return f"at or after byte {at} of {len(written)}"

"""The table of sabotages as a document."""

from itertools import chain

from tests.mutations.table import SABOTAGES

_HEAD = """\
# Sabotage

A suite that passes proves little if it would pass anyway. Here are {count} single, small edits of the product, such
as a tired engineer could make, each of which breaks a promise; and the tests that fail once it is made. `make
mutations` makes each of them in a copy of the project and runs its tests: exit code 1 if one survives. A test that
cannot be imported, or only runs out of time, catches nothing. The edits themselves: `tests/mutations/of_the_queue.py`
and `of_the_pod.py`.

This page is written by `python -m tests.mutations --document`, and a test compares it.

"""


def document() -> str:
    """Markdown."""
    rows = [("sabotage", "of", "then", "caught by")]
    rows += [
        (f"`{s.name}`", f"`{s.file}`", s.breaks, ", ".join(f"`{node.removeprefix('tests/')}`" for node in s.caught_by))
        for s in SABOTAGES
    ]
    lines = [_line(row) for row in rows]
    return _HEAD.format(count=len(SABOTAGES)) + "".join(chain(lines[:1], ["|---|---|---|---|\n"], lines[1:]))


def _line(row: tuple[str, ...]) -> str:
    return f"| {' | '.join(row)} |\n"

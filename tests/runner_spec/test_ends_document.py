"""docs/ends.md tells people about every end that the tests know."""

from pathlib import Path

import pytest

from runner_spec.outcome import Fault
from tests.cluster.ends import ROWS
from tests.runner_spec.test_recorded import TABLE, Ends, Waits

DOCUMENT = Path(__file__).parents[2] / "docs" / "ends.md"
SECTIONS = {Fault.JOB: "## The job's own", Fault.PLATFORM: "## The platform's"}


def _told(fault: Fault) -> str:
    """What the document says about the ends that are this one's fault."""
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(f"\n{SECTIONS[fault]}\n")
    return rest.partition("\n## ")[0]


def _known() -> set[tuple[Fault, str]]:
    recorded = [end for row in TABLE.values() for end in row]
    found = {(end.fault, end.reason) for end in recorded if isinstance(end, Ends)}
    found |= {(wait.fault, wait.final or wait.reason) for wait in recorded if isinstance(wait, Waits)}
    return found | {(Fault(row.fault), row.reason) for row in ROWS if row.verdict in {"failed", "rejected"}}


# Quota is no end: it is told under "No end".
@pytest.mark.parametrize(
    ("fault", "reason"), sorted(pair for pair in _known() if pair[0] in SECTIONS and pair[1] != "quota")
)
def test_every_end_is_in_the_document_under_whose_fault_it_is(fault: Fault, reason: str) -> None:
    assert f"`{reason}`" in _told(fault)

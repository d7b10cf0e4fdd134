"""The outside ledger: append-only, many writers, a torn line counted."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.ledger import LedgerError, LedgerWriter, Start, read_ledger
from tests.chaos.scripted_log import log_content, log_lines

ROOT = Path(__file__).parents[2]


def start(uid: str, lines: int = 0) -> Start:
    return Start("job", 1, "pod", uid, "run", lines)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path / "ledger") as ledger:
        ledger.started(start("u", 12), at=10.0)
        ledger.ended("u", "run", 3, written=20, at=11.5)
    (run,) = read_ledger(tmp_path / "ledger").runs
    assert (run.job, run.attempt, run.pod, run.uid, run.container) == ("job", 1, "pod", "u", "run")
    assert (run.started, run.ended, run.exit_code) == (10.0, 11.5, 3)
    assert run.log == log_content("u", "run", 12)[:20]


def test_a_run_without_an_end_has_none(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path / "ledger") as ledger:
        ledger.started(start("u"))
    (run,) = read_ledger(tmp_path / "ledger").runs
    assert (run.ended, run.exit_code, run.log) == (None, None, None)


def test_a_torn_line_is_counted_and_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with LedgerWriter(path) as ledger:
        ledger.started(start("u"))
        ledger.ended("u", "run", 0, written=0)
    path.write_bytes(path.read_bytes()[:-1])  # even if all but its newline is there
    ledger_read = read_ledger(path)
    assert ledger_read.torn == 1
    assert [run.ended for run in ledger_read.runs] == [None]


def test_no_ledger_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "ledger").runs == ()


@pytest.mark.parametrize("twice", [True, False], ids=["a second end", "an end without a start"])
def test_a_ledger_that_contradicts_itself_is_refused(tmp_path: Path, *, twice: bool) -> None:
    with LedgerWriter(tmp_path / "ledger") as ledger:
        if twice:
            ledger.started(start("u"))
            ledger.ended("u", "run", 0, written=0)
        ledger.ended("u", "run", 0, written=0)
    with pytest.raises(LedgerError, match=r"ledger, line \d"):
        read_ledger(tmp_path / "ledger")


def test_writers_in_several_processes_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    code = (
        "import sys; from pathlib import Path; from tests.chaos.ledger import LedgerWriter, Start\n"
        "with LedgerWriter(Path(sys.argv[1])) as ledger:\n"
        "    for n in range(300):\n"
        "        ledger.started(Start('j' * 200, 1, 'p', f'{sys.argv[2]}-{n}', 'run'))\n"
    )
    words = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen([*words, str(number)], cwd=ROOT) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    ledger = read_ledger(path)
    assert (len(ledger.runs), ledger.torn) == (900, 0)


def test_a_scripted_log_is_its_containers_own_with_lines_of_all_kinds() -> None:
    lines = list(log_lines("uid-1", "run", 2000))
    assert b"".join(lines) == log_content("uid-1", "run", 2000) != log_content("uid-2", "run", 2000)
    assert {b"\n"} <= set(lines)
    assert {10_001, 40_001} <= set(map(len, lines))
    assert lines[0].removesuffix(b"\n") in (b"", b"uid-1 run line 0") or len(lines[0]) > 10_000
    ends = {log_content(f"uid-{n}", "run", 5)[-1:] == b"\n" for n in range(20)}
    assert ends == {True, False}

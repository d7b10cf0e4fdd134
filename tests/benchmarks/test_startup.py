import sys
from pathlib import Path

import pytest

from benchmarks.figure import at_most
from benchmarks.startup import Command, Start, commands, figures, installed, until_ended
from benchmarks.suite import BenchmarkError


def test_a_command_is_timed_and_its_own_memory_counted() -> None:
    plain = until_ended([sys.executable, "-S", "-c", "pass"], {})
    large = until_ended([sys.executable, "-S", "-c", "import time; b'x' * 40_000_000; time.sleep(0.05)"], {})
    assert 0 < plain.seconds < large.seconds
    assert plain.memory < 30_000_000 < large.memory - plain.memory + 1_000_000


def test_a_command_gets_its_variables() -> None:
    until_ended([sys.executable, "-S", "-c", "import os; os.environ['GIVEN']"], {"GIVEN": "1"})


def test_a_command_that_fails_is_no_figure_and_says_why() -> None:
    with pytest.raises(BenchmarkError, match=r"exit status 3.*because"):
        until_ended([sys.executable, "-S", "-c", "import sys; print('because', file=sys.stderr); sys.exit(3)"], {})


def test_help_is_measured_as_users_call_it() -> None:
    assert until_ended([*installed(), "--help"], {}).memory > 0


def test_the_promised_figures_have_their_targets(tmp_path: Path) -> None:
    table = commands(tmp_path, tmp_path / "kubeconfig", "redis://127.0.0.1:1/0")
    promised = {
        (figure.name, figure.unit, figure.target.bound)
        for command in table
        for figure in figures(command, [Start(1.0, 1.0)])
        if figure.target is not None
    }
    assert promised == {
        ("dynapod --help", "ms", 150),
        ("dynapod worker, ready", "ms", 1500),
        ("dynapod worker, ready", "MB", 80),
    }


def test_times_are_given_in_milliseconds_and_memory_in_megabytes() -> None:
    command = Command("it", lambda: Start(0.0, 0.0), at_most(150), at_most(80))
    time, memory = figures(command, [Start(0.2, 90_000_000), Start(0.1, 70_000_000), Start(0.1, 70_000_000)])
    assert (time.unit, time.value, time.missed) == ("ms", 100.0, False)
    assert (memory.unit, memory.value, memory.missed) == ("MB", 70.0, False)

import json

import pytest

from benchmarks import start
from benchmarks.start_table import Comparison, Times, table


def times(read: float) -> Times:
    return Times(created=1.0, running=read - 2, written=read - 3, read=read)


COMPARISON = Comparison(
    "copied shim",
    ("checkout", "run"),
    dynapod=(times(300), times(100), times(2000)),
    kubectl=(times(200), times(250), times(150)),
)


def test_the_ratio_is_that_of_the_medians_so_that_one_slow_run_does_not_decide_it() -> None:
    assert COMPARISON.ratio == 1.5


def test_the_table_shows_the_spread_of_both_ways_and_the_ratio() -> None:
    rows = [line.split() for line in table([COMPARISON]).splitlines()]
    assert rows[2][-7:] == ["100", "300", "2000", "1", "298", "297", "300"]
    assert rows[3][-7:] == ["150", "200", "250", "1", "198", "197", "200"]
    assert rows[4] == ["pod", "of", "checkout", "and", "run:", "ratio", "of", "medians", "1.500"]


def test_machines_get_every_single_time() -> None:
    report = start.Report(3, {"node": "one"}, [COMPARISON])
    data = json.loads(json.dumps(report.as_dict()))
    assert data["comparisons"][0]["ratio_of_medians"] == 1.5
    assert [run["read"] for run in data["comparisons"][0]["runs"]["dynapod"]] == [300, 100, 2000]


def test_without_a_cluster_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert start.main([]) == 2
    assert "KUBECONFIG is not set" in capsys.readouterr().err


def test_no_runs_are_no_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        start.main(["--runs", "0"])
    assert "--runs 0: give at least 1" in capsys.readouterr().err

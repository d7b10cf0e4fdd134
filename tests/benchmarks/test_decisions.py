from pathlib import Path

from benchmarks.decisions import decisions, measure, microseconds
from benchmarks.suite import Options
from runner_spec.outcome import Outcome, Running, Waiting


def test_every_decision_is_measured_once_a_round(tmp_path: Path) -> None:
    found = list(measure(Options(2, 0.0001, tmp_path, lambda _: None)))
    assert [figure.name for figure in found] == list(decisions())
    assert all(len(figure.values) == 2 and figure.value > 0 and figure.unit == "µs" for figure in found)


def test_what_is_measured_is_what_its_name_says() -> None:
    table = decisions()
    states = ("waits for its images", "runs", "is over")
    kinds = [type(table[f"whole job: classify, {state}"]()) for state in states]
    assert kinds == [Waiting, Running, Outcome]
    assert table["least job: check the pod"]() == table["whole job: check the pod"]() == []


def test_the_time_is_per_call_and_the_first_one_does_not_count() -> None:
    calls: list[int] = []
    assert microseconds(lambda: calls.append(sum(range(1000))), 10) > 0
    assert len(calls) == 11

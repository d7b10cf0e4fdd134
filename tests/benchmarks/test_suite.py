import json

import pytest

from benchmarks.__main__ import main
from benchmarks.costs import pod_requests
from benchmarks.suite import BENCHES, BenchmarkError, chosen


def test_benchmarks_are_chosen_by_their_letters() -> None:
    assert chosen("") == list(BENCHES)
    assert [bench.letter for bench in chosen("k, f")] == ["f", "k"]
    assert [bench.letter for bench in chosen("d,e")] == ["a"]  # measured in the runs of (a)
    with pytest.raises(BenchmarkError, match="--only x: no such benchmark; there are a, f, g"):
        chosen("x")


def test_a_quick_look_prints_figures_and_judges_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "k", "--scale", "0.001", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"dynapod", "machine", "redis", "load", "load after"} == found["facts"].keys()
    assert {figure["bench"] for figure in found["figures"]} == {"k"}
    assert not any("target" in figure for figure in found["figures"])


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--only", "z"], "no such benchmark"),
        (["--rounds", "0"], "--rounds of at least 1"),
        (["--scale", "2"], "up to 1"),
        (["--strict", "--scale", "0.5"], "targets are for the full sizes"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_remedy(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert remedy in capsys.readouterr().err


def test_without_a_cluster_the_benchmark_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert main(["--only", "g", "--scale", "0.01"]) == 2
    assert "KUBECONFIG is not set" in capsys.readouterr().err


def test_requests_for_pods_are_counted_by_verb_without_what_was_not_found() -> None:
    metrics = """# TYPE apiserver_request_total counter
apiserver_request_total{code="201",group="",resource="pods",subresource="",verb="POST",version="v1"} 7
apiserver_request_total{code="504",group="",resource="pods",subresource="",verb="POST",version="v1"} 1
apiserver_request_total{code="201",group="",resource="pods",subresource="binding",verb="POST",version="v1"} 6
apiserver_request_total{code="200",group="",resource="pods",subresource="",verb="DELETE",version="v1"} 5
apiserver_request_total{code="404",group="",resource="pods",subresource="",verb="DELETE",version="v1"} 4
apiserver_request_total{code="200",group="metrics.k8s.io",resource="pods",subresource="",verb="LIST",version="v1"} 9
apiserver_request_total{code="200",group="",resource="nodes",subresource="",verb="GET",version="v1"} 1e+06
"""
    assert pod_requests(metrics) == {"POST": 8, "POST binding": 6, "DELETE": 5}

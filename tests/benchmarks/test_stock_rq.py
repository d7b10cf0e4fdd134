import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from benchmarks.stock_rq import DYNAPOD, STOCK, Contestant, Run, figures
from benchmarks.stock_workers import SIMPLE, StockCrew
from benchmarks.suite import BenchmarkError
from benchmarks.usage import Usage

RUNS = {
    contestant.name: [Run(10.0 / contestant.workers, 100.0, 64e6 * contestant.workers, 32e6 * contestant.workers)]
    for contestant in (DYNAPOD, *STOCK)
}


def test_every_contestant_has_its_rate_cpu_and_memory_beside_the_others() -> None:
    found = {figure.name: figure for figure in figures(RUNS)}
    assert len(found) == 4 * len(RUNS) + 3 * 2
    assert found["rq worker x 8: jobs"].value == 1.25
    assert found["rq worker x 8: memory"].value == 512.0
    assert found["rq worker x 8: … its own alone"].value == 256.0


def test_dynapod_is_compared_with_32_processes_of_both_kinds() -> None:
    found = {figure.name: figure for figure in figures(RUNS) if figure.target is not None}
    assert {figure.name.partition(":")[0] for figure in found.values()} == {
        "dynapod beside rq worker x 32",
        "dynapod beside SimpleWorker x 32",
    }
    assert found["dynapod beside rq worker x 32: jobs"].value == 32.0
    assert found["dynapod beside rq worker x 32: memory"].value == 1 / 32
    assert not any(figure.missed for figure in found.values())


def test_only_workers_that_keep_something_are_warmed_up() -> None:
    assert [contestant.warm_up for contestant in STOCK] == [0, 0, 0, 32]
    assert Contestant("dynapod", 1, 1).warm_up == 32


@pytest.mark.redis
def test_a_stock_worker_is_ready_before_the_block_and_gone_after_it(redis_url: str, tmp_path: Path) -> None:
    crew = StockCrew("kubeconfig", redis_url, tmp_path / "crew", queue="stock")
    with Redis.from_url(redis_url) as redis:
        with crew.workers(1, SIMPLE) as pids:
            assert redis.scard("rq:workers:stock") == len(pids) == 1
            assert Usage.of(pids, children=True).resident > 0
        assert redis.scard("rq:workers:stock") == 0


@pytest.mark.redis
def test_a_stock_worker_that_does_not_start_tells_why(redis_url: str, tmp_path: Path) -> None:
    crew = StockCrew("kubeconfig", redis_url, tmp_path / "crew")
    with pytest.raises(BenchmarkError, match="NoSuchWorker"), crew.workers(1, "rq.worker.NoSuchWorker"):
        pass


def test_the_usage_of_a_process_holds_its_children_while_they_run_and_when_they_have_ended() -> None:
    spin = "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
    rest = "print(flush=True)\nsys.stdin.readline()"
    child = f"import sys\n{spin}\n{rest}"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n{rest}"
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # the child has spun, and waits
        alone, together = Usage.of([process.pid]), Usage.of([process.pid], children=True)
        assert together.cpu > alone.cpu + 0.05
        assert together.unique > alone.unique
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()  # it has ended, and the parent waits
        assert Usage.of([process.pid]).cpu >= 0.1
        process.stdin.close()

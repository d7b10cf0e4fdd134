import asyncio
from pathlib import Path

import pytest

from benchmarks.gateway_process import gateway
from benchmarks.gateway_rate import TOKENS, Connection, measure
from benchmarks.suite import BenchmarkError, Options


@pytest.mark.redis
def test_it_measures_both_kinds_of_requests_for_one_pod_and_for_many(tmp_path: Path) -> None:
    found = list(measure(Options(1, 0.001, tmp_path, lambda _: None)))
    assert [figure.unit for figure in found] == 2 * ["req/s", "ms", "ms", "ms/req", "MB/s", "ms/MB"]
    assert all(figure.value > 0 for figure in found if "CPU" not in figure.name)
    stored = list((tmp_path / "store").rglob("artifacts/report/**/*.txt"))
    assert len(stored) == 2 * 16
    assert {path.stat().st_size for path in stored} == {1024}


@pytest.mark.redis
def test_a_request_that_is_refused_is_no_figure(tmp_path: Path) -> None:
    async def ask() -> None:
        connection = await Connection.open(it, "a token of nobody")
        try:
            await connection.request("GET", "/runner/v1/caches?key=none")
        finally:
            await connection.close()

    with gateway(tmp_path, TOKENS[:1]) as it, pytest.raises(BenchmarkError, match=r"answers HTTP/1\.1 401"):
        asyncio.run(ask())

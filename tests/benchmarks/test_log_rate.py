import asyncio
import re
from pathlib import Path

import pytest

from adapters.object_store import ObjectStore
from adapters.redis_server import connect
from benchmarks.log_rate import (
    FULL_BYTES,
    Case,
    Reading,
    Taken,
    expected_size,
    figures,
    measure,
    printed,
    secret_values,
    serving,
)
from benchmarks.log_source import CHUNK_BYTES, LINE_BYTES, content, framed
from benchmarks.suite import Options
from runner_spec import anatomy
from runner_spec.masking import MASK, Masker
from worker.log_store import LogReader

SECRETS = secret_values()


def unframed(body: bytes) -> bytes:
    """The content of a chunked body, read as HTTP says."""
    parts, at = [], 0
    while size := int(body[at : body.index(b"\r\n", at)], 16):
        at = body.index(b"\r\n", at) + 2
        parts.append(body[at : at + size])
        at += size + 2
    assert body[at:] == b"0\r\n\r\n"
    return b"".join(parts)


def test_a_log_consists_of_lines_of_one_length_in_the_order_of_their_times() -> None:
    lines = content(10 * LINE_BYTES + 1, [b"secret"]).splitlines(keepends=True)
    assert [len(line) for line in lines] == [LINE_BYTES] * 11
    stamps = [line.split(b" ")[0] for line in lines]
    assert sorted(set(stamps)) == stamps
    assert all(re.fullmatch(rb"2026-01-01T00:00:00\.[0-9]{9}Z", stamp) for stamp in stamps)


def test_a_body_holds_the_log_in_chunks() -> None:
    log = content(3 * CHUNK_BYTES, [b"secret"])
    assert unframed(framed(log)) == log


def test_the_logs_hold_every_secret_and_a_masker_finds_them_all() -> None:
    log = content(4000 * LINE_BYTES, printed(SECRETS))
    assert all(value in log for value in printed(SECRETS))
    masked = Masker(SECRETS).feed(log)
    assert masked.count(MASK) == 4
    assert len(masked) == expected_size(log, SECRETS) != len(log)


def test_rates_are_of_megabytes_and_only_masked_logs_have_a_target() -> None:
    found = list(figures(Case("c", 1, masked=True), [Taken(50_000_000, 2.0, 1.0)]))
    assert [(figure.unit, figure.value) for figure in found] == [
        ("MB", 50.0),
        ("ms/MB", 20.0),
        ("MB/s", 25.0),
        ("lines/s", 250_000.0),
    ]
    assert [figure.target is not None for figure in found] == [True, False, False, False]
    assert all(figure.target is None for figure in figures(Case("c", 1, masked=False), [Taken(1, 1.0, 1.0)]))


@pytest.mark.redis
def test_it_measures_every_case_and_what_is_stored_is_the_masked_log(tmp_path: Path) -> None:
    lines: list[str] = []
    figures_found = list(measure(Options(1, 160 * LINE_BYTES / FULL_BYTES, tmp_path, lines.append)))
    assert len(figures_found) == 20
    assert all(figure.value > 0 for figure in figures_found)


@pytest.mark.redis
def test_a_log_is_masked_on_its_way(tmp_path: Path, redis_url: str) -> None:
    size = 1500 * LINE_BYTES

    async def stored() -> bytes:
        connections = connect(redis_url)
        reader = LogReader(connections.control, ObjectStore.from_url(str(tmp_path / "store")))
        try:
            return b"\n".join([line.text async for line in reader.read("job-0", 1, container=anatomy.RUN)])
        finally:
            await connections.aclose()

    with serving(tmp_path, SECRETS) as kubeconfigs:
        reading = Reading("job", size, 1, SECRETS)
        taken = asyncio.run(reading.run(redis_url, tmp_path / "store", kubeconfigs[False], hide=True))
    assert taken.size == size
    text = asyncio.run(stored())
    assert text.count(b"\n") == 1499
    assert text.count(MASK) == 2
    assert not any(value in text for value in printed(SECRETS))

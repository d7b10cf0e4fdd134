"""Two minutes of everything at once. `make chaos` does the same for as long as one likes."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.storm import Scale, Storm

SEED = 1
SCALE = Scale(jobs=1500, kills=40, seconds=60.0)


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_minutes_of_chaos_break_no_promise(tmp_path: Path) -> None:
    progress: list[str] = []
    storm = Storm(tmp_path, SEED, SCALE, progress.append)
    report = asyncio.run(storm.run())
    told = "\n".join([*progress, *report.lines(storm.kills, storm.faults)])
    assert report.violations == (), told
    # It was rough: what never happens proves nothing.
    assert storm.kills >= SCALE.kills // 2, told
    assert report.jobs >= 200, told
    assert sum(storm.faults.values()) >= 200, told

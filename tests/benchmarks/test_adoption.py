"""An adoption, measured at a tiny size: by Redis' own clock, and with every job in the pod that it had."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import adoption
from benchmarks.adoption import Handover, figures
from benchmarks.suite import Options

pytestmark = pytest.mark.redis


def test_jobs_of_a_killed_worker_are_seen_to_be_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "LEASE_SECONDS", 1.5)
    found = asyncio.run(adoption._round(Options(1, 0.001, tmp_path, print), 5, 0))
    assert 0 <= found.first <= found.last <= found.at_work


def test_the_promise_is_about_the_last_job() -> None:
    first, last, at_work = figures([Handover(0.1, 4.0, 5.0)], 5000)
    assert (first.missed, last.missed, at_work.missed) == (False, True, False)

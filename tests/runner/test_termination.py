"""What a container says last: it fits its share, and a crash of the runner's own does not look like the job's fault."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import termination
from runner_spec.anatomy import Exit, report_limit
from runner_spec.plan import CachePlan, GitSource
from runner_spec.report import (
    ArtifactReport,
    CacheReport,
    CheckoutReport,
    FileReport,
    JUnitReport,
    UploadReport,
    parse_report,
)
from tests.runner.pod import ROOT, Pod

LEAST = report_limit(19)  # 16 services, checkout, upload, run
texts = st.text(st.characters(), max_size=600)
words = st.from_regex(r"[a-z-]{1,20}", fullmatch=True)
files = st.lists(st.builds(FileReport, texts, st.integers(0, 2**60), st.just("0" * 64)), max_size=5).map(tuple)
junits = st.builds(JUnitReport, tests=st.integers(0, 10**6), failed=st.lists(texts, max_size=12).map(tuple))
caches = st.lists(st.builds(CacheReport, texts, words, message=texts), max_size=20).map(tuple)
artifacts = st.lists(
    st.builds(ArtifactReport, texts, words, files=files, junit=st.none() | junits, message=texts), max_size=20
).map(tuple)
reports = st.builds(CheckoutReport, words, texts, st.just("0" * 40), st.floats(0, 1e6), caches) | st.builds(
    UploadReport, words, texts, st.floats(0, 1e6), artifacts, caches
)


@given(reports, st.integers(LEAST, 4096))
def test_any_report_is_whole_and_within_its_share(report: CheckoutReport | UploadReport, limit: int) -> None:
    text = termination.message(report, limit)
    assert len(text.encode()) <= limit
    assert json.loads(text)["reason"] == report.reason


def test_the_message_outlives_what_tells_less() -> None:
    many = tuple(CacheReport(f"key-{n}" * 20, "hit") for n in range(20))
    kept = parse_report(CheckoutReport, termination.message(CheckoutReport("ok", "what matters", caches=many), LEAST))
    assert kept is not None
    assert kept.message == "what matters"
    assert len(kept.caches) < 20


def test_a_container_keeps_to_the_share_that_it_is_told(pod: Pod) -> None:
    pod.variables["DYNAPOD_REPORT_LIMIT"] = "700"
    pod.gateway = None
    pod.plan(caches=tuple(CachePlan(f"key-{n}", (f"folder-{n}" * 10,)) for n in range(16)))
    result = pod.checkout()
    assert result.code == 0
    assert 0 < len(result.message.encode()) <= 700
    assert result.checkout.reason == "ok"


def test_a_container_keeps_to_the_share_that_its_plan_names(pod: Pod) -> None:
    pod.gateway = None
    pod.plan(caches=tuple(CachePlan(f"key-{n}", (f"folder-{n}" * 10,)) for n in range(16)), report_limit=700)
    result = pod.checkout()
    assert result.code == 0
    assert 0 < len(result.message.encode()) <= 700


def test_outside_a_pod_no_file_is_made(pod: Pod, tmp_path: Path) -> None:
    pod.variables["DYNAPOD_TERMINATION_LOG"] = str(tmp_path / "absent")
    pod.plan()
    process = pod.start("checkout")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "cannot write the termination message" in output
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("limit", ["many", "1.5"])
def test_a_share_that_is_no_number_is_the_platforms_fault(pod: Pod, limit: str) -> None:
    pod.variables["DYNAPOD_REPORT_LIMIT"] = limit
    process = pod.start("checkout")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == Exit.TEMPFAIL
    assert f"DYNAPOD_REPORT_LIMIT: '{limit}' is no number" in output


# -- the runner's own crashes


@pytest.mark.parametrize("command", ["checkout", "upload"])
def test_a_crash_of_the_runner_is_not_the_jobs_fault(tmp_path: Path, command: str) -> None:
    """A defect somewhere in the runner: here, a module that fails to be imported."""
    shutil.copytree(ROOT / "runner", tmp_path / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "runner" / f"{command}.py").write_text(
        "raise KeyError('https://joe:hunter2@h.example/ in a message')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "runner", command],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == Exit.CRASHED
    last = done.stdout.splitlines()[-1]
    assert last.startswith("[dynapod] the runner itself failed: KeyError")
    assert "Traceback" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_a_fault_of_the_job_always_comes_with_a_report(pod: Pod) -> None:
    """So an exit code 1 without one is Python's own: no runner in the image, say."""
    pod.plan(git=GitSource("file:///no/such/repository"))
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (Exit.JOB_FAULT, "repository-not-found")

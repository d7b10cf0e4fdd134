"""A success with artifacts needs their manifest in the store, whatever `upload` was told by whoever answered it."""

import asyncio
from pathlib import Path

import pytest

from adapters.object_store import ObjectStore
from runner_spec import storage
from runner_spec.description import parse_description
from runner_spec.outcome import Fault, Outcome, Verdict
from worker.attempt import Attempt
from worker.queue import Claim
from worker.upload_proof import confirmed

SUCCESS = Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0)


def attempt(*, artifacts: bool = True) -> Attempt:
    description = {"image": "app", "steps": [{"run": "x"}]}
    if artifacts:
        description["artifacts"] = [{"name": "a", "paths": ["a"]}]
    claim = Claim(
        job_id="job",
        attempt=2,
        execution_id="e",
        queue="jobs",
        payload={},
        adopted=False,
        minted_by="w",
        claimed_at=0.0,
        started_at=0.0,
    )
    return Attempt(claim, "pod", parse_description(description))


def ask(folder: Path, found: Attempt, outcome: Outcome = SUCCESS, *manifests: int) -> Outcome:
    async def test() -> Outcome:
        store = ObjectStore.from_url(str(folder))
        for number in manifests:
            await store.put(storage.manifest_path("job", number), b"{}")
        return await confirmed(found, outcome, store)

    return asyncio.run(test())


def test_a_success_whose_manifest_is_stored_stands(tmp_path: Path) -> None:
    assert ask(tmp_path, attempt(), SUCCESS, 2) is SUCCESS


@pytest.mark.parametrize("manifests", [(), (1,)], ids=["none", "of an earlier attempt"])
def test_a_success_without_its_manifest_is_the_platforms_failure(tmp_path: Path, manifests: tuple[int, ...]) -> None:
    outcome = ask(tmp_path, attempt(), SUCCESS, *manifests)
    assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.FAILED, Fault.PLATFORM, "upload-unconfirmed")
    assert "object store" in outcome.message


def test_other_ends_and_jobs_without_artifacts_need_no_manifest(tmp_path: Path) -> None:
    failed = Outcome(Verdict.FAILED, Fault.JOB, "exit", "run ended with exit code 1", 1)
    assert ask(tmp_path, attempt(), failed) is failed
    assert ask(tmp_path, attempt(artifacts=False)) is SUCCESS

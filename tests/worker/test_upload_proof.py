"""A success with artifacts needs their manifest in the store, whatever `upload` was told by whoever answered it."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from adapters.object_store import ObjectMeta, ObjectStore, StoreError, StoreRefused, StoreUnavailable
from runner_spec import render as rendered
from runner_spec import storage
from runner_spec.admission import admit
from runner_spec.anatomy import ANNOTATION_ARTIFACTS
from runner_spec.description import JobDescription, parse_description
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.policy import DEFAULT_POLICY
from runner_spec.render import render
from worker import upload_proof
from worker.attempt import Attempt, slim
from worker.queue import Claim
from worker.upload_proof import confirmed

Json = dict[str, Any]
SUCCESS = Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0)


ARTIFACTS: Json = {"artifacts": [{"name": "a", "paths": ["a"]}]}
CACHE: Json = {"cache": [{"key": "k", "paths": ["c"]}]}


def described(**fields: Any) -> JobDescription:
    return parse_description({"image": "app", "steps": [{"run": "x"}], **fields})


def pod_of(description: JobDescription, *, noted: bool = True) -> Json:
    """What a worker keeps of the job's pod; a worker from before the note made it without."""
    pod = slim(render(admit(description, DEFAULT_POLICY), rendered.Attempt("job", 2, "w")))
    if not noted:
        del pod["metadata"]["annotations"][ANNOTATION_ARTIFACTS]
    return pod


def attempt(description: JobDescription | None, pod: Json | None = None) -> Attempt:
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
    found = Attempt(claim, "pod")
    found.describe(description)
    found.pod = pod
    return found


def ask(folder: Path, found: Attempt, outcome: Outcome = SUCCESS, *manifests: int) -> Outcome:
    async def test() -> Outcome:
        store = ObjectStore.from_url(str(folder))
        for number in manifests:
            await store.put(storage.manifest_path("job", number), b"{}")
        return await confirmed(found, outcome, store)

    return asyncio.run(test())


def test_a_success_whose_manifest_is_stored_stands(tmp_path: Path) -> None:
    assert ask(tmp_path, attempt(described(**ARTIFACTS)), SUCCESS, 2) is SUCCESS


@pytest.mark.parametrize("manifests", [(), (1,)], ids=["none", "of an earlier attempt"])
def test_a_success_without_its_manifest_is_the_platforms_failure(tmp_path: Path, manifests: tuple[int, ...]) -> None:
    outcome = ask(tmp_path, attempt(described(**ARTIFACTS)), SUCCESS, *manifests)
    assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.FAILED, Fault.PLATFORM, "upload-unconfirmed")
    assert "object store" in outcome.message


class StoreAway:
    """Refuses, or gives no answer at all."""

    def __init__(self, error: StoreError | None) -> None:
        self.error = error

    async def head(self, path: str) -> ObjectMeta:
        del path
        if self.error is None:
            await asyncio.Event().wait()
            raise AssertionError
        raise self.error


@pytest.mark.parametrize(
    "error",
    [StoreRefused("access denied"), StoreUnavailable("overloaded"), None],
    ids=["refuses", "is overloaded for long", "never answers"],
)
def test_a_store_that_does_not_say_proves_nothing(error: StoreError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_proof, "PATIENCE_S", 0.05)
    monkeypatch.setattr(upload_proof, "RETRY_S", 0.01)
    outcome = asyncio.run(confirmed(attempt(described(**ARTIFACTS)), SUCCESS, cast("ObjectStore", StoreAway(error))))
    assert (outcome.verdict, outcome.fault, outcome.reason) == (Verdict.FAILED, Fault.PLATFORM, "upload-unconfirmed")


def test_other_ends_and_jobs_without_artifacts_need_no_manifest(tmp_path: Path) -> None:
    failed = Outcome(Verdict.FAILED, Fault.JOB, "exit", "run ended with exit code 1", 1)
    assert ask(tmp_path, attempt(described(**ARTIFACTS)), failed) is failed
    assert ask(tmp_path, attempt(described())) is SUCCESS


@pytest.mark.parametrize("noted", [True, False], ids=["", "of an older worker"])
def test_an_adopted_pod_says_itself_that_it_has_artifacts(tmp_path: Path, *, noted: bool) -> None:
    """A worker of another version may not be able to read the description of the job that it takes over."""
    adopted = attempt(None, pod_of(described(**ARTIFACTS), noted=noted))
    assert ask(tmp_path, adopted).reason == "upload-unconfirmed"
    assert ask(tmp_path, adopted, SUCCESS, 2) is SUCCESS


def test_an_adopted_pod_without_artifacts_needs_no_manifest(tmp_path: Path) -> None:
    for fields in ({}, CACHE):
        assert ask(tmp_path, attempt(None, pod_of(described(**fields)))) is SUCCESS
    assert ask(tmp_path, attempt(None, pod_of(described(), noted=False))) is SUCCESS  # nor has it an upload


def test_what_is_not_known_to_have_no_artifacts_needs_its_manifest(tmp_path: Path) -> None:
    """A pod of caches only, made by an older worker and read by none: rather a false red than a false green."""
    unknown = attempt(None, pod_of(described(**CACHE), noted=False))
    damaged = pod_of(described(**ARTIFACTS))
    damaged["metadata"]["annotations"][ANNOTATION_ARTIFACTS] = "none"
    for found in (unknown, attempt(None, damaged), attempt(None, None)):
        assert ask(tmp_path, found).reason == "upload-unconfirmed"


def test_a_description_and_a_pod_that_disagree_need_the_manifest(tmp_path: Path) -> None:
    for description, pod in ((described(), ARTIFACTS), (described(**ARTIFACTS), {})):
        assert ask(tmp_path, attempt(description, pod_of(described(**pod)))).reason == "upload-unconfirmed"

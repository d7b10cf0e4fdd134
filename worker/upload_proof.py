"""Whether an attempt's artifacts are really stored: asked of the store itself before a job is called a success.

`upload` has ended well, says its exit code; but it believed whoever answered it. The manifest is the last thing that
the gateway stores of an attempt, so where it is, everything else is.
"""

import asyncio
import logging
from typing import Final

from adapters.object_store import NotFound, ObjectStore, StoreError
from runner_spec import anatomy, storage
from runner_spec.outcome import Fault, Outcome, Verdict
from worker.attempt import Attempt

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
# A store that is away for longer costs the attempt: a job must not hang between its end and its record.
PATIENCE_S: Final = 300.0


async def confirmed(attempt: Attempt, outcome: Outcome, store: ObjectStore) -> Outcome:
    """The outcome, or why a success is none: its manifest is not in the store, or nobody can tell."""
    if outcome.verdict is not Verdict.SUCCEEDED or not _has_artifacts(attempt):
        return outcome
    path = storage.manifest_path(attempt.claim.job_id, attempt.claim.attempt)
    try:
        async with asyncio.timeout(PATIENCE_S):
            if await _exists(store, path, attempt):
                return outcome
        message = (
            "upload ended well, but the manifest of its artifacts is not in the worker's object store; is that the "
            "gateway's?"
        )
    except (TimeoutError, StoreError) as error:
        message = f"the object store does not say whether the artifacts are there: {error or 'no answer in time'}"
    return Outcome(Verdict.FAILED, Fault.PLATFORM, "upload-unconfirmed", message, evidence=outcome.evidence)


def _has_artifacts(attempt: Attempt) -> bool:
    """Whether there is, or may be, something to prove.

    The pod itself says so: the description of an adopted job may be one that this worker, of another version, cannot
    read. What neither of them says is taken for yes, but for a pod without `upload`.
    """
    promised, pod = attempt.promises_artifacts, attempt.pod or {}
    noted = pod.get("metadata", {}).get("annotations", {}).get(anatomy.ANNOTATION_ARTIFACTS)
    if noted is None and promised is None:
        containers = pod.get("spec", {}).get("initContainers")
        return containers is None or any(container["name"] == anatomy.UPLOAD for container in containers)
    return noted not in {None, "0"} or bool(promised)


async def _exists(store: ObjectStore, path: str, attempt: Attempt) -> bool:
    while True:
        try:
            await store.head(path)
        except NotFound:
            return False
        except StoreError as error:
            if not error.temporary:
                raise
            log.warning("artifacts not confirmed yet: %s", error, extra={"action": "store_away", **attempt.log_extra})
            await asyncio.sleep(RETRY_S)
        else:
            return True

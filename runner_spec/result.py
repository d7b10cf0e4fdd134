"""The result of an attempt, as `job.return_value()` and the ledger give it: JSON-pure and bounded.

The verdict comes from the outcome; everything else is for display, some of it from the containers' own reports. What
`run` reports about itself can be forged by the job, so nothing here is believed beyond its type.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from runner_spec import anatomy
from runner_spec.outcome import Outcome
from runner_spec.pod_status import LOST, Container, Pod, one_line, read_pod
from runner_spec.report import ArtifactReport, CacheReport, CheckoutReport, RunReport, UploadReport, parse_report
from runner_spec.service_crash import ServiceCrash, service_crashes

RESULT_VERSION: Final = 1
ITEMS_LIMIT: Final = 200  # of a list; termination messages hold far fewer, a hostile one may not
FILES_LIMIT: Final = 20  # of an artifact; the manifest in the object store has all
TEXT_CHARACTERS: Final = 500
LAST_WORD_CHARACTERS: Final = 200


def job_result(
    outcome: Outcome,
    attempt: int,
    pod: Mapping[str, Any] | None = None,
    last_words: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The result of one attempt.

    Args:
        outcome: how it ended.
        attempt: its number.
        pod: the pod as last seen, None when there was none.
        last_words: service → the last lines of its log, masked.

    Returns:
        `version`, the outcome's fields, `attempt`, `pod`, `node`, `commit`, `timings` (seconds of `waiting`,
        `checkout`, `run`, `upload` and `total`, each only when known), `stages`, `steps`, `artifacts`, `caches`,
        and `services`: those that crashed or never became ready, each with `name`, `crashed`, `exit_code`, `restarts`,
        `reason` and its last `lines`.
    """
    seen = read_pod(pod) if pod is not None else Pod()
    checkout = parse_report(CheckoutReport, _message(seen.checkout))
    run = parse_report(RunReport, _message(seen.run))
    upload = parse_report(UploadReport, _message(seen.upload))
    caches = [*(checkout.caches if checkout else ()), *(upload.caches if upload else ())]
    return {
        "version": RESULT_VERSION,
        **outcome.as_dict(),
        "attempt": attempt,
        "pod": seen.name,
        "node": seen.node,
        "commit": _text(checkout.commit) if checkout else "",
        "timings": _timings(seen),
        "stages": [_stage(container) for container in seen.containers if container.started_at is not None],
        "steps": [_step(step.name, step.exit, step.seconds, after=step.after) for step in (run.steps if run else ())][
            :ITEMS_LIMIT
        ],
        "artifacts": [_artifact(artifact) for artifact in (upload.artifacts if upload else ())[:ITEMS_LIMIT]],
        "caches": [_cache(cache) for cache in caches[:ITEMS_LIMIT]],
        "services": _services(seen, last_words or {}),
    }


def suspects(outcome: Outcome, pod: Mapping[str, Any]) -> tuple[str, ...]:
    """The services that may have had a part in a failure: those that crashed, or all when one never became ready."""
    seen = read_pod(pod)
    crashed = tuple(crash.name for crash in service_crashes(seen))
    named = tuple(service.name for service in seen.services if _names(outcome.message, service.name))
    return tuple(dict.fromkeys((*named, *crashed))) if outcome.reason == "service" else crashed


def with_last_words(outcome: Outcome, last_words: Mapping[str, Sequence[str]]) -> Outcome:
    """A failure because of a service says what the service said last: many see the message only."""
    if outcome.reason != "service":
        return outcome
    told = [f"{name}: {one_line(lines[-1], LAST_WORD_CHARACTERS)}" for name, lines in last_words.items() if lines]
    return replace(outcome, message=f"{outcome.message}; last line of {'; of '.join(told)}") if told else outcome


def _names(message: str, service: str) -> bool:
    """Whether a message is about this service, as our own messages are."""
    return f"service {service} " in message or f"service {service!r} " in message


def _services(seen: Pod, last_words: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    crashes = {crash.name: crash for crash in service_crashes(seen)}
    told = [service for service in seen.services if service.name in crashes or service.name in last_words]
    return [_service(service, crashes.get(service.name), last_words.get(service.name, ())) for service in told]


def _service(service: Container, crash: ServiceCrash | None, lines: Sequence[str]) -> dict[str, Any]:
    return {
        "name": service.name,
        "crashed": crash is not None,
        "exit_code": crash.exit_code if crash else None,
        "restarts": service.restarts,
        "reason": "oom" if crash and crash.out_of_memory else "",
        "lines": _texts(lines),
    }


def _message(container: Container | None) -> str:
    message = container.end.message if container is not None and container.end is not None else ""
    # The kubelet keeps 4096 bytes; whatever is longer did not come from one.
    return message if len(message) <= anatomy.TERMINATION_MESSAGE_LIMIT_BYTES else ""


def _timings(seen: Pod) -> dict[str, float]:
    timings = {container.name: _seconds(container) for container in seen.containers if container not in seen.services}
    starts = [container.started_at for container in seen.containers if container.started_at is not None]
    ends = [container.end.finished_at for container in seen.containers if container.end and container.end.finished_at]
    if seen.created_at is not None:
        timings["waiting"] = min(starts) - seen.created_at if starts else None
        timings["total"] = max(ends) - seen.created_at if ends else None
    return {name: max(0.0, seconds) for name, seconds in timings.items() if seconds is not None}


def _seconds(container: Container) -> float | None:
    """Not negative, should the node's clock have been set back meanwhile."""
    seconds = container.end.seconds if container.end is not None else None
    return None if seconds is None else max(0.0, seconds)


def _stage(container: Container) -> dict[str, Any]:
    return {
        "name": container.name,
        "started_at": container.started_at,
        "seconds": _seconds(container),
        # The kubelet gives a container that its node has lost an exit code, which nobody has seen.
        "exit_code": container.end.exit_code if container.end and container.end.reason not in LOST else None,
        "restarts": container.restarts,
    }


def _step(name: str, code: int, seconds: float, *, after: bool) -> dict[str, Any]:
    return {"name": _text(name), "exit_code": _whole(code), "seconds": _rounded(seconds), "after": after}


def _artifact(artifact: ArtifactReport) -> dict[str, Any]:
    junit = None
    if artifact.junit is not None:
        junit = asdict(artifact.junit) | {
            "seconds": _rounded(artifact.junit.seconds),
            "failed": _texts(artifact.junit.failed),
        }
    return {
        "name": _text(artifact.name),
        "result": _text(artifact.result),
        "count": _whole(artifact.count),
        "size": _whole(artifact.size),
        "message": _text(artifact.message),
        "files": [
            {"path": _text(file.path), "size": _whole(file.size), "sha256": _text(file.sha256)}
            for file in artifact.files[:FILES_LIMIT]
        ],
        "junit": junit,
    }


def _cache(cache: CacheReport) -> dict[str, Any]:
    return {
        "key": _text(cache.key),
        "result": _text(cache.result),
        "size": _whole(cache.size),
        "seconds": _rounded(cache.seconds),
        "message": _text(cache.message),
    }


def _text(text: str) -> str:
    return one_line(text, TEXT_CHARACTERS)


def _texts(texts: Iterable[str]) -> list[str]:
    return [_text(text) for text in texts][:ITEMS_LIMIT]


def _rounded(seconds: float) -> float:
    """Milliseconds; a report's durations are finite (`report`)."""
    return round(seconds, 3)


def _whole(number: int) -> int:
    """Within 64 bits: other languages read results too."""
    return max(-(2**63), min(number, 2**63 - 1))

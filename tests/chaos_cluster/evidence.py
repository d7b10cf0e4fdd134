"""From what was collected on a real cluster to what the checker reads. Pure.

Two sources are joined for each fact, so that neither can hide anything: the pods' own words and the kubelet's for what
ran, the audit log and our own watch for what was created.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from runner_spec import anatomy
from tests.chaos.records import JobRecord, PodWrite, Run, StoredLog
from tests.chaos.scripted_log import log_content
from tests.chaos_cluster.collector import Sign
from tests.chaos_cluster.pod_history import SeenPod

# How the shim's own lines begin (runner/shim.sh): they hold times, and are not the job's.
SHIM: Final = b"[dynapod]"
WORKER: Final = "dynapod/"
STRANGER: Final = "kubectl"


def pod_writes(lines: Iterable[str], namespaces: frozenset[str]) -> Iterator[PodWrite]:
    """The creations and deletions of pods in an audit log (audit.k8s.io/v1, a line of JSON each).

    Dry runs and subresources (eviction) are no such. Deletions by anybody but workers, such as the kubelet's own when a
    pod has ended, bear the stranger's name: the checker wants to know who did it, and no more.
    """
    for line in lines:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # torn, by the end of the API server: what it tells is seen by the watch
        subject = entry.get("objectRef", {})
        if subject.get("resource") != "pods" or "subresource" in subject or "dryRun=All" in entry["requestURI"]:
            continue
        if subject.get("namespace") not in namespaces or entry["verb"] not in {"create", "delete"}:
            continue
        at = datetime.fromisoformat(entry["stageTimestamp"]).timestamp()
        agent = entry.get("userAgent", "")
        if entry["verb"] == "delete" and not agent.startswith(WORKER):
            agent = STRANGER
        yield PodWrite(entry["verb"], subject.get("name", ""), entry["responseStatus"]["code"], agent, at)


def with_seen(writes: Iterable[PodWrite], pods: Iterable[SeenPod]) -> tuple[tuple[PodWrite, ...], int]:
    """Creations that are in no audit log, as when its writer was killed, are added; and how many these are."""
    known = tuple(writes)
    created = Counter(write.pod for write in known if (write.verb, write.code) == ("create", 201))
    missing = []
    for pod in sorted(pods, key=lambda pod: pod.seen):
        if created[pod.name] > 0:
            created[pod.name] -= 1
        else:
            missing.append(PodWrite("create", pod.name, 201, "seen by the watch", pod.seen))
    return (*known, *missing), len(missing)


def real_runs(runs: Iterable[Run], signs: Mapping[str, Sign], pods: Iterable[SeenPod]) -> Iterator[Run]:
    """The runs of a ledger of real pods, with what others know of them.

    The exit code is the kubelet's where it is known: a pod says which one it is going to end with, and may be killed
    in between. Of one that was killed without a word, at least what it had told is in its log, and nothing else than
    what it would have written.
    """
    seen: dict[str, list[SeenPod]] = {}
    for pod in pods:
        seen.setdefault(pod.name, []).append(pod)
    for run in runs:
        found = seen.get(run.pod, [])
        code = found[0].exit_code if len(found) == 1 and found[0].exit_code is not None else run.exit_code
        sign = signs[run.uid]
        if run.ended is None:
            log = log_content(run.uid, run.container, sign.lines)
            yield replace(run, exit_code=code, log=log, log_at_least=sign.written, seen=sign.at)
        else:
            yield replace(run, exit_code=code)


def fake_runs(pods: Iterable[SeenPod]) -> Iterator[Run]:
    """What the fake node did; it knows nothing of logs."""
    for pod in pods:
        if pod.started is not None or pod.ended is not None:
            started = pod.ended if pod.started is None else pod.started
            assert started is not None
            yield Run(pod.job, pod.attempt, pod.name, pod.uid, anatomy.RUN, started, pod.ended, pod.exit_code)


def without_logs(record: JobRecord) -> JobRecord:
    """Of a fake pod: kwok says that its containers have ended, never that they had started: as if they had no log."""
    return replace(record, logs={})


def without_shim(record: JobRecord) -> JobRecord:
    """The logs of `run` without the shim's own lines."""
    logs = {key: _job_lines(log) if key[1] == anatomy.RUN else log for key, log in record.logs.items()}
    return replace(record, logs=logs)


def _job_lines(log: StoredLog) -> StoredLog:
    content = bytearray()
    gaps: list[tuple[int, str]] = []
    begin = 0
    for offset, why in [*log.gaps, (len(log.content), "")]:
        for line in log.content[begin:offset].splitlines(keepends=True):
            content += _job_part(line)
        gaps.append((len(content), why))
        begin = offset
    return StoredLog(bytes(content), tuple(gaps[:-1]), log.complete)


def _job_part(line: bytes) -> bytes:
    """What the job wrote of a line: its last one may have no newline, and the shim goes on in it."""
    own = line.partition(SHIM)[0]
    if own == line and not line.endswith(b"\n"):
        # It is cut by a gap, maybe within the shim's mark.
        cut = next((length for length in range(len(SHIM) - 1, 0, -1) if line.endswith(SHIM[:length])), 0)
        own = line[: len(line) - cut]
    return own

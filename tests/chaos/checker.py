"""The checker: from the evidence of three independent sources to what was promised and did not hold. Pure.

For every job exactly one outcome, which agrees with what its pod really did; one pod per attempt, one live attempt at
a time; no success without proof; every log whole or its holes declared; nothing left behind.

What a failover with lost writes makes unknowable is neither a violation nor passed over: it is counted apart, and only
where the very write that was forgotten can lie within the `Loss`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, pairwise
from typing import Any, Final

from runner_spec import anatomy, names
from runner_spec.pod_status import LOST
from tests.chaos.artifact_rule import unproven
from tests.chaos.log_rule import silent_loss_of_several
from tests.chaos.records import Evidence, JobRecord, Loss, Run, Submitted

# Seconds for which an attempt may still be seen alive after the next one was begun: a pod that was deleted by force
# goes on until it is killed (2 s, devcluster's and the kubelet's minimum), on a machine that may pause.
WINDOW_S: Final = 5.0
# Seconds between a claim and the creation of its pod, at most (the API server may be away for some of them): a pod
# that was created just after a loss may have been claimed within it.
CLAIM_S: Final = 10.0
# How the user agent of those begins that delete pods and are no workers.
STRANGER: Final = "kubectl"
# As `worker.queue.job_queue.LEDGER_ENTRIES`: of more attempts the oldest are no longer on record.
LEDGER_ENTRIES: Final = 100

_FOREVER: Final = float("inf")
_ACTIONS: Final = {"finished": "finish", "failed": "fail", "stopped": "stop"}
_REGISTRIES: Final = {"finished": "finished", "failed": "failed", "stopped": "failed", "canceled": "canceled"}
_GOES_ON: Final = frozenset({"requeue", "mint"})


class Kind(StrEnum):
    """What was promised; the values are the words of the closing line. A false red is a false verdict, too."""

    LOST = "lost"
    DOUBLED = "doubled"
    FALSE_GREEN = "false green"
    LOG_GAP = "silent log gaps"
    LEFT_BEHIND = "left behind"


class Forgotten(StrEnum):
    """What cannot be held against anybody, because Redis forgot what was written."""

    REPEATED = "repeated because Redis forgot"
    JOBS = "jobs that only the lost primary knew"
    LOGS = "logs cut because Redis forgot"


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that did not hold; `job` is empty and `attempt` 0 where none is meant."""

    kind: Kind
    job: str
    attempt: int
    facts: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.kind}: {self.job or '-'}{f', attempt {self.attempt}' if self.attempt else ''}: {self.facts}"


Finding = Violation | Forgotten


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; `statistics` are words → numbers, `largest_overlap` is in seconds (as measured by the pods)."""

    jobs: int
    violations: tuple[Violation, ...]
    statistics: Mapping[str, int]
    largest_overlap: float
    window: float

    def of(self, kind: Kind) -> list[Violation]:
        """The violations of one kind."""
        return [violation for violation in self.violations if violation.kind is kind]

    def closing_line(self, kills: int, faults: int) -> str:
        """The one line that says it all."""
        counts = ", ".join(f"{kind} {len(self.of(kind))}" for kind in Kind)
        return f"jobs {self.jobs}, kills {kills}, faults {faults}, {counts}"

    def lines(self, kills: int, faults: Mapping[str, int]) -> list[str]:
        """Violations, faults by kind, statistics, and the closing line."""
        overlap = f"largest overlap of two attempts of a job: {self.largest_overlap:.3f} s (allowed {self.window:g} s)"
        return [
            *map(str, self.violations),
            *(f"fault {name}: {count}" for name, count in sorted(faults.items())),
            *(f"{name}: {count}" for name, count in self.statistics.items()),
            overlap,
            self.closing_line(kills, sum(faults.values())),
        ]


@dataclass(slots=True)
class _Case:
    """Everything about one job.

    Attempt → times: `created` and `deleted` as the API server granted it, `deleted` by strangers left out.
    """

    submitted: Submitted
    record: JobRecord
    losses: tuple[Loss, ...]
    window: float
    runs: list[Run] = field(default_factory=list)
    created: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    deleted: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def violation(self, kind: Kind, attempt: int, facts: str) -> Violation:
        return Violation(kind, self.submitted.job, attempt, facts)

    def of(self, attempt: int) -> list[Run]:
        """The starts of an attempt's `run`."""
        return [run for run in self.runs if (run.attempt, run.container) == (attempt, anatomy.RUN)]

    def attempts(self) -> list[int]:
        """All that left a trace outside of Redis."""
        return sorted({run.attempt for run in self.runs} | self.created.keys())

    def begun(self, attempt: int) -> float:
        """When the attempt came to be, as far as anybody outside saw."""
        return min([*self.created.get(attempt, ()), *(run.started for run in self.of(attempt))], default=_FOREVER)

    def doubled(self, attempt: int, again: float, facts: str, *, claim_only: bool = False) -> Finding:
        """Something was done again at `again`: because Redis forgot the attempt or its end, or by our own fault.

        `claim_only`: only an attempt that was forgotten altogether explains it.
        """
        begun = self.begun(attempt)
        written = [(begun - CLAIM_S, begun)]
        # An end is recorded between the end of the pod and its deletion by us, if that was what came next.
        for run in () if claim_only else self.of(attempt):
            ended = run.ended or run.started
            deletions = [at for at in self.deleted.get(attempt, ()) if ended <= at <= again]
            written.append((ended, max(deletions, default=again)))
        for loss in self.losses:
            if again >= loss.since and any(since <= loss.until and until >= loss.since for since, until in written):
                return Forgotten.REPEATED
        return self.violation(Kind.DOUBLED, attempt, facts)


def check(evidence: Evidence, *, window: float = WINDOW_S) -> Report:
    """Hold the evidence against the promises; `window` is in seconds (see `WINDOW_S`)."""
    cases, strangers = _cases(evidence, window)
    found: list[Finding] = [finding for case in cases for rule in _RULES for finding in rule(case)]
    found += [Violation(Kind.LEFT_BEHIND, "", 0, f"pod {pod} is still there") for pod in evidence.pods_left]
    found += [Violation(Kind.LEFT_BEHIND, "", 0, f"key {key} is still there") for key in evidence.left_keys]
    forgotten = Counter(finding for finding in found if isinstance(finding, Forgotten))
    logs = [log for case in cases for log in case.record.logs.values()]
    statistics = {
        "containers that ran": len(evidence.runs),
        "of those without a known end": sum(run.ended is None for run in evidence.runs),
        "attempts": sum(case.record.attempt for case in cases),
        "failed by the platform's fault": sum(map(_failed_by_platform, cases)),
        "green with artifacts": sum(map(_green_with_artifacts, cases)),
        "pods of jobs that nobody waits for": strangers,
        "declared log gaps": sum(len(log.gaps) for log in logs),
        **{str(word): forgotten[word] for word in Forgotten},
    }
    violations = tuple(finding for finding in found if isinstance(finding, Violation))
    overlap = max((_overlap(case) for case in cases), default=0.0)
    return Report(len(cases), violations, statistics, overlap, window)


def _cases(evidence: Evidence, window: float) -> tuple[list[_Case], int]:
    """One for each job submitted, and how many pods belong to none of them."""
    cases = {
        job.job: _Case(job, evidence.jobs.get(job.job) or JobRecord(job.job, None, 0), evidence.losses, window)
        for job in evidence.submitted
    }
    for run in sorted(evidence.runs, key=lambda run: run.started):
        if run.job in cases:
            cases[run.job].runs.append(run)
    stems = {_stem(names.pod_name(job, 1)): case for job, case in cases.items()}
    strangers = set()
    for write in evidence.pod_writes:
        stem, number = _stem(write.pod), write.pod.rpartition("-")[2]
        case = stems.get(stem)
        if case is None or not number.isdigit():
            strangers.add(write.pod)
        elif (write.verb, write.code) == ("create", 201):
            case.created[int(number)].append(write.at)
        elif write.verb == "delete" and write.code in {200, 202} and not write.user_agent.startswith(STRANGER):
            case.deleted[int(number)].append(write.at)
    return list(cases.values()), len(strangers)


def _stem(pod: str) -> str:
    return pod.rpartition("-")[0]


def _outcome(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("outcome")
    return found if isinstance(found, Mapping) else {}


def _failed_by_platform(case: _Case) -> bool:
    entry = case.record.ledger.get(case.record.attempt, {})
    failed = case.record.status == "failed" and _outcome(entry).get("fault") == "platform"
    return failed and not case.submitted.poison


def _green_with_artifacts(case: _Case) -> bool:
    return case.record.status == "finished" and bool(case.submitted.artifacts)


def _overlap(case: _Case) -> float:
    """Seconds for which two `run`s of a job were alive together, at most; one that nobody saw alive has none."""
    lives = [(run.started, run.ended or run.seen) for run in case.runs if run.container == anatomy.RUN]
    pairs = combinations([(start, end) for start, end in lives if end is not None], 2)
    return max((min(one[1], other[1]) - max(one[0], other[0]) for one, other in pairs), default=0.0)


# -- lost: no outcome, or not exactly one


def _lost(case: _Case) -> Iterator[Finding]:
    record, submitted = case.record, case.submitted
    if record.status is None:
        at = submitted.at
        if at is not None and any(loss.since <= at <= loss.until for loss in case.losses):
            yield Forgotten.JOBS
        else:
            yield case.violation(Kind.LOST, 0, "its hash is gone: no outcome (kept for less time than the run took?)")
        return
    if record.status not in _REGISTRIES:
        yield case.violation(Kind.LOST, record.attempt, f"it ended as {record.status!r}: that is no end")
        return
    ends = [(end["status"], end["attempt"]) for end in record.ends]
    # Canceled before it was claimed, there is no attempt whose end could be recorded.
    if ends != [(record.status, str(record.attempt))] and (ends or record.status != "canceled"):
        expected = f"expected one, {record.status} of attempt {record.attempt}"
        yield case.violation(Kind.LOST, record.attempt, f"{len(ends)} ends are recorded, {ends}: {expected}")
    action = record.ledger.get(record.attempt, {}).get("action")
    if record.status in _ACTIONS and action != _ACTIONS[record.status]:
        facts = f"it is {record.status}, its last attempt's entry says {action!r}"
        yield case.violation(Kind.LOST, record.attempt, facts)


# -- doubled: more than one pod per attempt, more than one live attempt, an attempt without a reason


def _doubled_pods(case: _Case) -> Iterator[Finding]:
    for attempt in case.attempts():
        created, runs = sorted(case.created.get(attempt, ())), case.of(attempt)
        uids = list(dict.fromkeys(run.uid for run in runs))
        if len(created) > 1 or len(uids) > 1:
            again = created[1] if len(created) > 1 else next(run.started for run in runs if run.uid != uids[0])
            facts = f"pod created {len(created)} times, at {created}; ran as {uids}"
            yield case.doubled(attempt, again, facts)
        elif len(runs) > 1:
            yield case.violation(Kind.DOUBLED, attempt, f"run was started {len(runs)} times in pod {uids[0]}")
        if attempt > case.record.attempt and case.record.status is not None:
            facts = f"it had a pod, and Redis knows of {case.record.attempt} attempts only"
            yield case.doubled(attempt, _FOREVER, facts, claim_only=True)


def _live_together(case: _Case) -> Iterator[Finding]:
    """An attempt seen alive after a later one was begun, beyond the window."""
    attempts = case.attempts()
    for earlier, later in pairwise(attempts):
        begun = case.begun(later)
        alive = max((run.ended or run.seen or run.started for run in case.of(earlier)), default=0.0)
        if alive - begun > case.window:
            facts = f"alive {alive - begun:.3f} s after attempt {later} was begun, at {begun}"
            yield case.doubled(earlier, alive, facts)


def _unexplained(case: _Case) -> Iterator[Finding]:
    """Every attempt but the last needs an entry that says why there was another one."""
    record = case.record
    explained: set[int] = set()
    for attempt, entry in record.ledger.items():
        wait = entry.get("wait")
        waits = int(wait["count"]) if isinstance(wait, Mapping) else 1
        explained |= set(range(attempt - waits + 1, attempt + 1))
    for attempt in range(max(1, record.attempt - LEDGER_ENTRIES + 1), record.attempt):
        action = record.ledger.get(attempt, {}).get("action")
        if attempt not in explained:
            yield case.violation(Kind.DOUBLED, attempt, "nothing on record says why another attempt followed it")
        elif action is not None and action not in _GOES_ON:
            yield case.violation(Kind.DOUBLED, attempt, f"another attempt followed it, though it ended with {action!r}")


# -- false green, and false red


def _verdict(case: _Case) -> Iterator[Finding]:
    record, submitted = case.record, case.submitted
    entry = record.ledger.get(record.attempt, {})
    outcome = _outcome(entry)
    if record.status == "finished":
        runs = [run for run in case.of(record.attempt) if run.pod == entry.get("pod")]
        codes = [run.exit_code for run in runs]
        if 0 not in codes or outcome.get("verdict") != "succeeded" or submitted.poison:
            facts = f"finished as {outcome.get('verdict')!r} by pod {entry.get('pod')!r}, whose runs ended with {codes}"
            yield case.violation(Kind.FALSE_GREEN, record.attempt, facts)
    elif outcome.get("verdict") == "succeeded" and record.status in {"failed", "stopped"}:
        facts = f"its last attempt succeeded, the job is {record.status!r}"
        yield case.violation(Kind.FALSE_GREEN, record.attempt, facts)
    if record.status in {"stopped", "canceled"} and not submitted.canceled:
        yield case.violation(Kind.FALSE_GREEN, record.attempt, f"it is {record.status}, and nobody asked for that")


def _artifacts(case: _Case) -> Iterator[Finding]:
    """Green, and with artifacts: they are where people will look for them."""
    if case.record.status == "finished" and case.submitted.artifacts:
        for trouble in unproven(case.record.artifacts, case.submitted.artifacts):
            yield case.violation(Kind.FALSE_GREEN, case.record.attempt, f"finished, and {trouble}")


def _exit_codes(case: _Case) -> Iterator[Finding]:
    """Of every attempt: the exit code on record is that of the pod, and blame needs the job's own exit code."""
    submitted = case.submitted
    for attempt, entry in case.record.ledger.items():
        outcome, runs = _outcome(entry), case.of(attempt)
        codes = [run.exit_code for run in runs if run.exit_code is not None]
        recorded = _recorded_code(outcome)
        if recorded is not None and codes and recorded not in codes:
            facts = f"exit code {recorded} is on record, {codes} were written"
            yield case.violation(Kind.FALSE_GREEN, attempt, facts)
        elif outcome.get("fault") == "job" and not (submitted.canceled or submitted.poison):
            blamed = submitted.exit_code != 0 and submitted.exit_code in codes
            if not blamed:
                facts = f"called the job's own fault ({outcome.get('reason')}); its runs ended with {codes}"
                yield case.violation(Kind.FALSE_GREEN, attempt, facts)


def _recorded_code(outcome: Mapping[str, Any]) -> int | None:
    """The exit code of `run` on record: what was seen of it, else the one of the outcome, which may be of `upload`."""
    run = outcome.get("evidence", {}).get("containers", {}).get(anatomy.RUN, {})
    if run.get("reason") in LOST:
        return None  # the kubelet's placeholder for what nobody has seen
    recorded: int | None = run.get("exit_code", outcome.get("exit_code"))
    return recorded


# -- logs


def _logs(case: _Case) -> Iterator[Finding]:
    record = case.record
    if record.status not in _REGISTRIES:
        return  # it is lost: its log is the least of its troubles
    written: defaultdict[tuple[int, str], list[Run]] = defaultdict(list)
    for run in case.runs:
        if run.attempt <= record.attempt:
            written[run.attempt, run.container].append(run)
    for key, runs in written.items():
        # That there were two pods of one attempt is told elsewhere.
        known = [(run.log, run.log_at_least) for run in runs if run.log is not None]
        if len(known) == len(runs) and (trouble := silent_loss_of_several(record.logs.get(key), known)):
            yield _forgotten_log(case, runs, key) or case.violation(Kind.LOG_GAP, key[0], f"{key[1]}: {trouble}")
    for (attempt, container), stored in record.logs.items():
        if (attempt, container) in written:
            continue
        if container == anatomy.RUN and stored.content:
            facts = f"{container}: {len(stored.content)} bytes are stored that nobody wrote"
            yield case.violation(Kind.LOG_GAP, attempt, facts)
        elif not stored.complete and all(offset != len(stored.content) for offset, _ in stored.gaps):
            yield case.violation(Kind.LOG_GAP, attempt, f"{container}: not complete, and nothing declared missing")


def _forgotten_log(case: _Case, runs: Iterable[Run], key: tuple[int, str]) -> Finding | None:
    """What was stored during a loss may be forgotten with the pod already gone: then at most the end is missing."""
    stored = case.record.logs.get(key)
    content = b"" if stored is None else stored.content
    if stored is not None and stored.complete:
        return None
    for run in runs:
        until = max(case.deleted.get(run.attempt, ()), default=_FOREVER)
        at_risk = any(run.started <= loss.until and until >= loss.since for loss in case.losses)
        if at_risk and (run.log or b"").startswith(content):
            return Forgotten.LOGS
    return None


# -- left behind


def _registered(case: _Case) -> Iterator[Finding]:
    expected = _REGISTRIES.get(case.record.status or "")
    if expected is not None and case.record.registries != (expected,):
        facts = f"{case.record.status}, and listed in {list(case.record.registries)}: expected {expected} alone"
        yield case.violation(Kind.LEFT_BEHIND, case.record.attempt, facts)


_RULES: Final[tuple[Callable[[_Case], Iterator[Finding]], ...]] = (
    _lost,
    _doubled_pods,
    _live_together,
    _unexplained,
    _verdict,
    _artifacts,
    _exit_codes,
    _logs,
    _registered,
)

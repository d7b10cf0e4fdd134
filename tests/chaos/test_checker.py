"""The checker believes honest histories, and catches each lie by itself."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec import names
from tests.chaos.checker import WINDOW_S, Kind, Report, check
from tests.chaos.log_rule import silent_loss, silent_loss_of_several
from tests.chaos.records import (
    Artifact,
    Evidence,
    JobRecord,
    Loss,
    PodWrite,
    Run,
    StoredArtifacts,
    StoredLog,
    Submitted,
)

WORKER, STRANGER = "dynapod/1", "kubectl/v1.34"
LOG = b"one\n\ntwo\nthree"
# Seconds: when an attempt of the history is claimed, after the one before it.
PACE = 100.0


def entry(job: str, attempt: int, action: str, **outcome: Any) -> dict[str, Any]:
    return {"action": action, "pod": names.pod_name(job, attempt), "outcome": outcome}


SUCCEEDED = {"verdict": "succeeded", "fault": "none", "reason": "", "exit_code": 0}
EVICTED = {"verdict": "failed", "fault": "platform", "reason": "evicted", "exit_code": 143}
LOST = {"verdict": "failed", "fault": "platform", "reason": "worker-lost", "exit_code": None}
CANCELED = {"verdict": "canceled", "fault": "user", "reason": "canceled", "exit_code": 143}


def own_fault(code: int) -> dict[str, Any]:
    return {"verdict": "failed", "fault": "job", "reason": "exit", "exit_code": code}


class History:
    """One job that did what dynapod says it did."""

    def __init__(self, job: str = "a", *, exit_code: int = 0, canceled: bool = False) -> None:
        self.submitted = Submitted(job, exit_code, canceled)
        self.runs: list[Run] = []
        self.writes: list[PodWrite] = []
        self.record = JobRecord(job, None, 0)
        self.ledger: dict[int, dict[str, Any]] = {}
        self.logs: dict[tuple[int, str], StoredLog] = {}
        self.attempt = 0

    def ran(self, code: int, *, pause: float = 1.0) -> None:
        """An attempt whose pod runs for ten seconds and is deleted a second later."""
        self.attempt += 1
        job, attempt, at = self.submitted.job, self.attempt, PACE * self.attempt
        pod = names.pod_name(job, attempt)
        run = Run(job, attempt, pod, f"{job}{attempt}", "run", at + pause, at + pause + 10, code, LOG)
        self.runs.append(run)
        self.writes += [PodWrite("create", pod, 201, WORKER, at), PodWrite("delete", pod, 200, WORKER, at + 12)]
        self.logs[attempt, "run"] = StoredLog(LOG, (), complete=True)

    def went_on(self, action: str, **outcome: Any) -> None:
        self.ledger[self.attempt] = entry(self.submitted.job, self.attempt, action, **outcome)

    def never_began(self) -> None:
        self.attempt += 1
        self.went_on("mint", **LOST)

    def ended(self, status: str, action: str, **outcome: Any) -> "History":
        self.went_on(action, **outcome)
        registry = {"finished": "finished", "canceled": "canceled"}.get(status, "failed")
        ends = ({"status": status, "attempt": str(self.attempt)},)
        job = self.submitted.job
        self.record = JobRecord(job, status, self.attempt, self.ledger, ends, (registry,), self.logs)
        return self

    def evidence(self, *losses: Loss) -> Evidence:
        job = self.submitted.job
        return Evidence((self.submitted,), tuple(self.runs), tuple(self.writes), {job: self.record}, losses=losses)


def finished(attempts: int = 1) -> History:
    history = History()
    for _ in range(attempts - 1):
        history.ran(143)
        history.went_on("requeue", **EVICTED)
    history.ran(0)
    return history.ended("finished", "finish", **SUCCEEDED)


def failed(code: int = 3) -> History:
    history = History(exit_code=code)
    history.ran(code)
    return history.ended("failed", "fail", **own_fault(code))


def kinds(report: Report) -> list[str]:
    return [violation.kind.value for violation in report.violations]


# -- honest histories


@st.composite
def histories(draw: st.DrawFn, job: str = "a") -> History:
    code = draw(st.sampled_from([0, 0, 3]))
    end = draw(st.sampled_from(["by itself", "by itself", "platform", "stopped"]))
    history = History(job, exit_code=code, canceled=end == "stopped" or draw(st.booleans()))
    for why in draw(st.lists(st.sampled_from(["evicted", "lost", "own", "refused"]), max_size=5)):
        if why == "lost":
            history.never_began()
        elif why == "own" and code:
            history.ran(code, pause=draw(st.floats(0.0, 5.0)))
            history.went_on("requeue", **own_fault(code))
        elif why == "refused":  # waits for room in a row are one entry
            count = draw(st.integers(1, 4))
            history.attempt += count
            history.went_on("requeue", **LOST)
            history.ledger[history.attempt]["wait"] = {"count": count, "attempt": history.attempt}
        else:
            history.ran(143)
            history.went_on("requeue", **EVICTED)
    if end == "platform":
        history.ran(143)
        return history.ended("failed", "fail", **EVICTED)
    if end == "stopped":
        history.ran(143)
        return history.ended("stopped", "stop", **CANCELED)
    history.ran(code)
    if code:
        return history.ended("failed", "fail", **own_fault(code))
    return history.ended("finished", "finish", **SUCCEEDED)


@given(histories())
def test_honest_histories_pass(history: History) -> None:
    assert check(history.evidence()).violations == ()


@given(histories(), st.floats(0.0, 700.0), st.floats(0.0, 50.0))
def test_honest_histories_pass_whatever_redis_may_have_forgotten(history: History, since: float, lasts: float) -> None:
    report = check(history.evidence(Loss(since, since + lasts)))
    assert report.violations == ()
    assert report.statistics["repeated because Redis forgot"] == 0


def test_a_job_canceled_before_it_was_claimed_needs_no_attempt() -> None:
    history = History(canceled=True)
    history.record = JobRecord("a", "canceled", 0, registries=("canceled",))
    assert check(history.evidence()).violations == ()


def test_the_closing_line_counts_everything() -> None:
    evidence = replace(finished().evidence(), pods_left=("dp-x-1",), left_keys=("rq:wip:jobs",))
    report = check(evidence)
    assert report.closing_line(7, 8) == (
        "jobs 1, kills 7, faults 8, lost 0, doubled 0, false green 0, silent log gaps 0, left behind 2"
    )
    lines = report.lines(7, {"reset": 3, "delay": 5})
    assert lines[0] == "left behind: -: pod dp-x-1 is still there"
    assert {"fault delay: 5", "fault reset: 3"} <= set(lines)
    assert lines[-1] == report.closing_line(7, 8)


# -- each rule, broken by itself

Break = Callable[[History], None]


def record(**fields: Any) -> Break:
    def change(history: History) -> None:
        history.record = replace(history.record, **fields)

    return change


def run(number: int = -1, **fields: Any) -> Break:
    def change(history: History) -> None:
        history.runs[number] = replace(history.runs[number], **fields)

    return change


def outcome(attempt: int, **fields: Any) -> Break:
    def change(history: History) -> None:
        history.ledger[attempt]["outcome"] = history.ledger[attempt]["outcome"] | fields

    return change


def log(stored: StoredLog | None) -> Break:
    def change(history: History) -> None:
        del history.logs[history.attempt, "run"]
        if stored is not None:
            history.logs[history.attempt, "run"] = stored

    return change


def again(history: History) -> None:
    """The last pod is created once more, at once after its end."""
    history.writes.append(replace(history.writes[-2], at=history.writes[-1].at + 1))


def ran_twice(history: History) -> None:
    last = history.runs[-1]
    history.runs.append(replace(last, uid="other", started=last.started + 20, ended=(last.ended or 0) + 20))


def beyond(history: History) -> None:
    """A pod of an attempt that Redis does not know."""
    history.writes.append(PodWrite("create", names.pod_name("a", history.attempt + 1), 201, WORKER, 1000.0))


def zombie(history: History) -> None:
    """The first attempt goes on after the second was begun."""
    history.runs[0] = replace(history.runs[0], ended=PACE * 2 + WINDOW_S + 1)


def forget(attempt: int) -> Break:
    def change(history: History) -> None:
        del history.ledger[attempt]

    return change


def action(attempt: int, word: str) -> Break:
    def change(history: History) -> None:
        history.ledger[attempt]["action"] = word

    return change


END = {"status": "finished", "attempt": "2"}


@pytest.mark.parametrize(
    ("kind", "breaks"),
    [
        (Kind.LOST, [record(status=None)]),
        (Kind.LOST, [record(status="started")]),
        (Kind.LOST, [record(ends=())]),
        (Kind.LOST, [record(ends=(END, END))]),
        (Kind.LOST, [record(ends=({"status": "failed", "attempt": "2"},))]),
        (Kind.LOST, [record(ends=({"status": "finished", "attempt": "1"},))]),
        (Kind.LOST, [action(2, "requeue")]),
        (Kind.DOUBLED, [again]),
        (Kind.DOUBLED, [ran_twice]),
        (Kind.DOUBLED, [beyond]),
        (Kind.DOUBLED, [zombie]),
        (Kind.DOUBLED, [forget(1)]),
        (Kind.DOUBLED, [action(1, "finish")]),
        (Kind.FALSE_GREEN, [run(exit_code=1), outcome(2, exit_code=None)]),
        (Kind.FALSE_GREEN, [run(exit_code=None), outcome(2, exit_code=None)]),
        (Kind.FALSE_GREEN, [lambda history: history.ledger[2].update(pod="dp-other-2")]),
        (Kind.FALSE_GREEN, [outcome(2, verdict="failed")]),
        (Kind.FALSE_GREEN, [outcome(2, exit_code=5)]),
        (Kind.FALSE_GREEN, [outcome(1, fault="job")]),
        (Kind.FALSE_GREEN, [lambda history: setattr(history, "submitted", Submitted("a", poison=True))]),
        (Kind.LOG_GAP, [log(None)]),
        (Kind.LOG_GAP, [log(StoredLog(LOG, (), complete=False))]),
        (Kind.LOG_GAP, [log(StoredLog(LOG[:-1], (), complete=True))]),
        (Kind.LOG_GAP, [log(StoredLog(LOG + b"\n", (), complete=True))]),
        (Kind.LEFT_BEHIND, [record(registries=())]),
        (Kind.LEFT_BEHIND, [record(registries=("finished", "failed"))]),
        (Kind.LEFT_BEHIND, [record(registries=("finished", "queue"))]),
    ],
)
def test_each_lie_about_a_finished_job_is_caught_alone(kind: Kind, breaks: list[Break]) -> None:
    history = finished(attempts=2)
    assert check(history.evidence()).violations == ()
    for change in breaks:
        change(history)
    assert kinds(check(history.evidence())) == [kind]


@pytest.mark.parametrize(
    ("reason", "found"), [("ContainerStatusUnknown", []), ("Unknown", []), ("Error", ["false green"])]
)
def test_a_placeholder_for_the_exit_code_of_a_lost_container_is_no_claim(reason: str, found: list[str]) -> None:
    history = finished(attempts=2)
    placeholder = {"containers": {"run": {"reason": reason, "exit_code": 137}}}
    outcome(1, exit_code=None, evidence=placeholder)(history)
    assert kinds(check(history.evidence())) == found


@pytest.mark.parametrize(
    "breaks",
    [
        [run(exit_code=0), outcome(1, exit_code=None)],
        [run(exit_code=143), outcome(1, exit_code=143)],
        [lambda history: history.runs.clear(), lambda history: history.logs.clear()],
    ],
    ids=["it ended with 0", "somebody else ended it", "it never ran"],
)
def test_a_false_red_is_caught(breaks: list[Break]) -> None:
    history = failed()
    assert check(history.evidence()).violations == ()
    for change in breaks:
        change(history)
    assert kinds(check(history.evidence())) == ["false green"]


def test_the_exit_code_of_upload_is_not_taken_for_that_of_run() -> None:
    history = History()
    for code in (0, 143):  # what `run` ended with, and what the record says of it
        history.ran(0)
        evidence = {"containers": {"run": {"exit_code": code}, "upload": {"exit_code": 75}}}
        history.went_on(
            "requeue", verdict="failed", fault="platform", reason="gateway", exit_code=75, evidence=evidence
        )
    history.ran(0)
    history.ended("finished", "finish", **SUCCEEDED)
    (violation,) = check(history.evidence()).violations
    assert (violation.kind, violation.attempt) == (Kind.FALSE_GREEN, 2)


def test_a_job_that_nobody_asked_to_stop_is_not_stopped() -> None:
    history = History()
    history.ran(143)
    history.ended("stopped", "stop", **CANCELED)
    assert kinds(check(history.evidence())) == ["false green"]


def test_a_job_that_failed_though_its_attempt_succeeded_is_a_false_red() -> None:
    history = History()
    history.ran(0)
    history.ended("failed", "fail", **SUCCEEDED)
    assert kinds(check(history.evidence())) == ["false green"]


def test_a_log_that_nobody_wrote_or_that_stays_incomplete_is_caught() -> None:
    history = History()
    history.never_began()
    history.logs[1, "run"] = StoredLog(b"from nowhere\n", (), complete=True)
    history.ran(0)
    history.logs[2, "checkout"] = StoredLog(b"", (), complete=False)
    history.ended("finished", "finish", **SUCCEEDED)
    assert kinds(check(history.evidence())) == ["silent log gaps", "silent log gaps"]


def test_the_overlap_is_measured_and_allowed_within_the_window() -> None:
    history = finished(attempts=2)
    history.runs[0] = replace(history.runs[0], ended=history.runs[1].started + 2)
    report = check(history.evidence())
    assert (report.violations, report.largest_overlap) == ((), 2.0)
    assert kinds(check(history.evidence(), window=1.0)) == ["doubled"]


# -- artifacts

WHEEL = Artifact("wheel", "dist/a.whl", b"content")
STORED = ("wheel", "dist/a.whl")


def manifest(content: bytes = WHEEL.content, **fields: Any) -> dict[str, Any]:
    file = {"path": WHEEL.path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"reason": "ok", "artifacts": [{"name": "wheel", "result": "uploaded", "files": [file], **fields}]}


def green_with(stored: StoredArtifacts | None) -> Report:
    history = finished()
    history.submitted = replace(history.submitted, artifacts=(WHEEL,))
    record(artifacts=stored)(history)
    return check(history.evidence())


def test_artifacts_that_are_stored_as_the_manifest_says_are_proof() -> None:
    report = green_with(StoredArtifacts(manifest(), {STORED: WHEEL.content}))
    assert (report.violations, report.statistics["green with artifacts"]) == ((), 1)


@pytest.mark.parametrize(
    ("stored", "facts"),
    [
        (None, "its manifest is not in the store"),
        (StoredArtifacts(None), "its manifest is not in the store"),
        (StoredArtifacts(manifest(), {STORED: None}), "not in the store"),
        (StoredArtifacts(manifest(), {}), "not in the store"),
        (StoredArtifacts(manifest(files=[])), "does not name file 'dist/a.whl' of artifact 'wheel'"),
        (StoredArtifacts(manifest(b"other"), {STORED: b"other"}), "that the job did not write"),
        (StoredArtifacts(manifest(b"CONTENT"), {STORED: WHEEL.content}), "whose digest is not that of the manifest"),
        (StoredArtifacts(manifest(result="failed"), {STORED: WHEEL.content}), "itself says 'ok', of its artifacts"),
        (StoredArtifacts(manifest() | {"reason": "gateway"}, {STORED: WHEEL.content}), "itself says 'gateway'"),
    ],
)
def test_green_without_its_artifacts_is_false(stored: StoredArtifacts | None, facts: str) -> None:
    (violation,) = green_with(stored).violations
    assert violation.kind is Kind.FALSE_GREEN
    assert facts in violation.facts


def test_of_a_job_that_failed_no_artifacts_are_asked() -> None:
    history = failed()
    history.submitted = replace(history.submitted, artifacts=(WHEEL,))
    assert check(history.evidence()).violations == ()


# -- what Redis forgot


def test_a_repetition_is_excused_only_if_the_forgotten_write_lies_within_the_loss() -> None:
    history = finished()
    again(history)  # ran until 111, deleted at 112, created again at 113
    excused = check(history.evidence(Loss(110.5, 111.5)))
    assert (excused.violations, excused.statistics["repeated because Redis forgot"]) == ((), 1)
    assert check(history.evidence(Loss(95.0, 96.0))).violations == ()  # its claim was forgotten
    for loss in (Loss(102.0, 110.0), Loss(112.5, 112.9), Loss(113.5, 120.0), Loss(10.0, 80.0)):
        report = check(history.evidence(loss))
        assert (kinds(report), report.statistics["repeated because Redis forgot"]) == (["doubled"], 0)


def test_a_strangers_deletion_does_not_narrow_the_time_of_the_record() -> None:
    history = finished()
    again(history)
    history.writes[1] = replace(history.writes[1], user_agent=STRANGER)
    assert check(history.evidence(Loss(112.5, 112.9))).violations == ()


def test_an_attempt_that_redis_does_not_know_is_excused_only_by_a_loss_of_its_claim() -> None:
    history = finished()
    beyond(history)  # created at 1000
    assert check(history.evidence(Loss(995.0, 1001.0))).violations == ()
    assert kinds(check(history.evidence(Loss(1001.0, 1002.0)))) == ["doubled"]


def test_a_job_that_only_the_lost_primary_knew_is_counted_apart() -> None:
    history = History()
    history.submitted = Submitted("a", at=50.0)
    lost = check(history.evidence(Loss(60.0, 61.0)))
    assert kinds(lost) == ["lost"]
    forgotten = check(history.evidence(Loss(49.0, 51.0)))
    assert forgotten.violations == ()
    assert forgotten.statistics["jobs that only the lost primary knew"] == 1


def test_a_log_cut_by_a_loss_is_counted_apart_and_one_with_other_bytes_is_not_excused() -> None:
    history = finished()
    log(StoredLog(LOG[:5], (), complete=False))(history)
    assert kinds(check(history.evidence())) == ["silent log gaps"]
    report = check(history.evidence(Loss(105.0, 106.0)))
    assert (report.violations, report.statistics["logs cut because Redis forgot"]) == ((), 1)
    log(StoredLog(b"other", (), complete=False))(history)
    assert kinds(check(history.evidence(Loss(105.0, 106.0)))) == ["silent log gaps"]


# -- one log


@pytest.mark.parametrize(
    ("content", "gaps", "complete"),
    [
        (b"abcdef", (), True),
        (b"cdef", (0,), True),
        (b"abc", (3,), True),
        (b"abc", (3,), False),
        (b"abef", (2,), True),
        (b"bd", (0, 1, 2), False),
        (b"", (0,), False),
        (b"abcdef", (2, 2), True),
    ],
)
def test_a_log_is_whole_or_its_holes_are_declared(content: bytes, gaps: tuple[int, ...], *, complete: bool) -> None:
    stored = StoredLog(content, tuple((offset, "why") for offset in gaps), complete)
    assert silent_loss(stored, b"abcdef") == ""


@pytest.mark.parametrize(
    ("content", "gaps", "complete"),
    [
        (b"abcdef", (), False),  # perhaps there was more
        (b"abcde", (), True),
        (b"bcdef", (), True),
        (b"abef", (3,), True),  # declared at another place
        (b"abcdefa", (6,), True),
        (b"efab", (0, 2), True),  # in another order
        (b"ababcdef", (2,), True),  # stored twice
        (b"axef", (2,), True),
        (b"ab", (0,), True),  # the end is missing, not the beginning
    ],
)
def test_a_silent_hole_is_found(content: bytes, gaps: tuple[int, ...], *, complete: bool) -> None:
    stored = StoredLog(content, tuple((offset, "why") for offset in gaps), complete)
    assert silent_loss(stored, b"abcdef") != ""


@given(pieces=st.lists(st.tuples(st.binary(max_size=4), st.booleans()), max_size=8), cut=st.booleans())
def test_whatever_is_declared_at_its_place_is_no_silent_hole(pieces: list[tuple[bytes, bool]], *, cut: bool) -> None:
    """Drop any pieces of a log and say so where they were."""
    content, gaps = b"", list[tuple[int, str]]()
    for piece, kept in pieces:
        if kept:
            content += piece
        else:
            gaps.append((len(content), "dropped"))
    if cut:
        gaps.append((len(content), "the end could not be confirmed"))
    stored = StoredLog(content, tuple(gaps), complete=not cut)
    assert silent_loss(stored, b"".join(piece for piece, _ in pieces)) == ""


@given(st.binary(min_size=1, max_size=20), st.data())
def test_a_dropped_byte_is_always_noticed_unless_declared(written: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(written) - 1))
    stored = StoredLog(written[:at] + written[at + 1 :], (), complete=True)
    assert silent_loss(stored, written) != ""
    assert silent_loss(replace(stored, gaps=((at, "why"),)), written) == ""


ONE, TWO = (b"one.", None), (b"two.", None)


@pytest.mark.parametrize(
    ("content", "gaps"),
    [
        (b"two.", ()),  # the log of either
        (b"one.", ()),
        (b"one.two.", (4,)),  # a border between them
        (b"two.one.", (4,)),
        (b"ontwo.", (2,)),  # of the first, what was read of it
        (b"ontwo", (2, 5)),
        (b"onto.", (2, 3)),
    ],
)
def test_of_two_pods_of_an_attempt_the_log_is_of_one_or_of_both_with_a_border(
    content: bytes, gaps: tuple[int, ...]
) -> None:
    stored = StoredLog(content, tuple((offset, "why") for offset in gaps), complete=True)
    assert silent_loss_of_several(stored, [ONE, TWO]) == ""


@pytest.mark.parametrize(
    ("content", "gaps"),
    [
        (b"one.two.", ()),  # no border
        (b"one.two.", (3,)),  # elsewhere
        (b"onwo.", (2,)),  # of the second, the beginning is missing
        (b"ontwo", (2,)),  # or the end
        (b"three.", ()),
        (b"one.three.", (4,)),
    ],
)
def test_between_two_pods_of_an_attempt_nothing_is_lost_in_silence(content: bytes, gaps: tuple[int, ...]) -> None:
    stored = StoredLog(content, tuple((offset, "why") for offset in gaps), complete=True)
    assert silent_loss_of_several(stored, [ONE, TWO])
    assert silent_loss_of_several(None, [ONE, TWO])

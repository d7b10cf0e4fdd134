"""Whose pod is it, and what follows: the rules one by one. `tests/model` explores what they lead to together."""

import copy
from typing import Any

import pytest

from runner_spec import anatomy
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.ownership import (
    End,
    Fate,
    Lookup,
    Meeting,
    Record,
    Sight,
    Start,
    after_commit,
    after_lookup,
    after_silence,
    first_step,
    is_pod_of,
    meet,
    on_sight,
    orphan_fate,
    work_of,
)
from runner_spec.render import Attempt, render
from tests.runner_spec.descriptions import whole
from tests.runner_spec.pods import POLICY

Json = dict[str, Any]


def pod(worker: str = "w1", job: str = "job-1", attempt: int = 1, **description: Any) -> Json:
    return render(admit(parse_description({**whole(), **description}), POLICY), Attempt(job, attempt, worker))


def changed(found: Json, **metadata: Any) -> Json:
    return {**found, "metadata": {**found["metadata"], **metadata}}


def test_only_the_claim_that_minted_an_attempt_creates_its_pod() -> None:
    assert (first_step(adopted=False), first_step(adopted=True)) == (Start.CREATE, Start.FIND)
    assert (after_lookup(found=True), after_lookup(found=False)) == (Lookup.FOLLOW, Lookup.MINT)


def test_a_creation_is_sent_again_only_when_it_has_certainly_had_no_effect() -> None:
    assert (after_silence(may_exist=True), after_silence(may_exist=False)) == (Start.FIND, Start.CREATE)


def test_a_pod_of_an_earlier_life_of_the_id_is_not_that_of_an_attempt_whose_work_is_known() -> None:
    ours, earlier = pod()["metadata"], pod(steps=[{"run": "make something else"}])["metadata"]
    assert is_pod_of(earlier, "job-1", 1)
    assert not is_pod_of(earlier, "job-1", 1, work=work_of(ours))
    assert is_pod_of(ours, "job-1", 1, work=work_of(ours))


def test_a_pod_is_deleted_after_its_record_and_never_for_a_refused_one() -> None:
    assert (after_commit(recorded=True), after_commit(recorded=False)) == (End.DELETE, End.LEAVE)


def test_our_own_pod_whose_creation_was_not_answered_is_followed_though_a_webhook_has_changed_it() -> None:
    ours = pod()
    theirs = copy.deepcopy(ours)
    theirs["metadata"]["labels"]["mesh"] = "on"
    theirs["spec"]["containers"][0]["image"] = "mirror.example/" + theirs["spec"]["containers"][0]["image"]
    assert meet(theirs, ours) is Meeting.FOLLOW
    assert meet(changed(theirs, deletionTimestamp="2026-01-01T00:00:00Z"), ours) is Meeting.FOLLOW


def test_another_workers_pod_for_the_same_attempt_and_work_is_taken_over() -> None:
    assert meet(pod("w2"), pod("w1")) is Meeting.FOLLOW


def test_another_workers_pod_that_is_about_to_go_is_waited_for() -> None:
    assert meet(changed(pod("w2"), deletionTimestamp="2026-01-01T00:00:00Z"), pod("w1")) is Meeting.WAIT


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(pod("w2", job="job-2", env={"A": "1"}), id="another job"),
        pytest.param(pod("w2", attempt=2, env={"A": "1"}), id="another attempt"),
        pytest.param(pod("w2", steps=[{"run": "other"}], env={"A": "1"}), id="other steps"),
        pytest.param(pod("w2", image="other", env={"A": "1"}), id="another image"),
        pytest.param(pod("w2", env={"A": "2"}), id="another environment"),
        pytest.param(pod("w1", steps=[{"run": "other"}], env={"A": "1"}), id="our own of the id's earlier life"),
        pytest.param({"metadata": {"name": "x"}}, id="no labels at all"),
        pytest.param(changed(pod("w1"), annotations={}), id="own labels without the job's id"),
        pytest.param(
            changed(pod("w1"), labels={**pod("w1")["metadata"]["labels"], anatomy.LABEL_MANAGED_BY: "me"}),
            id="not managed by us",
        ),
    ],
)
def test_a_pod_that_only_has_the_name_is_refused(theirs: Json) -> None:
    assert meet(theirs, pod("w1", env={"A": "1"})) is Meeting.REFUSE


def test_a_pod_is_known_by_the_exact_id_of_its_job() -> None:
    found = pod(job="job\udc80")["metadata"]
    assert is_pod_of(found, "job\udc80", 1)
    assert not is_pod_of(found, "job", 1)
    assert not is_pod_of(found, "job\udc80", 2)
    assert not is_pod_of({**found, "labels": {}}, "job\udc80", 1)
    assert not is_pod_of({"name": "x"}, "job", 1)


def test_who_creates_a_pod_believes_in_anothers_only_when_told_that_it_does_the_same() -> None:
    found = pod("w2")["metadata"]
    assert on_sight(found, "job-1", 1, creating=("w1", work_of(found))) is Sight.IGNORE
    assert on_sight(found, "job-1", 1, creating=("w2", work_of(found))) is Sight.FOLLOW
    assert on_sight(found, "job-1", 1, creating=("w2", "of its later life")) is Sight.IGNORE
    assert on_sight(found, "job-1", 1, creating=None) is Sight.FOLLOW
    assert on_sight(found, "job-2", 1, creating=None) is Sight.ORPHAN


def record(status: str = "started", newest: int = 3, *recorded: int, exists: bool = True) -> Record:
    return Record(exists, status, newest, frozenset(recorded))


@pytest.mark.parametrize(
    ("attempt", "known", "fate"),
    [
        pytest.param(3, record(), Fate.KEEP, id="the newest"),
        pytest.param(3, record("queued"), Fate.KEEP, id="the newest, whose job was enqueued again"),
        pytest.param(3, record("started", 3, 3), Fate.DELETE, id="recorded"),
        pytest.param(2, record(), Fate.DELETE, id="superseded"),
        pytest.param(3, record("", 0, exists=False), Fate.DELETE, id="the job was deleted"),
        pytest.param(4, record("queued"), Fate.KEEP, id="a forgotten claim, which will be made again"),
        pytest.param(1, record("queued", 0), Fate.KEEP, id="a forgotten first claim"),
        pytest.param(4, record("scheduled"), Fate.KEEP, id="a forgotten claim of a job that waits"),
        pytest.param(4, record("started"), Fate.ASK, id="a forgotten mint"),
        pytest.param(4, record("finished"), Fate.DELETE, id="a forgotten claim of a job that has ended"),
        pytest.param(4, record("canceled"), Fate.DELETE, id="a forgotten claim of a canceled job"),
        pytest.param(5, record("queued"), Fate.DELETE, id="further than the next claim"),
    ],
)
def test_an_orphan_is_deleted_only_when_nobody_will_find_it(attempt: int, known: Record, fate: Fate) -> None:
    assert orphan_fate(attempt, known) is fate

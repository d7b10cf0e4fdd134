"""What is made of the audit log, of the pods' own words and of the kubelet's, before the checker sees it."""

import json
from typing import Any

from tests.chaos.log_rule import silent_loss
from tests.chaos.records import JobRecord, PodWrite, Run, StoredLog
from tests.chaos.scripted_log import log_content
from tests.chaos_cluster.collector import Sign
from tests.chaos_cluster.evidence import fake_runs, pod_writes, real_runs, with_seen, without_shim
from tests.chaos_cluster.pod_history import SeenPod, note_run
from tests.chaos_cluster.tasks import script

JOBS = frozenset({"jobs"})
AT = "2026-01-02T03:04:05.500000Z"
UNIX = 1767323045.5


def entry(verb: str, agent: str = "dynapod/1", *, uri: str = "/api/v1/namespaces/jobs/pods", **subject: Any) -> str:
    return json.dumps(
        {
            "verb": verb,
            "requestURI": uri,
            "userAgent": agent,
            "objectRef": {"resource": "pods", "namespace": "jobs", "name": "p-1", **subject},
            "responseStatus": {"code": 201 if verb == "create" else 200},
            "stageTimestamp": AT,
        }
    )


def seen(uid: str = "u", **facts: Any) -> SeenPod:
    return SeenPod("p-1", "/api/v1/namespaces/jobs/pods/p-1", uid, "job", 1, 10.0, **facts)


def record(content: bytes, *, gaps: tuple[tuple[int, str], ...] = (), complete: bool = True) -> JobRecord:
    return JobRecord("job", "finished", 1, logs={(1, "run"): StoredLog(content, gaps, complete)})


def cleaned(content: bytes, **more: Any) -> StoredLog:
    return without_shim(record(content, **more)).logs[1, "run"]


def test_creations_and_deletions_of_our_pods_are_read_and_nothing_else() -> None:
    lines = [
        entry("create"),
        entry("delete"),
        entry("delete", "kubelet/v1.34"),
        entry("create", uri="/api/v1/namespaces/jobs/pods?dryRun=All"),
        entry("create", subresource="eviction"),
        entry("create", namespace="others"),
        entry("deletecollection"),
        entry("create")[:-20],
    ]
    assert list(pod_writes(lines, JOBS)) == [
        PodWrite("create", "p-1", 201, "dynapod/1", UNIX),
        PodWrite("delete", "p-1", 200, "dynapod/1", UNIX),
        PodWrite("delete", "p-1", 200, "kubectl", UNIX),
    ]


def test_a_creation_that_no_audit_log_has_is_added_once_for_each_pod_that_was_seen() -> None:
    known = PodWrite("create", "p-1", 201, "dynapod/1", 9.0)
    writes, added = with_seen([known], [seen("u1"), seen("u2")])
    assert added == 1
    assert [write.pod for write in writes if (write.verb, write.code) == ("create", 201)] == ["p-1", "p-1"]
    assert with_seen([known], [seen("u1")]) == ((known,), 0)


def test_the_kubelets_word_on_an_exit_code_outweighs_the_pods_intention() -> None:
    run = Run("job", 1, "p-1", "r", "run", 1.0, 2.0, 0, b"")
    (found,) = real_runs([run], {"r": Sign(2.0, 0, 0)}, [seen(exit_code=137)])
    assert (found.exit_code, found.ended) == (137, 2.0)
    (found,) = real_runs([run], {"r": Sign(2.0, 0, 0)}, [seen()])
    assert found.exit_code == 0


def test_of_two_pods_of_one_name_nobody_knows_whose_the_kubelets_word_is() -> None:
    run = Run("job", 1, "p-1", "r", "run", 1.0, 2.0, 0, b"")
    (found,) = real_runs([run], {"r": Sign(2.0, 0, 0)}, [seen("u1", exit_code=137), seen("u2")])
    assert found.exit_code == 0


def test_a_pod_that_was_killed_has_written_what_it_had_told_at_least() -> None:
    whole = log_content("r", "run", 30)
    (run,) = real_runs([Run("job", 1, "p-1", "r", "run", 1.0)], {"r": Sign(4.0, len(whole) // 2, 30)}, [])
    assert (run.ended, run.seen, run.log, run.log_at_least) == (None, 4.0, whole, len(whole) // 2)


def test_the_log_of_a_killed_pod_may_end_anywhere_after_what_it_had_told() -> None:
    whole = b"".join(b"line %d\n" % number for number in range(10))
    assert silent_loss(StoredLog(whole[:40], (), complete=True), whole, at_least=40) == ""
    assert silent_loss(StoredLog(whole, (), complete=True), whole, at_least=40) == ""
    assert silent_loss(StoredLog(whole[:40], (), complete=True), whole, at_least=41)
    assert silent_loss(StoredLog(whole[:14] + whole[21:40], (), complete=True), whole, at_least=30)
    assert silent_loss(StoredLog(whole[:14] + whole[21:40], ((14, "gap"),), complete=True), whole, at_least=40) == ""
    assert silent_loss(StoredLog(whole[:14], ((14, "gone"),), complete=True), whole, at_least=60) == ""
    assert silent_loss(None, whole, at_least=0) == ""
    assert silent_loss(None, whole, at_least=1)


def test_lines_of_the_shim_are_not_the_jobs() -> None:
    log = cleaned(b"[dynapod] step run\none\n\ntwo\n[dynapod] step run: exit 0 after 1.00 s\n")
    assert log == StoredLog(b"one\n\ntwo\n", (), complete=True)


def test_the_shim_goes_on_in_a_last_line_without_its_newline() -> None:
    assert cleaned(b"one\ntwo[dynapod] step run: exit 0 after 1.00 s\n").content == b"one\ntwo"


def test_gaps_stay_at_their_place_among_the_jobs_own_lines() -> None:
    content = b"[dynapod] step run\none\n[dyna" + b"two\n"
    log = cleaned(content, gaps=((len(content) - 4, "lost"), (len(content), "gone")), complete=False)
    assert log == StoredLog(b"one\ntwo\n", ((4, "lost"), (8, "gone")), complete=False)


def test_other_containers_logs_are_left_alone() -> None:
    kept = StoredLog(b"[dynapod] hello\n", (), complete=True)
    assert without_shim(JobRecord("job", "finished", 1, logs={(1, "checkout"): kept})).logs[1, "checkout"] == kept


def test_what_a_status_says_of_run_is_kept() -> None:
    pod = seen()
    running = {"name": "run", "state": {"running": {"startedAt": AT}}}
    note_run(pod, [{"name": "db", "state": {"terminated": {"exitCode": 3}}}, running])
    assert (pod.started, pod.ended, pod.exit_code) == (UNIX, None, None)
    note_run(pod, [{"name": "run", "state": {"terminated": {"exitCode": 7, "startedAt": AT, "finishedAt": AT}}}])
    assert (pod.started, pod.ended, pod.exit_code) == (UNIX, UNIX, 7)


def test_a_fake_pod_that_never_ran_has_no_run_and_one_that_was_killed_no_end() -> None:
    ended, killed = seen("u2", ended=12.0, exit_code=0), seen("u3", started=11.0)
    first, second = fake_runs([seen("u1"), ended, killed])
    assert (first.uid, first.started, first.ended, first.exit_code) == ("u2", 12.0, 12.0, 0)
    assert (second.uid, second.started, second.ended, second.exit_code) == ("u3", 11.0, None, None)


def test_the_pods_program_comes_with_the_job() -> None:
    text = script()
    assert "def log_lines(" in text
    assert "class Program" in text
    assert len(text.encode()) < 100_000

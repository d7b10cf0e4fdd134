import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec import anatomy
from runner_spec.classify import classify
from runner_spec.outcome import Fault, Outcome, Verdict
from runner_spec.report import (
    SECONDS_LIMIT,
    ArtifactReport,
    CacheReport,
    CheckoutReport,
    FileReport,
    JUnitReport,
    RunReport,
    StepReport,
    UploadReport,
    to_json,
)
from runner_spec.result import (
    FILES_LIMIT,
    LAST_WORD_CHARACTERS,
    TEXT_CHARACTERS,
    job_result,
    suspects,
    with_last_words,
)
from tests.runner_spec import pods
from tests.runner_spec.descriptions import whole
from tests.runner_spec.pods import Json

SUCCEEDED = Outcome(Verdict.SUCCEEDED, Fault.NONE, "ok", "all steps succeeded", 0)


def reported() -> Json:
    pod = pods.over(
        message=to_json(RunReport("ok", (StepReport("test", 0, 27.5), StepReport("report", 1, 0.5, after=True))))
    )
    checkout = CheckoutReport("ok", "", "c0ffee", 6.5, (CacheReport("pip-1", "hit", 1000, 0.5),))
    pods.ends(pod, "checkout", 0, 3, 10, message=to_json(checkout))
    junit = JUnitReport(3, 1, 0, 1, 2.5, ("tests.test_a::test_b",))
    artifacts = (ArtifactReport("junit", "uploaded", 1, 99, (FileReport("junit.xml", 99, "ab" * 32),), junit),)
    pods.ends(
        pod,
        "upload",
        0,
        11,
        45,
        message=to_json(UploadReport("ok", "", 4.0, artifacts, (CacheReport("pip-1", "unchanged"),))),
    )
    return pod


def test_a_result_tells_what_happened_and_how_long_it_took() -> None:
    pod = reported()
    outcome = classify(pod, pods.START + 50.0)
    assert isinstance(outcome, Outcome)
    result = job_result(outcome, 2, pod)
    assert (result["verdict"], result["reason"], result["exit_code"], result["attempt"]) == ("succeeded", "ok", 0, 2)
    assert (result["commit"], result["node"], result["pod"]) == ("c0ffee", "node-7", pod["metadata"]["name"])
    assert result["timings"] == {"waiting": 2.0, "checkout": 7.0, "run": 28.0, "upload": 34.0, "total": 46.0}
    assert [stage["name"] for stage in result["stages"]] == ["db", "checkout", "upload", "run"]
    assert result["steps"] == [
        {"name": "test", "exit_code": 0, "seconds": 27.5, "after": False},
        {"name": "report", "exit_code": 1, "seconds": 0.5, "after": True},
    ]
    assert result["artifacts"][0]["junit"]["failed"] == ["tests.test_a::test_b"]
    assert result["artifacts"][0]["files"] == [{"path": "junit.xml", "size": 99, "sha256": "ab" * 32}]
    assert [(cache["key"], cache["result"]) for cache in result["caches"]] == [("pip-1", "hit"), ("pip-1", "unchanged")]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(("reason", "shown"), [("ContainerStatusUnknown", None), ("Unknown", None), ("Error", 137)])
def test_the_exit_code_of_a_container_that_its_node_has_lost_is_not_shown(reason: str, shown: int | None) -> None:
    pod = pods.over(137, reason=reason)
    outcome = classify(pod, pods.START + 50.0)
    assert isinstance(outcome, Outcome)
    codes = {stage["name"]: stage["exit_code"] for stage in job_result(outcome, 1, pod)["stages"]}
    assert codes == {"db": 143, "checkout": 0, "upload": 0, "run": shown}


def test_without_a_pod_the_outcome_is_the_result() -> None:
    rejected = Outcome(Verdict.REJECTED, Fault.JOB, "description", "2 problems")
    result = job_result(rejected, 1)
    assert (result["verdict"], result["pod"], result["stages"], result["timings"]) == ("rejected", "", [], {})


def failed_for_a_service(name: str = "db") -> Outcome:
    message = f"service {name!r} is not ready on port 5432 within 3 s: Connection refused. See its log"
    return Outcome(Verdict.FAILED, Fault.JOB, "service", message, 1)


def test_a_service_that_crashed_is_in_the_result_with_its_last_lines() -> None:
    pod = pods.restarted(pods.over(1), "db", 2, pods.terminated(137, 2, 20, reason="OOMKilled"))
    outcome = classify(pod, pods.START + 50.0)
    assert isinstance(outcome, Outcome)
    assert suspects(outcome, pod) == ("db",)
    assert job_result(outcome, 1, pod, {"db": ["starting\x07", "bye"]})["services"] == [
        {
            "name": "db",
            "crashed": True,
            "exit_code": 137,
            "restarts": 2,
            "reason": "oom",
            "lines": ["starting", "bye"],
        }
    ]


def test_a_service_that_the_kubelet_stopped_is_no_suspect() -> None:
    pod = pods.over(1)
    outcome = classify(pod, pods.START + 50.0)
    assert isinstance(outcome, Outcome)
    assert suspects(outcome, pod) == ()
    assert job_result(outcome, 1, pod)["services"] == []


def test_a_service_that_never_became_ready_is_a_suspect_though_it_did_not_crash() -> None:
    pod = pods.failed_checkout(1)
    assert suspects(failed_for_a_service(), pod) == ("db",)
    assert suspects(failed_for_a_service("other"), pod) == ()
    [service] = job_result(failed_for_a_service(), 1, pod, {"db": ["starting"]})["services"]
    assert (service["crashed"], service["lines"]) == (False, ["starting"])


def test_the_message_has_the_last_line_of_the_service_that_it_is_about() -> None:
    outcome = with_last_words(failed_for_a_service(), {"db": ["starting", "FATAL:\n no password"]})
    assert outcome.message.endswith("See its log; last line of db: FATAL: no password")
    assert with_last_words(failed_for_a_service(), {"db": []}) == failed_for_a_service()
    other = Outcome(Verdict.FAILED, Fault.JOB, "exit", "step a ended with exit code 1", 1)
    assert with_last_words(other, {"db": ["x"]}) == other


def two_services() -> Json:
    """`db` restarted before the failure, `cache` ended with the pod."""
    service = {"name": "cache", "image": "redis", "ready": {"tcp": 6379}}
    pod = pods.bound(pods.new_pod({**whole(), "services": [*whole()["services"], service]}))
    pods.ends(pod, "cache", 143, 2, 12)
    pods.restarted(pods.ends(pod, "db", 143, 2, 12), "db", 1, pods.terminated(7, 2, 5))
    pods.ends(pod, "checkout", 1, 3, 10)
    pod["status"]["phase"] = "Failed"
    return pod


def test_suspects_are_the_service_that_the_failure_is_about_and_then_those_that_crashed() -> None:
    assert suspects(failed_for_a_service("cache"), two_services()) == ("cache", "db")
    assert suspects(failed_for_a_service("db"), two_services()) == ("db",)
    other = Outcome(Verdict.FAILED, Fault.JOB, "ref-not-found", "service cache is not what this is about", 1)
    assert suspects(other, two_services()) == ("db",)


def test_services_are_told_in_the_order_of_the_pod_and_no_other_is() -> None:
    words = {"cache": ["full"], "stranger": ["hello"], "db": ["x" * 1000]}
    told = job_result(failed_for_a_service("cache"), 1, two_services(), words)["services"]
    assert [(service["name"], service["crashed"], service["exit_code"]) for service in told] == [
        ("db", True, 7),
        ("cache", False, None),
    ]
    assert len(told[0]["lines"][0]) == TEXT_CHARACTERS


def test_the_last_words_of_several_services_are_told_and_shortened() -> None:
    outcome = with_last_words(failed_for_a_service(), {"db": ["x" * 1000], "mute": [], "cache": ["full"]})
    said = outcome.message.removeprefix(failed_for_a_service().message)
    assert said == f"; last line of db: {'x' * (LAST_WORD_CHARACTERS - 1)}…; of cache: full"


def test_a_message_longer_than_the_kubelet_keeps_is_not_read() -> None:
    report = to_json(RunReport("ok", (StepReport("test", 0, 1.0),)))
    limit = anatomy.TERMINATION_MESSAGE_LIMIT_BYTES
    assert job_result(SUCCEEDED, 1, pods.over(message=report.ljust(limit)))["steps"]
    assert job_result(SUCCEEDED, 1, pods.over(message=report.ljust(limit + 1)))["steps"] == []


def test_of_an_artifacts_files_the_first_are_named_and_all_are_counted() -> None:
    files = tuple(FileReport(f"f{number}", 1, "ab") for number in range(FILES_LIMIT + 5))
    report = UploadReport("ok", artifacts=(ArtifactReport("many", "uploaded", len(files), len(files), files),))
    pod = pods.over()
    pods.ends(pod, "upload", 0, 11, 45, message=to_json(report))
    (artifact,) = job_result(SUCCEEDED, 1, pod)["artifacts"]
    assert (artifact["count"], [file["path"] for file in artifact["files"]]) == (
        FILES_LIMIT + 5,
        [f"f{number}" for number in range(FILES_LIMIT)],
    )


def test_clocks_that_disagree_make_no_negative_times() -> None:
    pod = pods.over()
    pod["metadata"]["creationTimestamp"] = pods.at(5)  # the API server's clock; the rest is the node's
    assert job_result(SUCCEEDED, 1, pod)["timings"]["waiting"] == 0.0


FORGED = st.one_of(
    st.text(st.characters(), max_size=50),
    st.sampled_from(
        [
            '{"reason": "ok", "steps": [{"name": "\\ud800", "exit": 0, "seconds": NaN}]}',
            '{"reason": "ok", "steps": [{"name": "a", "exit": 1e999, "seconds": 1}]}',
            '{"reason": "ok", "steps": [{"name": "a", "exit": 0, "seconds": 1e999}]}',
            '{"reason": "ok", "steps": [' + ",".join(['{"name":"a","exit":0}'] * 150) + "]}",
            '{"reason": "ok", "steps": [{"name": "a", "exit": ' + "9" * 4000 + "}]}",
            '{"artifacts": [{"name": "a", "result": 3, "junit": {"tests": 1, "failed": "' + "x" * 3000 + '"}}]}',
            '{"reason": "ok", "caches": [' + ",".join(['{"key":"\\u0000"}'] * 200) + "]}",
            "[" * 4000,
            "x" * 100_000,
        ]
    ),
)


@given(FORGED)
def test_a_forged_report_changes_no_verdict_and_breaks_no_json(message: str) -> None:
    pod = pods.over(3, message=message)
    for name in ("checkout", "upload"):
        pods.status_of(pod, name)["state"]["terminated"]["message"] = message
    outcome = classify(pod, pods.START + 50.0)
    assert isinstance(outcome, Outcome)
    assert (outcome.verdict, outcome.exit_code) == (Verdict.FAILED, 3)
    text = json.dumps(job_result(outcome, 1, pod), allow_nan=False, ensure_ascii=False)
    assert len(text.encode()) < 131_072


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.dictionaries(st.sampled_from(["status", "spec", "metadata", "name"]), inner),
    )
)
def test_junk_makes_no_exception(pod: object) -> None:
    assert job_result(SUCCEEDED, 1, pod if isinstance(pod, dict) else {})["verdict"] == "succeeded"


def test_a_forged_time_is_no_longer_than_a_job_can_be() -> None:
    steps = ",".join(f'{{"name": "a", "exit": 0, "seconds": {seconds}}}' for seconds in ("1e308", "-5", "NaN", "1e999"))
    pod = pods.over(message=f'{{"reason": "ok", "steps": [{steps}]}}')
    seconds = [step["seconds"] for step in job_result(SUCCEEDED, 1, pod)["steps"]]
    assert seconds == [SECONDS_LIMIT, 0.0, 0.0, SECONDS_LIMIT]


def test_a_container_that_ended_before_it_started_took_no_time() -> None:
    pod = pods.over()
    pods.ends(pod, "run", 0, 40, 12)
    result = job_result(SUCCEEDED, 1, pod)
    assert result["timings"]["run"] == 0.0
    assert {stage["name"]: stage["seconds"] for stage in result["stages"]}["run"] == 0.0

import hashlib
import os
import select
import signal
import time
from pathlib import Path

import pytest

from runner_spec.plan import ArtifactPlan, CachePlan
from tests.runner.gateway_server import GatewayServer
from tests.runner.pod import Pod

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="s" tests="99">
<testcase classname="pkg.Test" name="ok" time="0.5"/>
<testcase classname="pkg.Test" name="bad" time="1.25"><failure message="m">text</failure></testcase>
<testcase classname="pkg.Test" name="broken"><error/></testcase>
<testcase classname="pkg.Test" name="later"><skipped/></testcase>
</testsuite></testsuites>"""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_artifacts_are_stored_with_digests_and_listed_in_the_manifest(pod: Pod, gateway: GatewayServer) -> None:
    big = os.urandom(1_000_000)
    pod.write({"dist/a.whl": big, "dist/sub/\u00e4 b%?#.txt": "x", "dist/.hidden": "", "src/x": "1"})
    pod.plan(artifacts=(ArtifactPlan("wheel", ("dist", "!**/*.log")),))
    result = pod.upload()
    assert (result.code, result.upload.reason) == (0, "ok"), result.output
    (artifact,) = result.upload.artifacts
    assert (artifact.result, artifact.count, artifact.size) == ("uploaded", 3, 1_000_001)
    assert {file.path: (file.size, file.sha256) for file in artifact.files} == {
        "dist/.hidden": (0, digest(b"")),
        "dist/a.whl": (1_000_000, digest(big)),
        "dist/sub/\u00e4 b%?#.txt": (1, digest(b"x")),
    }
    assert gateway.content("wheel/dist/a.whl") == big
    assert gateway.content("wheel/dist/sub/\u00e4 b%?#.txt") == b"x"
    assert [file["path"] for file in gateway.manifests[0]["artifacts"][0]["files"]] == [f.path for f in artifact.files]
    assert set(gateway.tokens) == {"Bearer the-token"}


@pytest.mark.parametrize("name", ["gateway.example:8080", ""])
def test_a_gateway_that_is_reached_by_its_address_is_called_by_its_name(
    pod: Pod, gateway: GatewayServer, name: str
) -> None:
    """Routing by name (an Ingress) has nothing but the Host header to go by; HTTP allows one only."""
    pod.variables["DYNAPOD_GATEWAY_NAME"] = name
    pod.write({"a": "1"})
    pod.plan(artifacts=(ArtifactPlan("a", ("a",)),), caches=(CachePlan("k", ("a",)),))
    assert pod.upload().code == 0
    assert {request.split()[0] for request in gateway.requests} == {"HEAD", "PUT"}
    address = gateway.url.removeprefix("http://")
    assert gateway.hosts == [[name or address]] * len(gateway.requests)


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (0, {"s": "uploaded", "f": "skipped", "a": "uploaded"}),
        (3, {"s": "skipped", "f": "uploaded", "a": "uploaded"}),
        (None, {"s": "skipped", "f": "uploaded", "a": "uploaded"}),
    ],
)
def test_when_decides_by_the_end_of_the_run(pod: Pod, exit_code: int | None, expected: dict[str, str]) -> None:
    pod.write({"x": "1"})
    pod.plan(
        artifacts=(
            ArtifactPlan("s", ("x",), when="success"),
            ArtifactPlan("f", ("x",), when="failure"),
            ArtifactPlan("a", ("x",), when="always"),
        )
    )
    result = pod.upload(exit_code)
    # Not 0 where it leaves out what a success stores: were `run` green after all, its artifacts would be missing.
    assert (result.code, result.upload.reason) == ((0, "ok") if exit_code == 0 else (1, "run-failed"))
    assert {artifact.name: artifact.result for artifact in result.upload.artifacts} == expected


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "huge"])
def test_an_exit_code_that_is_no_file_of_the_shims_is_none(pod: Pod, kind: str) -> None:
    """A job can put anything there: it is not waited for, nor followed, nor read into memory."""
    pod.write({"x": "1"})
    pod.plan(artifacts=(ArtifactPlan("s", ("x",)),))
    place = pod.environment.state / "exit"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "link":
        (place.parent / "zero").write_text("0\n")
        place.symlink_to("zero")
    elif kind == "folder":
        place.mkdir()
    else:
        with place.open("wb") as file:
            file.truncate(2**40)
    result = pod.upload(None)
    assert (result.code, result.upload.reason) == (1, "run-failed")


def test_after_a_failed_run_upload_is_content_where_success_would_have_stored_nothing_more(pod: Pod) -> None:
    pod.write({"x": "1"})
    pod.plan(artifacts=(ArtifactPlan("f", ("x",), when="failure"), ArtifactPlan("a", ("x",), when="always")))
    assert pod.upload(3).code == 0


@pytest.mark.parametrize("name", ["two\n[dynapod] uploaded 7 files", "clear\x1b[2J"])
def test_a_name_with_control_characters_is_the_jobs_fault_and_writes_no_lines(pod: Pod, name: str) -> None:
    pod.write({f"dist/{name}": "1"})
    pod.plan(artifacts=(ArtifactPlan("a", ("dist",)),))
    result = pod.upload()
    assert (result.code, result.upload.reason) == (1, "artifact")
    assert "holds a control character: rename it" in result.upload.message
    assert "uploaded 7 files" not in [line.removeprefix("[dynapod] ") for line in result.output.splitlines()]
    assert "\x1b" not in result.output


def test_a_missing_artifact_is_the_jobs_fault_and_the_others_are_stored(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"x": "1"})
    pod.plan(artifacts=(ArtifactPlan("wheel", ("dist/*.whl", "!dist/old*")), ArtifactPlan("other", ("x",))))
    result = pod.upload()
    assert (result.code, result.upload.reason) == (1, "missing-artifact")
    assert "artifact 'wheel': no file matches dist/*.whl" in result.upload.message
    assert [artifact.result for artifact in result.upload.artifacts] == ["missing", "uploaded"]
    assert gateway.manifests[0]["reason"] == "missing-artifact"


def test_a_missing_optional_artifact_is_no_failure(pod: Pod) -> None:
    pod.plan(artifacts=(ArtifactPlan("wheel", ("dist/*",), optional=True),))
    result = pod.upload()
    assert (result.code, result.upload.artifacts[0].result) == (0, "missing")


def test_links_are_followed_inside_the_workspace_only(pod: Pod, gateway: GatewayServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    pod.write({"real/x": "inside", "d/plain": "1"})
    (pod.workspace / "d/in").symlink_to("../real/x")
    (pod.workspace / "d/out").symlink_to(tmp_path / "secret")
    (pod.workspace / "d/away").symlink_to("../../token")
    (pod.workspace / "d/folder").symlink_to("../real")
    (pod.workspace / "d/nothing").symlink_to("nowhere")
    os.mkfifo(pod.workspace / "d/fifo")
    pod.plan(artifacts=(ArtifactPlan("a", ("d",)),))
    result = pod.upload()
    assert result.code == 0
    assert sorted(gateway.artifacts) == ["a/d/in", "a/d/plain"]
    assert gateway.content("a/d/in") == b"inside"
    for name in ("out", "away"):
        assert f"d/{name} is a link that leads out of the workspace: left out" in result.upload.artifacts[0].message


@pytest.mark.parametrize("faults", [[503, 429, 500], [422], [0, -1, 0], [401]])
def test_passing_troubles_of_the_gateway_are_survived(pod: Pod, gateway: GatewayServer, faults: list[int]) -> None:
    pod.write({"x": os.urandom(2_000_000)})
    gateway.faults = [("PUT /runner/v1/artifacts", status) for status in faults] + [("PUT /runner/v1/manifest", 503)]
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),))
    result = pod.upload()
    assert (result.code, result.upload.reason) == (0, "ok"), result.output
    assert gateway.content("a/x") == (pod.workspace / "x").read_bytes()


@pytest.mark.parametrize("status", [503, 0, -1, 403, 409])
def test_a_gateway_that_stays_away_or_refuses_is_the_platforms_fault(
    pod: Pod, gateway: GatewayServer, status: int
) -> None:
    pod.write({"x": "1"})
    gateway.always = [("PUT /runner/v1/artifacts", status)]
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)), ArtifactPlan("missing", ("y",))), upload_budget=1.5)
    result = pod.upload()
    assert (result.code, result.upload.reason) == (75, "gateway")
    assert result.upload.artifacts[0].result == "failed"


def test_an_upload_without_its_manifest_is_no_success(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"x": "1"})
    gateway.always = [("PUT /runner/v1/manifest", 503)]
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),), upload_budget=1.5)
    result = pod.upload()
    assert (result.code, result.upload.reason) == (75, "gateway")


def test_a_file_over_quota_is_the_jobs_fault(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"x": "1"})
    gateway.always = [("PUT /runner/v1/artifacts", 413)]
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),))
    result = pod.upload()
    assert (result.code, result.upload.reason) == (1, "artifact-quota")
    assert "x (1 B) is over quota" in result.upload.message


def test_an_early_refusal_stops_the_sending(pod: Pod, gateway: GatewayServer) -> None:
    with (pod.workspace / "huge").open("wb") as file:
        file.truncate(2 << 30)
    gateway.refuse_early = True
    pod.plan(artifacts=(ArtifactPlan("a", ("huge",)),))
    began = time.monotonic()
    result = pod.upload()
    assert (result.code, result.upload.reason) == (1, "artifact-quota")
    assert time.monotonic() - began < 20


def test_the_budget_ends_an_upload_that_takes_too_long(pod: Pod) -> None:
    with (pod.workspace / "huge").open("wb") as file:
        file.truncate(20 << 30)
    pod.plan(artifacts=(ArtifactPlan("a", ("huge",)),), upload_budget=1.0)
    result = pod.upload()
    assert (result.code, result.upload.reason) == (1, "budget")


def test_a_budget_that_went_into_the_retries_of_what_is_stored_by_now_is_not_the_jobs_fault(
    pod: Pod, gateway: GatewayServer
) -> None:
    pod.write({"x": "1"})
    with (pod.workspace / "huge").open("wb") as file:
        file.truncate(20 << 30)
    gateway.faults = [("PUT /runner/v1/artifacts", 503)]
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)), ArtifactPlan("b", ("huge",))), upload_budget=2.0)
    result = pod.upload()
    assert [artifact.result for artifact in result.upload.artifacts] == ["uploaded", "failed"]
    assert (result.code, result.upload.reason) == (75, "gateway")
    assert "was away for a part of the upload budget" in result.upload.message


def test_caches_are_saved_after_success_only(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"c/x": "1"})
    pod.plan(caches=(CachePlan("k", ("c",)),))
    assert pod.upload(1).upload.caches[0].result == "skipped"
    assert pod.upload(None).upload.caches[0].result == "skipped"
    assert gateway.caches == {}
    (pod.root / "state" / "exit").unlink()
    assert pod.upload(0).upload.caches[0].result == "saved"


def test_a_cache_that_cannot_be_saved_does_not_fail_the_job(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"c/x": "1", "x": "1"})
    gateway.always = [("PUT /runner/v1/caches", 507)]
    pod.plan(caches=(CachePlan("k", ("c",)),), artifacts=(ArtifactPlan("a", ("x",)),), upload_budget=2.0)
    result = pod.upload()
    assert (result.code, result.upload.reason) == (0, "ok")
    assert result.upload.caches[0].result == "failed"
    assert "warning: cache k" in result.output


def test_the_key_of_a_cache_is_resolved_before_the_run(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"lock": "before", "c/x": "1"})
    pod.plan(caches=(CachePlan("k-{{ hash('lock') }}", ("c",)),))
    process = pod.start_upload(0)
    pod.write({"lock": "after"})
    process.send_signal(signal.SIGTERM)
    pod.finish(process)
    assert list(gateway.caches) == ["k-" + digest(b"lock\0" + hashlib.sha256(b"before").digest())]


def test_a_second_sigterm_does_not_stop_the_work(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"x": "1"})
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),))
    gateway.faults = [("PUT /runner/v1/artifacts", 503)] * 3
    process = pod.start_upload(0)
    process.send_signal(signal.SIGTERM)
    assert process.stdout
    assert "storing what is to last" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert pod.finish(process).code == 0


def test_a_run_that_ended_before_upload_could_listen_is_noticed(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"exit": "0\n"}, folder="state")
    pod.write({"x": "1"})
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),))
    assert pod.finish(pod.start("upload")).code == 0
    assert list(gateway.artifacts) == ["a/x"]


def test_an_exit_file_that_is_still_being_written_is_waited_for(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"exit": ""}, folder="state")
    pod.write({"x": "1"})
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),))
    process = pod.start_upload(None)
    assert process.stdout
    assert select.select([process.stdout], [], [], 0.3)[0] == []
    pod.write({"exit": "0\n"}, folder="state")
    process.send_signal(signal.SIGTERM)
    pod.finish(process)
    assert list(gateway.artifacts) == ["a/x"]


def test_it_sleeps_without_polling(pod: Pod) -> None:
    pod.plan(artifacts=(ArtifactPlan("a", ("x",)),))
    process = pod.start_upload(None)
    status = Path(f"/proc/{process.pid}/status")

    def switches() -> int:
        return sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)

    counts = [switches()]
    for _ in range(20):  # it may still be on its way into the system call when it has printed its line
        os.sched_yield()
        assert process.stdout
        select.select([process.stdout], [], [], 0.05)
        counts.append(switches())
    assert counts[-1] == counts[-10]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def test_junit_files_are_summed_up_and_failures_shown(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"r/a.xml": JUNIT, "r/b.xml": JUNIT.replace("pkg", "other"), "r/bad.xml": "<testsuite><testcase>"})
    pod.plan(artifacts=(ArtifactPlan("junit", ("r/*.xml",), when="always", kind="junit"),))
    result = pod.upload(1)
    assert result.code == 0
    (artifact,) = result.upload.artifacts
    assert artifact.junit is not None
    assert (artifact.junit.tests, artifact.junit.failures, artifact.junit.errors, artifact.junit.skipped) == (
        8,
        2,
        2,
        2,
    )
    assert artifact.junit.seconds == 3.5
    assert "pkg.Test::bad" in artifact.junit.failed
    assert "r/bad.xml: not well-formed XML" in artifact.message
    assert "tests in junit: 8 run, 2 failed, 2 errors, 2 skipped, 3.5 s" in result.output
    assert "failed: other.Test::broken" in result.output
    assert gateway.content("junit/r/a.xml") == JUNIT.encode()


def test_the_termination_message_fits_whatever_was_uploaded(pod: Pod, gateway: GatewayServer) -> None:
    names = {f"d/{'n' * 60}-{number}": "1" for number in range(200)}
    cases = "".join(f'<testcase classname="{"c" * 200}" name="t{n}"><failure/></testcase>' for n in range(100))
    pod.write({**names, "j.xml": f"<testsuite>{cases}</testsuite>"})
    pod.plan(
        artifacts=(
            ArtifactPlan("many", ("d",)),
            ArtifactPlan("junit", ("j.xml",), kind="junit"),
            *(ArtifactPlan(f"m{n}", ("none",), optional=True) for n in range(20)),
        )
    )
    result = pod.upload()
    assert len(result.message.encode()) <= 4096
    assert result.code == 0
    assert result.upload.artifacts[0].count == 200
    assert result.upload.artifacts[1].junit is not None
    assert result.upload.artifacts[1].junit.failures == 100
    assert len(gateway.manifests[0]["artifacts"][0]["files"]) == 200


def test_a_name_that_is_not_utf_8_is_refused_clearly(pod: Pod) -> None:
    (pod.workspace / os.fsdecode(b"bad-\xff")).write_text("1")
    pod.plan(artifacts=(ArtifactPlan("a", ("bad*",)),))
    result = pod.upload()
    assert (result.code, result.upload.reason) == (1, "artifact")
    assert "not valid UTF-8" in result.upload.message


@pytest.mark.parametrize("text", ["", "{}", '{"version": 99}', "not json"])
def test_an_unusable_plan_is_the_platforms_fault(pod: Pod, text: str) -> None:
    (pod.root / "plan" / "plan.json").write_text(text)
    for command in ("upload", "checkout"):
        result = pod.finish(pod.start(command))
        assert (result.code, result.upload.reason) == (75, "plan")


def test_an_unknown_command_is_a_usage_error(pod: Pod) -> None:
    process = pod.start("fly")
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, "usage: python3 -m runner checkout|upload\n")

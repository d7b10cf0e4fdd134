"""`dynapod run` for real: queue, cluster, gateway and worker embedded, containers as processes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = "import sys; from worker.cli.main import main; sys.exit(main())"
JOB = """\
name: demo
image: python:3.12
env: {GREETING: hello}
secrets: {TOKEN: {secret: npm, key: token}}
steps:
  - name: greet
    run: |
      echo "$GREETING $TOKEN" && cat source.txt
      echo "$DYNAPOD_JOB_NAME attempt $DYNAPOD_ATTEMPT of $DYNAPOD_JOB, CI=$CI"
      if [ "$GIT_CONFIG_VALUE_0" = "$PWD" ] && [ "$DYNAPOD_WORKSPACE" = "$PWD" ]; then echo in the workspace; fi
      printf 'a\\377b\\033[2Jc\\n' && mkdir -p dist && echo "$GREETING" > dist/answer.txt
      if [ -e fail ]; then exit 3; fi
artifacts:
  - {name: answer, paths: ["dist/*"], when: always}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "job.yaml").write_text(JOB)
    (folder / "source.txt").write_text("from the folder\n")
    return folder


def arguments(job: Path, *more: str) -> list[str]:
    state = ["--state", str(job.parent / "state"), "--secret-env", "npm/token=NPM_TOKEN"]
    return [sys.executable, "-c", CODE, "run", str(job / "job.yaml"), *state, *more]


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "NPM_TOKEN": "hunter2-hunter2"}


def run(job: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments(job, *more),
        capture_output=True,
        text=True,
        cwd=job.parent,
        env=environment(job.parent),
        check=False,
        timeout=100,
    )


def test_a_job_runs_and_its_artifacts_arrive(job: Path) -> None:
    done = run(job, "--env", "GREETING=hi", "--output", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert (job.parent / "out/answer/dist/answer.txt").read_text() == "hi\n"
    lines = done.stdout.splitlines()
    for line in ("hi [masked]", "from the folder", "a\ufffdbc", "[dynapod] step greet"):
        assert line in lines
    headings = [line.split()[1] for line in lines if line.startswith("==> ")]
    assert list(dict.fromkeys(headings)) == ["checkout", "run", "upload"]
    assert re.search(
        r"^answer +uploaded +1 +3 B +[0-9a-f]{12} +out/answer/dist/answer\.txt$", done.stdout, re.MULTILINE
    )
    ended = re.fullmatch(r"([0-9a-f-]{36}): succeeded in [0-9.]+ s", lines[-1])
    assert ended
    assert {f"demo attempt 1 of {ended[1]}, CI=true", "in the workspace"} <= set(lines)
    assert "hunter2" not in done.stdout
    assert "nothing isolates them" in lines[0]


def test_a_failure_is_status_1_and_one_json_document(job: Path) -> None:
    (job / "fail").touch()
    done = run(job, "--json", "--quiet")
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_status"], document["verdict"]) == (1, 1, "failed")
    assert (document["result"]["reason"], document["result"]["exit_code"]) == ("exit", 3)
    artifact = job.parent / document["paths"]["answer"]
    assert artifact.read_text() == "hello\n"
    assert artifact.is_relative_to(job.parent / ".dynapod/artifacts" / document["job"])
    assert (job.parent / ".dynapod/.gitignore").read_text() == "*\n"
    assert "from the folder" not in done.stderr
    assert "failed (exit code 3, the job's fault)" in done.stderr


def test_nothing_is_started_for_a_description_that_is_invalid(job: Path) -> None:
    (job / "job.yaml").write_text(JOB.replace("image:", "imagee:"))
    done = run(job)
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 2: imagee: this key is unknown; did you mean image?" in done.stderr
    assert not (job.parent / "state").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "GREETING"], "--env: 'GREETING': write NAME=VALUE"),
        (["--timeout", "soon"], 'timeout: this is not a duration (got "soon")'),
        (["--source", "nowhere"], "--source: there is no folder"),
        (["--secret-env", "npm/key=NOWHERE"], "the environment variable 'NOWHERE' is not set"),
        (["--quiet", "--verbose"], "exclude each other"),
    ],
)
def test_a_bad_option_is_named(job: Path, options: list[str], message: str) -> None:
    done = run(job, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())


def test_a_state_folder_that_cannot_be_made_is_named(job: Path) -> None:
    (job.parent / "state").write_text("a file")
    done = run(job)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert str(job.parent / "state") in done.stderr


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_the_job_and_is_status_130(job: Path, times: int) -> None:
    script = "steps: [{run: \"trap 'echo stopping now; exit 1' TERM; echo r$((1))ady; sleep 1000 & wait\"}]\n"
    (job / "job.yaml").write_text(f"image: a\n{script}")
    with subprocess.Popen(
        arguments(job), stdout=subprocess.PIPE, text=True, cwd=job.parent, env=environment(job.parent)
    ) as running:
        assert running.stdout is not None
        output = []
        for line in running.stdout:
            output.append(line)
            if line == "r1ady\n" or (times == 2 and "press Ctrl-C again" in line):
                running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
    text = "".join(output)
    assert "dynapod: stopping the job; press Ctrl-C again to end at once" in text
    if times == 1:
        assert "stopping now\n" in text
        assert ": canceled (" in text


def test_a_closed_pipe_ends_the_run_without_a_traceback(job: Path) -> None:
    with subprocess.Popen(
        arguments(job), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(job.parent)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, "")


def test_a_secret_without_a_value_is_refused_before_anything_starts(job: Path) -> None:
    command = [word for word in arguments(job) if not word.startswith(("--secret-env", "npm/"))]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(job.parent), check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "secrets.TOKEN: no value was given; add --secret-env npm/token=VARIABLE" in done.stderr

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from runner_spec.version import __version__
from worker.cli import main as command_line
from worker.cli.main import COMMANDS, cli, main

ROOT = Path(__file__).parents[3]
# Each takes longer to import than the whole help may take.
HEAVY = ("kubernetes", "rq", "redis", "fakeredis", "pydantic", "aiohttp", "obstore", "yaml", "rich", "tenacity")


def dynapod(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    code = "import sys; from worker.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["submit", "--help"]])
def test_help_waits_for_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import json, sys; from worker.cli.main import main\n"
        f"status = main({arguments!r}); print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0
    assert not set(HEAVY) & set(json.loads(done.stderr))


def test_the_help_lists_every_command_and_the_exit_statuses() -> None:
    text = dynapod("--help").stdout
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.summary in text
    for code in ("0  succeeded", "1  the job failed", "2  invalid", "3  a fault", "130  canceled"):
        assert code in text


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_can_be_imported_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"dynapod {name}" in capsys.readouterr().out


def test_the_version_is_the_packages() -> None:
    assert dynapod("--version").stdout == f"dynapod, version {__version__}\n"


def test_wrong_usage_is_status_2() -> None:
    done = dynapod("nonsense")
    assert (done.returncode, "nonsense" in done.stderr, done.stdout) == (2, True, "")


def test_a_redis_that_is_away_is_a_fault_of_the_platform(tmp_path: Path) -> None:
    done = dynapod("status", "j", "--redis", f"unix://:hunter2@{tmp_path}/nobody")
    assert done.returncode == 3
    assert "Redis gave no answer" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_url_that_is_none_is_wrong_usage() -> None:
    done = dynapod("list", "--redis", "http://x")
    assert (done.returncode, "--redis" in done.stderr) == (2, True)


def test_a_closed_pipe_is_no_traceback_and_no_success() -> None:
    code = "import sys; from worker.cli.main import main; sys.exit(main(['schema']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 141


def test_a_bug_is_told_apart_from_a_failed_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr(command_line.cli, "main", broken)
    assert main([]) == 3
    assert "this is a bug in dynapod" in capsys.readouterr().err


@pytest.mark.parametrize("error", [click.Abort(), KeyboardInterrupt()])
def test_an_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(command_line.cli, "main", interrupted)
    assert main([]) == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_back(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_DYNAPOD_COMPLETE" in capsys.readouterr().out


def test_commands_are_completed() -> None:
    environment = {"_DYNAPOD_COMPLETE": "fish_complete", "COMP_WORDS": "dynapod va", "COMP_CWORD": "va"}
    done = dynapod(env=environment)
    assert "plain,validate" in done.stdout


def test_all_commands_have_distinct_names() -> None:
    context = click.Context(cli)
    assert [cli.get_command(context, name).name for name in COMMANDS] == list(COMMANDS)  # type: ignore[union-attr]


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sumbit", "x.yaml"]) == 2
    assert "No such command 'sumbit'. Did you mean submit?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--namespace", "elsewhere", "namespace: 'elsewhere' is not the policy's, 'default'"),
        ("--capacity", "many", "write a whole number from 1 to 100000"),
        ("--lease-seconds", "long", "write a number from 1 to 600"),
    ],
)
def test_a_worker_refuses_settings_that_cannot_work(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "--store", str(tmp_path), option, value]) == 2
    assert message in capsys.readouterr().err

"""Run foreign projects' own tests and builds through dynapod, and compare what comes out with `expected.json`.

    .venv/bin/python examples/foreign/run.py [--work FOLDER] [JOB ...]

Three source distributions are downloaded by pip (pinned, checked by hash) and each put into a git repository with a
tag. A fourth job is the first project again with a bug injected. For every job a description is written that checks
out the tag, makes a virtual environment, runs the project's own tests and builds its wheel; `dynapod run --json` runs
it. Exit status: 0 when everything is as expected, 1 when anything differs, 2 when the preparation failed.

The tests on a real cluster take projects, descriptions and comparison from here, with another image and repository URL.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEFAULT_WORK = HERE.parent.parent / ".dynapod" / "foreign"
PYTEST = "pytest==8.4.2"
IMAGE = "python:3.11"
# One job: pip with a cold cache, the tests, the wheel. Beyond that something hangs.
JOB_TIMEOUT_S = 900
DOWNLOAD_TIMEOUT_S = 300
# Configures pip inside the jobs as it is configured here (an index of one's own, a proxy, a certificate).
PASSED_ON = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")


class PreparationError(Exception):
    """The jobs cannot be run: no network, no git, a changed source distribution."""


@dataclass(frozen=True)
class Bug:
    """One line of a project's source, replaced; `old` must occur exactly once."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Project:
    """A job: a source distribution, the tag it gets, what its tests and its build need, and maybe a bug.

    `left_out` is a test that pytest is to leave out, by its id.
    """

    job: str
    name: str
    version: str
    sha256: str
    tag: str
    needs: tuple[str, ...]
    bug: Bug | None = None
    left_out: str = ""

    @property
    def archive(self) -> str:
        """File name of the source distribution."""
        return f"{self.name}-{self.version}.tar.gz"


TENACITY_SHA256 = "1169d376c297e7de388d18b4481760d478b0e99a777cad3a9c86e556f4b697cb"
TENACITY_NEEDS = (PYTEST, "tornado==6.5.2", "typeguard==4.4.4", "setuptools==80.9.0", "setuptools_scm==8.3.1")
# It demands that a pause of one second ends within 1.1 s: no busy machine keeps that.
TENACITY_CLOCK = "tests/test_asyncio.py::TestContextManager::test_sleeps"
HATCH = ("hatchling==1.27.0", "hatch-vcs==0.5.0", "hatch-fancy-pypi-readme==25.1.0")

PROJECTS = (
    Project("tenacity", "tenacity", "9.1.2", TENACITY_SHA256, "9.1.2", TENACITY_NEEDS, left_out=TENACITY_CLOCK),
    Project(
        "structlog",
        "structlog",
        "25.4.0",
        "186cd1b0a8ae762e29417095664adf1d6a31702160a46dacb7796ea82f7409e4",
        "25.4.0",
        (PYTEST, "freezegun==1.5.5", "pretend==1.0.9", "pytest-asyncio==1.2.0", *HATCH),
    ),
    Project(
        "itsdangerous",
        "itsdangerous",
        "2.2.0",
        "e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173",
        "2.2.0",
        (PYTEST, "freezegun==1.5.5", "flit_core==3.12.0"),
    ),
    Project(
        "tenacity-broken",
        "tenacity",
        "9.1.2",
        TENACITY_SHA256,
        "9.1.3",
        TENACITY_NEEDS,
        # wait_incrementing now adds its increment one time too many.
        Bug(
            "tenacity/wait.py",
            "self.increment * (retry_state.attempt_number - 1)",
            "self.increment * retry_state.attempt_number",
        ),
        left_out=TENACITY_CLOCK,
    ),
)


def description(project: Project, repository: str, environ: Mapping[str, str], image: str = IMAGE) -> dict[str, Any]:
    """The job's description; JSON is YAML, too. `repository` is a URL, `image` one with Python, pip, venv and git."""
    needs = " ".join(project.needs)
    pip = ".venv/bin/python -m pip"
    tests = ".venv/bin/python -m pytest -q -p no:cacheprovider --junitxml=junit.xml"
    if project.left_out:
        tests += f" --deselect {project.left_out}"
    offline = "--no-index --find-links .cache/wheels"
    # Wheels, not pip's own cache: whether pip may keep what it downloads, the index decides.
    key = "wheels-" + hashlib.sha256(needs.encode()).hexdigest()[:16]
    return {
        "name": project.job,
        "image": image,
        "source": {"git": repository, "ref": project.tag},
        "env": {name: value for name, value in environ.items() if name.startswith(PASSED_ON)},
        "cache": [{"key": key, "paths": [".cache/wheels"]}],
        "steps": [
            {"name": "environment", "run": "python3 -m venv .venv"},
            {
                "name": "wheels",
                "run": f"test -d .cache/wheels || {pip} wheel --quiet --wheel-dir .cache/wheels {needs}",
            },
            {"name": "install", "run": f"{pip} install --quiet {offline} . {needs}"},
            {"name": "test", "run": tests},
            {"name": "wheel", "run": f"{pip} wheel --quiet {offline} --no-deps --wheel-dir dist ."},
        ],
        "artifacts": [
            {"name": "wheel", "paths": ["dist/*.whl"], "when": "success"},
            {"name": "junit", "paths": ["junit.xml"], "when": "always", "kind": "junit"},
        ],
        "timeout": "10m",
    }


def command(arguments: list[str], *, folder: Path, timeout: float) -> str:
    """Run a command of the preparation; its standard output.

    Raises:
        PreparationError: when it is missing, takes too long or fails, with its last words.
    """
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PreparationError(f"{arguments[0]}: {error}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise PreparationError(f"{' '.join(arguments)} failed ({done.returncode}):\n" + "\n".join(words))
    return done.stdout


def download(project: Project, folder: Path) -> Path:
    """The source distribution, downloaded unless it is there, with its digest checked.

    Raises:
        PreparationError: pip failed, or the file is not the one that was pinned.
    """
    archive = folder / project.archive
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        wanted = f"{project.name}=={project.version}"
        command([*pip, "--no-binary", project.name, wanted], folder=folder, timeout=DOWNLOAD_TIMEOUT_S)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != project.sha256:
        raise PreparationError(f"{archive}: SHA-256 is {digest}, expected {project.sha256}; delete it and try again")
    return archive


def make_repository(project: Project, archive: Path, folder: Path) -> Path:
    """A git repository with the project's files, its bug if it has one, and its tag. Made anew each time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Not tarfile: its safe filter is missing in Python 3.11.2, and the archive is known byte by byte. As root, tar
    # would keep the packager's user id, and git refuses a repository of somebody else's.
    command(["tar", "--no-same-owner", "-xzf", str(archive)], folder=folder, timeout=60)
    repository = folder / f"{project.name}-{project.version}"
    if project.bug:
        inject(project.bug, repository)
    commit_all(repository, project.tag)
    return repository


def commit_all(folder: Path, tag: str) -> None:
    """Make a folder a git repository with one commit of all its files, and a tag."""
    # Nothing of the caller's own git configuration: no signing, no ignored files but the project's.
    settings = ["user.name=example", "user.email=example@example.org", "commit.gpgSign=false", "tag.gpgSign=false"]
    settings += ["core.excludesFile=", "core.hooksPath=", "core.autocrlf=false"]
    git = ["git", *(word for setting in settings for word in ("-c", setting))]
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["commit", "--quiet", "-m", "import"],
        ["tag", tag],
    ):
        command([*git, *arguments], folder=folder, timeout=60)


def inject(bug: Bug, repository: Path) -> None:
    """Replace the one line.

    Raises:
        PreparationError: when it does not occur exactly once.
    """
    path = repository / bug.path
    source = path.read_text(encoding="utf-8")
    if source.count(bug.old) != 1:
        raise PreparationError(f"{bug.path}: {bug.old!r} occurs {source.count(bug.old)} times, expected once")
    path.write_text(source.replace(bug.old, bug.new), encoding="utf-8")


def dynapod() -> str:
    """The console script beside this Python, else the one on PATH.

    Raises:
        PreparationError: when there is none.
    """
    beside = Path(sys.executable).with_name("dynapod")
    found = str(beside) if beside.exists() else shutil.which("dynapod")
    if not found:
        raise PreparationError("no dynapod beside this Python or on PATH: run .venv/bin/python examples/foreign/run.py")
    return found


def run_job(project: Project, work: Path, script: str) -> dict[str, Any]:
    """Prepare and run one job; what came out, in the form of `expected.json`.

    Raises:
        PreparationError: the preparation failed.
    """
    repository = make_repository(project, download(project, work / "downloads"), work / "repositories" / project.job)
    file = work / f"{project.job}.yaml"
    file.write_text(json.dumps(description(project, repository.as_uri(), os.environ), indent=2), encoding="utf-8")
    output = work / "artifacts" / project.job
    shutil.rmtree(output, ignore_errors=True)
    folders = ["--state", str(work / "state"), "--output", str(output)]
    done = subprocess.run(
        [script, "run", str(file), "--json", *folders], stdout=subprocess.PIPE, timeout=JOB_TIMEOUT_S, check=False
    )
    return printed(done.returncode, done.stdout, output)


def printed(exit_status: int, document: bytes, output: Path) -> dict[str, Any]:
    """What is compared of a local run: `seen`, or why nothing was."""
    try:
        result = json.loads(document)["result"]
    except (ValueError, KeyError, TypeError) as error:
        return {"exit_status": exit_status, "problem": f"no JSON document was printed: {error!r}"}
    return seen(exit_status, result, output)


def seen(exit_status: int, result: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """What is compared: the process's own exit status, the recorded result, and the files that arrived."""
    totals = [artifact["junit"] for artifact in result["artifacts"] if artifact.get("junit")]
    failed_steps = [step["name"] for step in result["steps"] if step["exit_code"]]
    counted = ("tests", "failures", "errors", "skipped")
    return {
        "exit_status": exit_status,
        "verdict": result["verdict"],
        "fault": result["fault"],
        "reason": result["reason"],
        "failed_steps": failed_steps,
        "wheel": next(iter(sorted(path.name for path in output.rglob("*.whl"))), None),
        "junit": {name: totals[0][name] for name in counted} if len(totals) == 1 else None,
        "failed_tests": sorted(totals[0]["failed"]) if totals else [],
    }


def expectations() -> dict[str, dict[str, Any]]:
    """What comes out of each job: `expected.json`."""
    found: dict[str, dict[str, Any]] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
    return found


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each value that is not as expected."""
    names = sorted({*expected, *found})
    return [
        f"{name}: expected {expected.get(name)!r}, found {found.get(name)!r}"
        for name in names
        if expected.get(name) != found.get(name)
    ]


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows in columns."""
    lines = list(rows)
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in lines)


def row(job: str, found: Mapping[str, Any], wrong: list[str]) -> tuple[str, ...]:
    """One job's line of the table."""
    totals = found.get("junit") or {}
    tests = " ".join(f"{value} {name}" for name, value in totals.items()) or "-"
    verdict = f"{found.get('verdict', '?')} ({found['exit_status']})"
    return (job, verdict, tests, found.get("wheel") or "-", "DIFFERS" if wrong else "as expected")


def main() -> int:
    """Run the jobs named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Run foreign projects through dynapod and check what comes out.")
    parser.add_argument(
        "--work", type=Path, default=DEFAULT_WORK, help=f"folder for everything (default {DEFAULT_WORK})"
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="of " + ", ".join(item.job for item in PROJECTS))
    options = parser.parse_args()
    if unknown := set(options.jobs) - {item.job for item in PROJECTS}:
        parser.error(f"no such job: {', '.join(sorted(unknown))}")
    expected = expectations()
    rows: list[tuple[str, ...]] = [("job", "verdict (exit)", "tests", "wheel", "result")]
    problems: list[str] = []
    try:
        script = dynapod()
        for project in PROJECTS:
            if options.jobs and project.job not in options.jobs:
                continue
            found = run_job(project, options.work.resolve(), script)
            wrong = differences(expected[project.job], found)
            problems += [f"{project.job}: {line}" for line in wrong]
            rows.append(row(project.job, found, wrong))
    except PreparationError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows))
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

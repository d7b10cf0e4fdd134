"""One copy of the project in which sabotages are tried, one after the other."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutations.sabotage import Sabotage

PROJECT: Final = Path(__file__).resolve().parents[2]
# What the tests read of the project. Not its history, environments and caches.
PARTS: Final = (
    *("adapters", "benchmarks", "charts", "devcluster", "docker", "docs", "examples", "gateway", "runner"),
    *("runner_spec", "tests", "worker", "pyproject.toml", "README.md"),
)
# Seconds for one test, and for all that try one sabotage. On an idle machine each test takes a few.
TEST_TIMEOUT_S: Final = 90
RUN_TIMEOUT_S: Final = 240
_TESTS_FAILED: Final = 1  # pytest's exit code; 2 is a collection that failed, an import error say
# An edit that does not even run breaks every test: no catch.
_NONSENSE: Final = ("SyntaxError", "NameError", "ImportError", "ModuleNotFoundError", "Error compiling script")
_TIMED_OUT: Final = "from pytest-timeout"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one sabotage; `why` it survived, empty when it was caught."""

    sabotage: Sabotage
    why: str
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether all tests that must notice it did."""
        return not self.why


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest: its exit code (None: ended by us), its words, and by test what a failed one said."""

    code: int | None
    output: str
    failures: dict[str, str]


class TrialError(Exception):
    """The copy cannot be used; the message says why."""


class Trial:
    """A copy of the project in `folder`, which must not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        for part in PARTS:
            source = PROJECT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / part)
        # Programs that the tests start must take the copy too, not the project that is installed.
        self._environment = os.environ | {"PYTHONPATH": str(folder)}
        self._environment.pop("KUBECONFIG", None)

    def check_imports(self) -> None:
        """Make sure that the copy is what will be tested.

        Raises:
            TrialError: another copy of the project comes first, or this one cannot be imported.
        """
        program = "import worker.cli.main, gateway.server, devcluster.cluster; print(worker.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or Path(done.stdout.strip()).parent.parent != self._folder:
            raise TrialError(f"the copy cannot be imported: {done.stdout}{done.stderr}")

    def check_unharmed(self, nodes: Sequence[str]) -> None:
        """Make sure that all these tests pass without any sabotage.

        Raises:
            TrialError: one does not; it would catch whatever it is asked to.
        """
        run = self._pytest(nodes, timeout=len(nodes) * RUN_TIMEOUT_S)
        if run.code != 0:
            raise TrialError(f"these tests do not pass without any sabotage:\n{run.output}")

    def try_out(self, sabotage: Sabotage) -> Verdict:
        """Make the edit, run the tests that must notice it, take the edit back."""
        began = time.monotonic()
        with self._sabotaged(sabotage):
            run = self._pytest(sabotage.caught_by, timeout=RUN_TIMEOUT_S)
        return Verdict(sabotage, why_survived(sabotage, run), time.monotonic() - began)

    @contextmanager
    def _sabotaged(self, sabotage: Sabotage) -> Iterator[None]:
        path = self._folder / sabotage.file
        sound = path.read_text(encoding="utf-8")
        try:
            self._write(path, sabotage.applied_to(sound))
            yield
        finally:
            self._write(path, sound)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Python compares whole seconds and sizes: within one second, it would take the bytecode of the other text.
        if path.suffix == ".py":
            Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)

    def _pytest(self, nodes: Sequence[str], *, timeout: float) -> Run:
        report = self._folder / "report.xml"
        report.unlink(missing_ok=True)
        options = ["--no-header", "--tb=short", f"--timeout={TEST_TIMEOUT_S}", f"--junit-xml={report}"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *nodes],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            return Run(None, str(error), {})
        return Run(done.returncode, done.stdout + done.stderr, _failures(report))


def _failures(report: Path) -> dict[str, str]:
    """By test (`tests.worker.test_x.test_name[parameters]`): what a failed one said."""
    if not report.exists():
        return {}
    found = {}
    for case in ET.parse(report).iter("testcase"):
        failure = case.find("failure")
        if failure is not None:
            found[f"{case.get('classname')}.{case.get('name')}"] = f"{failure.get('message')}\n{failure.text}"
    return found


def why_survived(sabotage: Sabotage, run: Run) -> str:
    """Empty when each test that must notice the edit did, by failing for no other reason than that."""
    if run.code != _TESTS_FAILED:
        return "its tests pass" if run.code == 0 else f"pytest ended with {run.code}: {run.output[-2000:]}"
    for node in sabotage.caught_by:
        path, _, test = node.partition("::")
        name = f"{path.removesuffix('.py').replace('/', '.')}.{test}"
        said = [text for case, text in run.failures.items() if case == name or case.startswith(f"{name}[")]
        if not said:
            return f"{node} passes"
        if any(word in text for text in said for word in _NONSENSE):
            return f"the edit does not run: {said[0][-2000:]}"
        if not sabotage.hangs and all(_TIMED_OUT in text for text in said):
            return f"{node} only timed out"
    return ""

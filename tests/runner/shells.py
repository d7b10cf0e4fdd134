"""Runs the shim as a pod would, in folders of its own, under the shells that this machine has."""

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.shell import is_static
from runner_spec.report import RunReport, parse_report
from runner_spec.steps import Keep, steps_fragment

SHIM = Path(__file__).parents[2] / "runner" / "shim.sh"
BUSYBOX = Path("/bin/busybox")

# (name, shell, whether a busybox is in DYNAPOD_BIN). /bin/sh is dash on Debian.
SHELLS = [("sh", "/bin/sh", False)]
SHELLS += [("dash", path, False) for path in [shutil.which("dash")] if path]
if is_static(BUSYBOX):
    SHELLS += [("busybox", str(BUSYBOX), True), ("sh-with-busybox", "/bin/sh", True)]

Steps = Sequence[tuple[str, str]]


@dataclass
class Ran:
    code: int
    output: str
    exit_file: str
    report: RunReport
    message: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def step(self, name: str) -> int:
        return next(step.exit for step in self.report.steps if step.name == name)


class Shim:
    """One pod's folders with one shell in them."""

    def __init__(self, root: Path, shell: str, *, busybox: bool) -> None:
        self.root = root
        self.workspace = root / "work space"  # local folders may well have spaces in their names
        for name in ("bin", "state", "plan", "work space"):
            (root / name).mkdir()
        self.bin, self.state = root / "bin", root / "state"
        (self.bin / "sh").symlink_to(shell)
        if busybox:
            (self.bin / "busybox").symlink_to(BUSYBOX)
        self.environment = {
            "DYNAPOD_BIN": str(self.bin),
            "DYNAPOD_STATE": str(self.state),
            "DYNAPOD_PLAN": str(root / "plan"),
            "DYNAPOD_TERMINATION_LOG": str(root / "termination"),
            "DYNAPOD_WORKSPACE": str(self.workspace),
            "PATH": os.environ["PATH"],
        }

    def start(
        self,
        steps: Steps,
        after: Steps = (),
        *,
        timeout: float = 60,
        grace: float = 5,
        after_budget: float = 60,
        keep: int = 0,
        variables: Mapping[str, str] | None = None,
        defaults: Collection[str] = (),
        env: Mapping[str, str] | None = None,
        subreaper: bool = False,
    ) -> subprocess.Popen[bytes]:
        kept = Keep(keep, "kept: 'come' in") if keep else None
        fragment = steps_fragment(
            steps,
            after,
            timeout=timeout,
            grace=grace,
            after_budget=after_budget,
            keep=kept,
            variables=variables or {},
            defaults=defaults,
        )
        (self.root / "plan" / "steps").write_bytes(fragment.encode())
        return self.launch(env=env, subreaper=subreaper)

    def launch(self, env: Mapping[str, str] | None = None, *, subreaper: bool = False) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.bin / "sh"), str(SHIM)],
            cwd=self.workspace,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=become_subreaper if subreaper else None,  # noqa: PLW1509 - the tests have no threads here
        )

    def finish(self, process: subprocess.Popen[bytes], limit: float = 60) -> Ran:
        output, _ = process.communicate(timeout=limit)
        message = (self.root / "termination").read_text()
        report = parse_report(RunReport, message)
        assert report is not None, message
        return Ran(process.returncode, output.decode(), (self.state / "exit").read_text(), report, message)

    def run(
        self,
        steps: Steps,
        after: Steps = (),
        *,
        timeout: float = 60,
        grace: float = 5,
        after_budget: float = 60,
        keep: int = 0,
        variables: Mapping[str, str] | None = None,
        defaults: Collection[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        process = self.start(
            steps,
            after,
            timeout=timeout,
            grace=grace,
            after_budget=after_budget,
            keep=keep,
            variables=variables,
            defaults=defaults,
            env=env,
        )
        return self.finish(process)


def become_subreaper() -> None:
    """Orphans of this process's descendants become its children, as with the first process of a container."""
    import ctypes  # noqa: PLC0415 - in the child only

    pr_set_child_subreaper = 36  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)

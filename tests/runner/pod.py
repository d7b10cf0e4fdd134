"""The runner's containers as processes: a pod's folders and variables, and the commands run in them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.environment import Environment
from runner_spec.plan import Plan
from runner_spec.report import CheckoutReport, UploadReport, parse_report

ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    code: int
    output: str
    message: str
    checkout: CheckoutReport
    upload: UploadReport


@dataclass
class Pod:
    root: Path
    gateway: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("workspace", "home", "bin", "state", "plan", "secrets", "credentials", "source", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "token").write_text("the-token\n")
        (self.root / "termination").touch()  # the kubelet makes it
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DYNAPOD_RETRY_BASE": "0.01",
            "DYNAPOD_TERMINATION_LOG": str(self.root / "termination"),
            "DYNAPOD_TOKEN": str(self.root / "token"),
            **{
                f"DYNAPOD_{name.upper()}": str(self.root / name)
                for name in ("workspace", "bin", "state", "plan", "secrets", "credentials", "source")
            },
            **({"DYNAPOD_GATEWAY": self.gateway} if self.gateway else {}),
            **self.variables,
        }

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def environment(self) -> Environment:
        return Environment.read(self.variables)

    def plan(self, **fields: Any) -> Plan:
        plan = Plan(job="j", attempt=1, **fields)
        (self.root / "plan" / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        return plan

    def write(self, files: Mapping[str, str | bytes], *, folder: str = "workspace") -> None:
        for name, content in files.items():
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "runner", command],
            cwd=self.workspace,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], limit: float = 90) -> Result:
        output, _ = process.communicate(timeout=limit)
        message = (self.root / "termination").read_text()
        checkout, upload = parse_report(CheckoutReport, message), parse_report(UploadReport, message)
        assert checkout, output
        assert upload, output
        return Result(process.returncode, output, message, checkout, upload)

    def checkout(self) -> Result:
        return self.finish(self.start("checkout"))

    def upload(self, exit_code: int | None = 0) -> Result:
        """After a run that ended like this; None is a run that was killed."""
        process = self.start_upload(exit_code)
        process.send_signal(signal.SIGTERM)
        return self.finish(process)

    def start_upload(self, exit_code: int | None = 0) -> subprocess.Popen[str]:
        """The process, once it waits for the end of run; that is written only then, as in a pod."""
        process = self.start("upload")
        assert process.stdout
        assert "waiting for run to end" in process.stdout.readline()
        if exit_code is not None:
            (self.root / "state" / "exit").write_text(f"{exit_code}\n")
        return process

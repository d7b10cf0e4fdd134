"""The runner's command as the policy has it, in a folder where a job has planted modules of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner_spec.policy import DEFAULT_POLICY

ROOT = Path(__file__).parents[2]
PLANTED = "raise SystemExit('planted')"


@pytest.mark.parametrize("options", [DEFAULT_POLICY.runner_command[1:], ("-m", "runner")], ids=["policy", "careless"])
def test_only_the_policys_command_ignores_planted_modules(tmp_path: Path, options: tuple[str, ...]) -> None:
    for module in ("runner", "json"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(PLANTED)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    careful = options != ("-m", "runner")
    assert done.stderr == ("usage: python3 -m runner checkout|upload\n" if careful else "planted\n")

"""The bare loop in Go beside which dynapod is measured: built here, run on the cluster of KUBECONFIG."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.suite import BenchmarkError

SOURCE: Final = Path(__file__).parent / "limit"
BUILD_S: Final = 600.0
RUN_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class LimitProgram:
    """Built; `folder` takes its manifests."""

    program: Path
    folder: Path

    @classmethod
    def build(cls, folder: Path) -> "LimitProgram":
        """Compile it.

        Raises:
            BenchmarkError: there is no Go, or its modules cannot be had.
        """
        go = shutil.which("go")
        if go is None:
            raise BenchmarkError("`go` is not on PATH: the program that shows the limit of the control plane is in Go")
        program = folder / "limit"
        command = [go, "build", "-trimpath", "-o", str(program), "."]
        built = subprocess.run(command, check=False, cwd=SOURCE, capture_output=True, text=True, timeout=BUILD_S)
        if built.returncode:
            raise BenchmarkError(f"go build in {SOURCE.name}/: {built.stderr.strip()[-1000:]}")
        return cls(program, folder)

    def rate(self, manifest: Mapping[str, Any], namespace: str, pods: int, creators: int) -> float:
        """Pods per second, from the first request to the end of the last pod.

        Raises:
            BenchmarkError: it failed.
        """
        path = self.folder / "manifest.json"
        path.write_text(json.dumps(manifest))
        command = [self.program, "-manifest", path, "-namespace", namespace, "-pods", pods, "-creators", creators]
        words = [str(word) for word in command]
        ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=RUN_S)
        if ran.returncode:
            raise BenchmarkError(f"the limit program failed: {ran.stderr.strip()[-1000:]}")
        told = json.loads(ran.stdout)
        return float(told["pods"] / told["seconds"])

"""Saves and restores a large cache against a real HTTP server, and prints the peak memory of the runner.

    python -m tests.runner.cache_memory --size 2GiB [--format tar.gz]

The figures are the kernel's own: `ru_maxrss` of the runner (RUSAGE_SELF) and of the programs that it has started and
waited for (RUSAGE_CHILDREN), read inside the runner at its end. The kernel counts for a child what its parent held when
it was forked: hence a small shell between this process, which holds pytest, and the runner; and hence the figure for
zstd is never below that of the runner itself. The server runs in this process and stores to disk.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runner_spec.plan import CachePlan
from tests.runner import gateway_server
from tests.runner.gateway_server import GatewayServer
from tests.runner.pod import ROOT, Pod

MIB = 1 << 20
LIMIT_MIB = 64
# Runs a command of the runner as `python -m runner` does, then writes down the peaks.
_LAUNCHER = """
import resource, runpy, sys
_, root, command, record = sys.argv
sys.path.insert(0, root)
sys.argv = ["runner", command]
try:
    runpy.run_module("runner", run_name="__main__", alter_sys=True)
finally:
    with open(record, "w") as file:
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            print(resource.getrusage(who).ru_maxrss, file=file)
"""


@dataclass(frozen=True)
class Peak:
    """Peak resident memory in MiB: of the runner, and of the largest program that it started (zstd)."""

    runner: float
    children: float

    @property
    def total(self) -> float:
        return self.runner + self.children


def fill(folder: Path, size: int) -> None:
    """Half random, a quarter text, a quarter holes; one large file, and many small ones for an eighth of the size."""
    noise = random.Random(7)
    folder.mkdir(parents=True)
    with (folder / "large").open("wb") as file:
        left = size * 7 // 8
        while left > 0:
            for part in (noise.randbytes(2 * MIB), b"a line of text, again\n" * (MIB // 22)):
                file.write(part)
            file.seek(MIB, os.SEEK_CUR)
            left -= 4 * MIB
        file.truncate(size * 7 // 8)
    for number in range(size // 8 // (64 * 1024)):
        path = folder / f"d{number % 100}" / f"file-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(noise.randbytes(64 * 1024))


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def peak_of(pod: Pod, command: str) -> Peak:
    """Run one command of the runner to its end.

    Raises:
        RuntimeError: when it fails.
    """
    record = pod.root / "peaks"
    arguments = [sys.executable, "-c", _LAUNCHER, str(ROOT), command, str(record)]
    done = subprocess.run(["/bin/sh", "-c", '"$@"; exit $?', "sh", *arguments], env=pod.variables, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} ended with exit code {done.returncode}")
    runner, children = (int(line) / 1024 for line in record.read_text().split())  # from KiB
    return Peak(runner, children)


def measure(root: Path, size: int, path: str | None = None) -> tuple[Peak, Peak, GatewayServer]:
    """Save a cache of `size` bytes and restore it elsewhere: the two peaks. `path` replaces PATH in the runner."""
    plan = CachePlan("big", ("cache",))
    with gateway_server.serving(root / "stored") as server:
        first, second = Pod(root / "first", server.url), Pod(root / "second", server.url)
        for pod in (first, second):
            pod.plan(caches=(plan,), upload_budget=3600.0)
            pod.variables |= {"PATH": path} if path is not None else {}
        fill(first.workspace / "cache", size)
        first.write({"exit": "0\n"}, folder="state")
        saved = peak_of(first, "upload")
        restored = peak_of(second, "checkout")
        assert digest(first.workspace / "cache") == digest(second.workspace / "cache")
        return saved, restored, server


def parse_size(text: str) -> int:
    for suffix, factor in (("GiB", 1 << 30), ("MiB", MIB)):
        if text.endswith(suffix):
            return int(float(text.removesuffix(suffix)) * factor)
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("2GiB"))
    parser.add_argument("--without-zstd", action="store_true", help="with an empty PATH: gzip in the runner itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        saved, restored, server = measure(Path(name), options.size, "" if options.without_zstd else None)
        file, form = server.caches["big"]
        sys.stdout.write(
            f"cache of {options.size / MIB:.0f} MiB, stored as {form}: {file.stat().st_size / MIB:.0f} MiB\n"
        )
    for what, peak in (("save", saved), ("restore", restored)):
        sys.stdout.write(
            f"{what}: runner {peak.runner:.1f} MiB + programs {peak.children:.1f} MiB = {peak.total:.1f} MiB\n"
        )
    return 0 if max(saved.total, restored.total) < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())

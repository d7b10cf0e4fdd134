"""(l) Saving and restoring a cache, beside `tar` and `zstd` doing the same to a file: same files, level and threads.

Ours is the runner's own code, through a real gateway over HTTP into a folder: sealed, verified, unpacked beside its
place and moved there.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import IO, Final, Protocol

from benchmarks.figure import Figure, at_least, ratios
from benchmarks.gateway_process import gateway
from benchmarks.suite import BenchmarkError, Options
from runner import compression
from runner.cache import Caches
from runner.environment import Environment
from runner.gateway import Gateway
from runner.retry import RetryPolicy
from runner_spec.plan import CachePlan
from runner_spec.report import CacheReport

MB: Final = 1_000_000
TOKEN: Final = "token-of-a-pod"  # noqa: S105 - of a cluster that is not there
CACHED: Final = "cached"
KIB: Final = 1024
# What a job caches: a package manager's folder (source, small), built modules, and a few archives and binaries.
# By kind: files at full scale, bytes of each at most, and how much of them is random (cannot be compressed).
KINDS: Final = {
    "source": (12_000, 12 * KIB, 0.05),
    "modules": (800, 160 * KIB, 0.3),
    "archives": (4, 40 * KIB * KIB, 0.9),
}
BUDGET_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies in the folder `CACHED` of `root`: how many files, and their bytes together."""

    root: Path
    files: int
    size: int


class Side(Protocol):
    """One of the two that are compared."""

    def save(self, tree: Tree, key: str) -> None:
        """Pack it, under a key that is new."""

    def restore(self, key: str, root: Path) -> None:
        """Unpack what was saved under the key into a new folder."""


def measure(options: Options) -> Iterator[Figure]:
    """Save and restore, ours and theirs in turn."""
    for program in ("tar", "zstd"):
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is not on PATH: install the package {program} (apt-get install {program})")
    tree = make_tree(options.folder / "tree", options.scale)
    (options.folder / "token").write_text(TOKEN, encoding="ascii")
    rates: dict[tuple[str, str], list[float]] = {}
    # The runner tells the job's log what it does.
    with gateway(options.folder, [TOKEN]) as it, redirect_stdout(StringIO()):
        sides: list[tuple[str, Side]] = [("dynapod", Runner(options.folder, it.url)), ("tar", Tar(options.folder))]
        for number in range(options.rounds):
            # Who begins alternates: what the first leaves behind burdens both the same.
            for name, side in sides if number % 2 == 0 else reversed(sides):
                save, restore = both(side, tree, f"round-{number}", options.folder / f"restored-{name}-{number}")
                rates.setdefault(("save", name), []).append(tree.size / MB / save)
                rates.setdefault(("restore", name), []).append(tree.size / MB / restore)
    yield from figures(tree, rates)


def both(side: Side, tree: Tree, key: str, restored: Path) -> tuple[float, float]:
    """Seconds to save, seconds to restore; `restored` stays until all is measured.

    For minutes after files were deleted, ext4 passes over their inodes one by one whenever it makes a file: to restore
    3,841 files took 1.7 s in place of 0.3, on either side, which hid the difference between them.

    Raises:
        BenchmarkError: what was restored is not what was saved.
    """
    save = timed(lambda: side.save(tree, key))
    restored.mkdir()
    restore = timed(lambda: side.restore(key, restored))
    found = [path.stat().st_size for path in (restored / CACHED).rglob("*") if path.is_file()]
    if (len(found), sum(found)) != (tree.files, tree.size):
        raise BenchmarkError(f"{len(found)} files of {sum(found)} bytes were restored, of {tree}")
    return save, restore


def timed(work: Callable[[], None]) -> float:
    """Seconds; what others have left to be written to the disk is written before."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Runner:
    """What runs in the pods, through the gateway at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    def save(self, tree: Tree, key: str) -> None:
        """See `Side`."""
        with closing(self._gateway()) as gateway:
            reports = self._caches(tree.root, key).save([key], gateway, time.monotonic() + BUDGET_S)
        self._require(reports, "saved")

    def restore(self, key: str, root: Path) -> None:
        """See `Side`."""
        self._require(self._caches(root, key).restore(self._gateway), "hit")

    def _gateway(self) -> Gateway:
        return Gateway(self._url, self._folder / "token", RetryPolicy(1.0, 1))

    def _caches(self, workspace: Path, key: str) -> Caches:
        state, home = self._folder / "state", self._folder / "home"
        for path in (state, home):
            path.mkdir(exist_ok=True)
        environment = Environment(workspace, home, state, plan=state, busybox=state)
        return Caches([CachePlan(key, (CACHED,))], environment)

    def _require(self, reports: Sequence[CacheReport], result: str) -> None:
        for report in reports:
            if report.result != result:
                raise BenchmarkError(f"the runner did not do it: {report}")


class Tar:
    """The programs `tar` and `zstd`, and a file; zstd is told what the runner tells it: level, threads, window."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, tree: Tree, key: str) -> None:
        """See `Side`."""
        pack = compression._ZSTD_COMPRESS  # noqa: SLF001 - the runner's own words
        with self._archive(key).open("wb") as archive:
            pipe(["tar", "-C", str(tree.root), "-cf", "-", CACHED], pack, output=archive)

    def restore(self, key: str, root: Path) -> None:
        """See `Side`."""
        unpack = compression._ZSTD_EXPAND  # noqa: SLF001 - the runner's own words
        with self._archive(key).open("rb") as archive:
            pipe(unpack, ["tar", "-C", str(root), "-xf", "-"], source=archive)

    def _archive(self, key: str) -> Path:
        return self._folder / f"{key}.tar.zst"


def pipe(
    first: Sequence[str], second: Sequence[str], *, source: IO[bytes] | None = None, output: IO[bytes] | None = None
) -> None:
    """Run two programs, the first one's output being the second one's input.

    Raises:
        BenchmarkError: one of them failed.
    """
    begin = subprocess.Popen(first, stdin=source or subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert begin.stdout is not None
    with begin.stdout:
        end = subprocess.run(second, stdin=begin.stdout, stdout=output, check=False)
    for program, code in ((first, begin.wait()), (second, end.returncode)):
        if code:
            raise BenchmarkError(f"{' '.join(program)} ended with exit status {code}")


def figures(tree: Tree, rates: Mapping[tuple[str, str], Sequence[float]]) -> Iterator[Figure]:
    """The rates of both, and how they compare."""
    note = f"{tree.files} files, {tree.size / MB:.0f} MB"
    for step in ("save", "restore"):
        ours, theirs = rates[step, "dynapod"], rates[step, "tar"]
        yield Figure("l", f"{step}, through the gateway", "MB/s", tuple(ours), note=note)
        yield Figure("l", f"{step}, tar and zstd", "MB/s", tuple(theirs), note=note)
        yield Figure("l", f"{step}, beside tar and zstd", "", ratios(ours, theirs), at_least(0.9))


def make_tree(root: Path, scale: float) -> Tree:
    """Files of every kind: the same on every run."""
    random = Random(1)  # noqa: S311 - the same on every run
    words = [random.randbytes(random.randint(2, 9)).hex() for _ in range(4000)]
    text = " ".join(random.choices(words, k=400_000)).encode()
    noise = random.randbytes(4 * KIB * KIB)
    files = size = 0
    for kind, (count, largest, randomness) in KINDS.items():
        for number in range(max(1, round(count * scale))):
            path = root / CACHED / kind / f"{number % 50:02}" / f"file-{number}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            wanted = random.randint(largest // 8, largest) if count > 100 else round(largest * min(1.0, scale * 6))
            path.write_bytes(_content(random, wanted, randomness, text, noise))
            files, size = files + 1, size + wanted
    return Tree(root, files, size)


def _content(random: Random, size: int, randomness: float, text: bytes, noise: bytes) -> bytes:
    """Slices of both, by their share."""
    parts, left = [], size
    while left:
        source = noise if random.random() < randomness else text
        length = min(left, 8 * KIB)
        at = random.randrange(len(source) - length)
        parts.append(source[at : at + length])
        left -= length
    return b"".join(parts)

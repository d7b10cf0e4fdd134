"""`make chaos`: a chaos run of any size. Prints its seed, its progress, what was found, and one closing line.

Exit code 0: every promise held; 1: one did not (all evidence is kept in the folder that is printed); 2: bad arguments.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.storm import Scale, Storm


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="what goes wrong, and when; a run is repeated by its seed")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs to submit (20000)")
    parser.add_argument("--kills", type=int, default=500, help="workers to kill by SIGKILL (500)")
    parser.add_argument("--seconds", type=float, default=600.0, help="in about so many seconds, and the settling (600)")
    parser.add_argument("--workers", type=int, default=8, help="workers at a time (8)")
    parser.add_argument("--folder", type=Path, help="where logs and evidence go; a temporary one, kept on failure")
    return parser.parse_args()


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command


def main() -> int:
    asked = arguments()
    seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="dynapod-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"seed {seed}; folder {folder}")
    began = time.monotonic()
    storm = Storm(folder, seed, Scale(asked.jobs, asked.kills, asked.seconds, asked.workers), say)
    report = asyncio.run(storm.run())
    for line in report.lines(storm.kills, storm.faults):
        say(line)
    held = not report.violations
    say(f"seed {seed}: {time.monotonic() - began:.0f} s, {'every promise held' if held else f'see {folder}'}")
    if held and asked.folder is None:
        shutil.rmtree(folder)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

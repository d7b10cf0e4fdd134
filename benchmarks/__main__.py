"""`make bench`: what dynapod costs and how fast it is, measured beside what it is compared with, in one run.

Exit code 0: measured (a target that is missed is shown); 1: one is missed, and --strict; 2: bad arguments, or something
that is needed is missing. Nothing is kept but what is printed. docs/performance.md explains every figure.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.figure import Figure, table
from benchmarks.machine import facts, load
from benchmarks.suite import BENCHES, Bench, BenchmarkError, Options, chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    asked = _parser().parse_args(arguments)
    if asked.list:
        print("\n".join(f"{bench.letter}  {bench.title}" for bench in BENCHES))
        return 0
    try:
        benches = chosen(asked.only)
        known = facts()
        figures, failed = _measure(benches, asked)
        if asked.scale < 1:  # what is promised is promised for the full sizes
            figures = [replace(figure, target=None) for figure in figures]
    except BenchmarkError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    known["load after"] = load()
    if asked.json:
        print(json.dumps({"facts": known, "figures": [figure.as_dict() for figure in figures]}, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in known.items()) + "\n")
        print(table(figures, {bench.letter: bench.title for bench in BENCHES}))
    missed = [figure for figure in figures if figure.missed]
    print(f"{len(figures)} figures, {len(missed)} targets missed", file=sys.stderr)
    return 2 if failed else 1 if missed and asked.strict else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", metavar="LETTERS", help="which, by letter: --only a,h (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often to alternate what is compared (3)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full sizes: 0.1 for a quick look, without targets (1.0)"
    )
    parser.add_argument("--json", action="store_true", help="print every single measurement, as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--list", action="store_true", help="print which benchmarks there are")
    return parser


def _measure(benches: Sequence[Bench], asked: argparse.Namespace) -> tuple[list[Figure], bool]:
    """What each gives; one that cannot be measured is named, and the others go on."""
    if asked.rounds < 1 or not 0 < asked.scale <= 1:
        raise BenchmarkError("give --rounds of at least 1 and a --scale above 0 and up to 1")
    if asked.strict and asked.scale < 1:
        raise BenchmarkError(f"--strict with --scale {asked.scale:g}: targets are for the full sizes; leave out one")
    figures: list[Figure] = []
    failed = False
    for bench in benches:
        began = time.monotonic()
        _say(f"({bench.letter}) {bench.title}")
        with tempfile.TemporaryDirectory(prefix="dynapod-bench-") as folder:
            try:
                figures += bench.measure(Options(asked.rounds, asked.scale, Path(folder), _say))
            except BenchmarkError as error:
                _say(f"    not measured: {error}")
                failed = True
        _say(f"    {time.monotonic() - began:.0f} s")
    return figures, failed


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

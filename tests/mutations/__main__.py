"""`python -m tests.mutations [--only NAME]…`: try every sabotage; `--document` prints docs/mutations.md."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutations.document import document
from tests.mutations.sabotage import Sabotage
from tests.mutations.table import SABOTAGES
from tests.mutations.trial import Trial, TrialError, Verdict


def main() -> int:
    """Returns 0 when all were caught, 1 when one survived, 2 when nothing could be tried."""
    options = _options()
    if options.document:
        sys.stdout.write(document())
        return 0
    chosen = [sabotage for sabotage in SABOTAGES if not options.only or sabotage.name in options.only]
    with tempfile.TemporaryDirectory(prefix="dynapod-mutations-") as folder:
        try:
            verdicts = _campaign(chosen, Path(folder).resolve(), options.workers)
        except TrialError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    caught = sum(verdict.caught for verdict in verdicts)
    _say(f"{len(chosen)} sabotages, {caught} caught")
    return 0 if caught == len(chosen) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="Try every sabotage of the product.")
    names = [sabotage.name for sabotage in SABOTAGES]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="try this one (repeatable)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="how many at a time (2)")
    parser.add_argument("--document", action="store_true", help="print the table for docs/mutations.md, try nothing")
    return parser.parse_args()


def _campaign(chosen: Sequence[Sabotage], folder: Path, workers: int) -> list[Verdict]:
    """Each worker has a copy of its own; the tests pass in it before anything is tried."""
    began = time.monotonic()
    trials = [Trial(folder / str(number)) for number in range(workers)]
    trials[0].check_imports()
    nodes = sorted({node for sabotage in chosen for node in sabotage.caught_by})
    free: SimpleQueue[Trial] = SimpleQueue()
    with ThreadPoolExecutor(workers) as pool:
        shares = [nodes[number::workers] for number in range(workers)]
        for _ in pool.map(
            lambda pair: pair[0].check_unharmed(pair[1]), zip(trials, filter(None, shares), strict=False)
        ):
            pass
        _say(f"{len(nodes)} tests pass without any sabotage, {time.monotonic() - began:.0f} s")
        for trial in trials:
            free.put(trial)

        def attempt(sabotage: Sabotage) -> Verdict:
            trial = free.get()
            try:
                verdict = trial.try_out(sabotage)
            finally:
                free.put(trial)
            _report(verdict)
            return verdict

        return list(pool.map(attempt, chosen))


def _report(verdict: Verdict) -> None:
    sabotage = verdict.sabotage
    if verdict.caught:
        _say(f"caught    {sabotage.name}, by {', '.join(sabotage.caught_by)}, {verdict.seconds:.1f} s")
    else:
        _say(f"SURVIVED  {sabotage.name}: {verdict.why}, {verdict.seconds:.1f} s")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""The jobs of a chaos run, by seed: what is submitted, and what is known beforehand of how it may end.

Most have a script for scripted containers (`tests.chaos.runtime`). A few have none: these are real processes, which
write files and have them uploaded.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.chaos.records import Artifact, Submitted

# Chances of the kinds of jobs; the rest are short and silent.
TALKS: Final = 0.25
FAILS: Final = 0.06
CANCELED: Final = 0.05
DEAF: Final = 0.02
LONG: Final = 0.02
# Real ones: of each hundred, and of a run. Each takes about a second of CPU.
REAL: Final = 0.01
REAL_MOST: Final = 150
NUMBERS: Final = "out/numbers.txt"


@dataclass(frozen=True, slots=True)
class Task:
    """One job to submit; `cancel_after` seconds somebody asks to stop it."""

    facts: Submitted
    description: dict[str, Any]
    cancel_after: float | None


def tasks(seed: int, count: int) -> Iterator[Task]:
    """`count` jobs, the same ones for the same seed."""
    dice, real = random.Random(seed), random.Random(f"{seed} real")
    share = min(REAL, REAL_MOST / max(count, 1))
    for number in range(count):
        scripted = _task(dice, f"chaos-{number}")
        yield _real_task(real, f"real-{number}") if real.random() < share else scripted


def _task(dice: random.Random, job_id: str) -> Task:
    seconds, lines = dice.uniform(0.02, 0.5), 0
    if dice.random() < TALKS:
        seconds, lines = dice.uniform(0.2, 2.0), dice.randint(1, 40)
    if dice.random() < LONG:
        seconds, lines = dice.uniform(5.0, 12.0), dice.randint(20, 200)
    exit_code = dice.randint(1, 120) if dice.random() < FAILS else 0
    cancel_after = dice.uniform(0.0, 3.0) if dice.random() < CANCELED else None
    env = {"CHAOS_SECONDS": f"{seconds:.3f}", "CHAOS_LINES": str(lines), "CHAOS_EXIT": str(exit_code)}
    if dice.random() < DEAF:
        env["CHAOS_DEAF"] = "1"
    description: dict[str, Any] = {
        "name": "chaos",
        "image": "local",
        "env": env,
        "steps": [{"name": "run", "run": "true"}],
        "timeout": "5m",
    }
    if exit_code and dice.random() < 0.5:
        description["retry"] = {"attempts": 2}
    return Task(Submitted(job_id, exit_code, canceled=cancel_after is not None), description, cancel_after)


def _real_task(dice: random.Random, job_id: str) -> Task:
    exit_code = dice.randint(1, 60) if dice.random() < FAILS else 0
    cancel_after = dice.uniform(0.0, 6.0) if dice.random() < CANCELED else None
    # Up to half a megabyte: more than the runner sends at once.
    count, seconds = dice.randint(1, 30_000), dice.uniform(0.05, 1.5)
    description, made = real_job(job_id, count, seconds=seconds, exit_code=exit_code)
    facts = Submitted(job_id, exit_code, canceled=cancel_after is not None, artifacts=made)
    return Task(facts, description, cancel_after)


def real_job(
    job_id: str, count: int, *, seconds: float = 0.0, exit_code: int = 0
) -> tuple[dict[str, Any], tuple[Artifact, ...]]:
    """The description of a job without a script, and the files that it makes.

    It writes a file of `count` lines and a short one, speaks, lasts `seconds`, and ends with `exit_code`.
    """
    script = f"""
        mkdir -p out
        seq 1 {count} | sed 's/^/{job_id} /' > {NUMBERS}
        tail -n 20 {NUMBERS}
        sleep {seconds:.2f}
        wc -l < {NUMBERS} | tr -d ' ' | tee out/count.txt
        exit {exit_code}
    """
    description: dict[str, Any] = {
        "name": "real",
        "image": "local",
        "steps": [{"name": "run", "run": script}],
        "artifacts": [
            {"name": "numbers", "paths": ["out/n*.txt"]},
            {"name": "count", "paths": ["out/count.txt"], "when": "always"},
        ],
        "timeout": "5m",
    }
    content = "".join(f"{job_id} {number}\n" for number in range(1, count + 1)).encode()
    made = Artifact("numbers", NUMBERS, content), Artifact("count", "out/count.txt", f"{count}\n".encode())
    return description, made

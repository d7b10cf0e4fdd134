"""The jobs of a chaos run, by seed: what is submitted, and what is known beforehand of how it may end."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.chaos.records import Submitted

# Chances of the kinds of jobs; the rest are short and silent.
TALKS: Final = 0.25
FAILS: Final = 0.06
CANCELED: Final = 0.05
DEAF: Final = 0.02
LONG: Final = 0.02


@dataclass(frozen=True, slots=True)
class Task:
    """One job to submit; `cancel_after` seconds somebody asks to stop it."""

    facts: Submitted
    description: dict[str, Any]
    cancel_after: float | None


def tasks(seed: int, count: int) -> Iterator[Task]:
    """`count` jobs, the same ones for the same seed."""
    dice = random.Random(seed)
    for number in range(count):
        yield _task(dice, f"chaos-{number}")


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

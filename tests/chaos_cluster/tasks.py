"""The jobs of a chaos run on a real cluster, by seed: those for real pods, and those for the fake node."""

import random
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.chaos.jobs import Task
from tests.chaos.records import Artifact, Submitted
from tests.chaos_cluster.pod_program import artifact
from tests.cluster import images

ROOT: Final = Path(__file__).parents[2]
# What the pod runs: the very code that tells the checker what was written.
MODULES: Final = ("tests/chaos/scripted_log.py", "tests/chaos_cluster/pod_program.py")
MARK: Final = "END_OF_THE_MODULE"
FAILS: Final = 0.08
CANCELED: Final = 0.06
DEAF: Final = 0.03
LONG: Final = 0.1
UPLOADS: Final = 0.2


def script() -> str:
    """The step of every real job."""
    folders = sorted({str(Path(module).parent) for module in MODULES})
    lines = [f"mkdir -p {shlex.join(folders)}"]
    for module in MODULES:
        text = (ROOT / module).read_text(encoding="utf-8")
        assert MARK not in text.splitlines(), module
        lines += [f"cat >{module} <<'{MARK}'", text.rstrip("\n"), MARK]
    return "\n".join([*lines, "exec python3 -S -m tests.chaos_cluster.pod_program", ""])


def real_tasks(seed: int, count: int, collector: str) -> Iterator[Task]:
    """`count` jobs for real pods; `collector` is the address (host:port) that they report to."""
    dice, step = random.Random(f"{seed} real"), script()
    for number in range(count):
        yield _real(dice, f"real-{number}", step, collector)


def fake_tasks(seed: int, count: int) -> Iterator[Task]:
    """`count` jobs whose pods nobody runs: they are created, seen to end well, and deleted."""
    dice = random.Random(f"{seed} fake")
    for number in range(count):
        description = {"name": "fake", "image": images.JOB, "steps": [{"name": "run", "run": "true"}], "timeout": "5m"}
        cancel_after = dice.uniform(0.0, 4.0) if dice.random() < CANCELED else None
        yield Task(Submitted(f"fake-{number}", canceled=cancel_after is not None), description, cancel_after)


def _real(dice: random.Random, job: str, step: str, collector: str) -> Task:
    seconds, lines = dice.uniform(0.2, 4.0), dice.randint(0, 60)
    if dice.random() < LONG:
        seconds, lines = dice.uniform(10.0, 25.0), dice.randint(50, 600)
    exit_code = dice.randint(1, 120) if dice.random() < FAILS else 0
    cancel_after = dice.uniform(0.0, 12.0) if dice.random() < CANCELED else None
    size = dice.randint(1, 500_000) if dice.random() < UPLOADS else 0
    env = {
        "CHAOS_COLLECTOR": collector,
        "CHAOS_SECONDS": f"{seconds:.3f}",
        "CHAOS_LINES": str(lines),
        "CHAOS_EXIT": str(exit_code),
        "CHAOS_ARTIFACT": str(size),
        **({"CHAOS_DEAF": "1"} if dice.random() < DEAF else {}),
    }
    description: dict[str, Any] = {
        "name": "real",
        "image": images.JOB,
        "env": env,
        "steps": [{"name": "run", "run": step}],
        "timeout": "5m",
    }
    made: tuple[Artifact, ...] = ()
    if size:
        path = "out/artifact.txt"
        description["artifacts"] = [{"name": "output", "paths": [path]}]
        made = (Artifact("output", path, artifact(job, size)),)
    if exit_code and dice.random() < 0.5:
        description["retry"] = {"attempts": 2}
    return Task(Submitted(job, exit_code, canceled=cancel_after is not None, artifacts=made), description, cancel_after)

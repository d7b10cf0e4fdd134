"""Reads a Dockerfile into its instructions, continuation lines joined and comments left out."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = tuple(sorted((ROOT / "docker").glob("*.Dockerfile")))
ALL = (*PRODUCT, *sorted((ROOT / "tests" / "images").glob("*.Dockerfile")))


@dataclass(frozen=True)
class Instruction:
    name: str
    arguments: str

    @property
    def words(self) -> list[str]:
        return self.arguments.split()


def read(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not re.match(r"\s*(#|$)", line)]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in text.splitlines()]


def last_stage(instructions: list[Instruction]) -> list[Instruction]:
    start = max(place for place, instruction in enumerate(instructions) if instruction.name == "FROM")
    return instructions[start:]

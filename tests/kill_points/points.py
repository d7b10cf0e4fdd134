"""Await points: every place in the worker's own modules where it gives up control, found in the sources.

An id is `module:qualified.name#n`, the n-th await point of that function in the order of the text: it survives whatever
happens to lines elsewhere. `async with` has two points, one where it enters and one, `…#n.exit`, where it leaves.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# Of the worker's process: the queue, supervision, logs, and the adapters that it speaks through.
SOURCES: Final = (
    "worker/*.py",
    "worker/queue/*.py",
    "adapters/kubernetes_api.py",
    "adapters/redis_*.py",
    "adapters/object_store.py",
)
# Part of producers and of the command line: no worker process imports it, and a test says so.
NOT_THE_WORKER: Final = frozenset({"worker.client"})
EXIT: Final = ".exit"


@dataclass(frozen=True, slots=True)
class Point:
    """One await point: its id and where it stands."""

    id: str
    file: str
    line: int
    kind: str


class Numbering:
    """Gives the await points of one module their ids; the sources are read, and changed, in the same order."""

    def __init__(self, module: str) -> None:
        self.module = module
        self._scope: list[str] = []
        self._numbers: Counter[str] = Counter()

    def enter(self, name: str) -> None:
        """A class or function begins."""
        self._scope.append(name)

    def leave(self) -> None:
        """It ends."""
        self._scope.pop()

    def next(self) -> str:
        """The id of the next await point."""
        name = ".".join(self._scope)
        self._numbers[name] += 1
        return f"{self.module}:{name}#{self._numbers[name]}"


class _Finder(ast.NodeVisitor):
    def __init__(self, module: str, file: str) -> None:
        self._numbering = Numbering(module)
        self._file = file
        self.points: list[Point] = []

    def _scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._numbering.enter(node.name)
        self.generic_visit(node)
        self._numbering.leave()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _scope  # noqa: N815 - `ast` asks for these names

    def visit_Await(self, node: ast.Await) -> None:
        self._add(node.lineno, "await")
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._add(node.lineno, "async for")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if node.is_async:
            self._add(node.iter.lineno, "async for")
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        for item in node.items:
            found = self._add(item.context_expr.lineno, "async with")
            self.points.append(Point(found + EXIT, self._file, item.context_expr.lineno, "async with, leaving"))
        self.generic_visit(node)

    def _add(self, line: int, kind: str) -> str:
        name = self._numbering.next()
        self.points.append(Point(name, self._file, line, kind))
        return name


def modules() -> dict[str, Path]:
    """The worker's modules, by name."""
    files = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return {name: path for name, path in named.items() if name not in NOT_THE_WORKER}


def points() -> list[Point]:
    """All of them."""
    return [point for module, path in modules().items() for point in _points(module, path)]


def _points(module: str, path: Path) -> Iterator[Point]:
    finder = _Finder(module, str(path.relative_to(ROOT)))
    finder.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    yield from finder.points

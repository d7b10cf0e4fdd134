"""Every await point of the worker has an id, is in the changed modules, and is not listed in vain."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill_points.instrument import _Instrumenter
from tests.kill_points.points import EXIT, NOT_THE_WORKER, modules, points
from tests.kill_points.unreachable import stale

SAMPLE = """
class Door:
    async def open(self, keys):
        async with self.lock, keys as key:
            await self.turn(await key.take())
        async for guest in self.guests():
            yield [name async for name in guest.names()]

    async def turn(self, key):
        def later():
            return 1
        await key
"""


def test_points_are_numbered_within_their_function_in_the_order_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "door.py").write_text(SAMPLE)
    monkeypatch.setattr("tests.kill_points.points.ROOT", tmp_path)
    found = {(point.id.removeprefix("worker.door:Door."), point.kind) for point in points()}
    assert found == {
        ("open#1", "async with"),
        ("open#1.exit", "async with, leaving"),
        ("open#2", "async with"),
        ("open#2.exit", "async with, leaving"),
        ("open#3", "await"),
        ("open#4", "await"),
        ("open#5", "async for"),
        ("open#6", "async for"),
        ("turn#1", "await"),
    }


def test_each_point_of_the_sources_is_one_of_the_changed_modules() -> None:
    changed: list[str] = []
    for module, path in modules().items():
        tree = _Instrumenter(module).visit(ast.parse(path.read_text(encoding="utf-8")))
        texts = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        changed += [text for text in texts if text.startswith(f"{module}:") and "#" in text]
    inner = [point.id for point in points() if not point.id.endswith(EXIT)]
    assert sorted(inner) == sorted(set(changed))
    assert len(inner) == len(set(inner)) > 300


def test_lines_of_the_changed_modules_are_those_of_the_sources() -> None:
    for module, path in modules().items():
        source = ast.parse(path.read_text(encoding="utf-8"))
        changed = ast.fix_missing_locations(_Instrumenter(module).visit(ast.parse(path.read_text(encoding="utf-8"))))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign, ast.Return, ast.Await)
        assert _lines(source, kinds) == _lines(changed, kinds), module


def _lines(tree: ast.AST, kinds: tuple[type[ast.stmt | ast.expr], ...]) -> list[tuple[str, int]]:
    return sorted((type(node).__name__, node.lineno) for node in ast.walk(tree) if isinstance(node, kinds))


def test_modules_that_are_left_out_are_not_in_a_worker_process() -> None:
    code = "import sys, worker.service; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert NOT_THE_WORKER.isdisjoint(loaded)
    assert {name for name in modules() if name not in loaded} <= {"worker.tasks", "worker.job_status"}


def test_no_name_is_listed_that_is_not_in_the_sources() -> None:
    assert stale(points()) == []

"""Calls before and after each await point, put into the worker's modules as they are imported; no file is changed.

Only for worker processes of these tests: `install` is called by `worker_process`, before it imports the worker.
"""

import ast
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any, Final

from tests.kill_points.points import EXIT, Numbering, modules

BEFORE: Final = "before"
AFTER: Final = "after"
PHASES: Final = (BEFORE, AFTER)
_NAME: Final = "__kill_points__"


@dataclass(frozen=True, slots=True)
class Victim:
    """Where a process is to die: at its `nth` pass through the point, before or after what is awaited there."""

    point: str
    phase: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.point}@{self.phase}@{self.nth}"

    @classmethod
    def parse(cls, text: str) -> "Victim":
        """What `str` wrote; phase and number may be left out."""
        point, _, rest = text.partition("@")
        phase, _, nth = rest.partition("@")
        return cls(point, phase or BEFORE, int(nth or 1))


class _Passes:
    """Of this process: how often each point was passed, told to the file as it happens; and where the process dies."""

    def __init__(self) -> None:
        self.victim: Victim | None = None
        self.file = -1
        self.counts: Counter[tuple[str, str]] = Counter()

    def point(self, name: str, phase: str) -> None:
        if self.file < 0:
            return
        self.counts[name, phase] += 1
        # One write each: what is written is in the file, however the process ends.
        os.write(self.file, f"{name} {phase}\n".encode())
        victim = self.victim
        if victim is not None and (name, phase, self.counts[name, phase]) == (victim.point, victim.phase, victim.nth):
            os.kill(os.getpid(), signal.SIGKILL)


_passes: Final = _Passes()


def arm(file: Path, victim: Victim | None) -> None:
    """From now on passes are written to the file, and the victim's is the last one."""
    _passes.file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _passes.victim = victim


class Hooks:
    """What the changed modules call."""

    @staticmethod
    def before(name: str) -> None:
        _passes.point(name, BEFORE)

    @staticmethod
    def after(name: str, value: Any) -> Any:
        _passes.point(name, AFTER)
        return value

    class Items:
        """An asynchronous iterator; each of its items is awaited at the point."""

        def __init__(self, name: str, source: Any) -> None:
            self._name = name
            self._source = source

        def __aiter__(self) -> "Hooks.Items":
            self._iterator: AsyncIterator[Any] = self._source.__aiter__()
            return self

        async def __anext__(self) -> Any:
            _passes.point(self._name, BEFORE)
            try:
                return await self._iterator.__anext__()
            finally:  # the end of the items is an answer, too
                _passes.point(self._name, AFTER)

    class Within:
        """An asynchronous context manager; two points: where it enters, and where it leaves."""

        def __init__(self, name: str, manager: AbstractAsyncContextManager[Any]) -> None:
            self._name = name
            self._manager = manager

        async def __aenter__(self) -> Any:
            _passes.point(self._name, BEFORE)
            entered = await self._manager.__aenter__()
            _passes.point(self._name, AFTER)
            return entered

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool | None:
            _passes.point(self._name + EXIT, BEFORE)
            try:
                return await self._manager.__aexit__(kind, error, trace)
            finally:
                _passes.point(self._name + EXIT, AFTER)


class _Instrumenter(ast.NodeTransformer):
    """`await x` becomes `after(id, await (before(id), x)[1])`; the rest likewise. Lines stay what they were."""

    def __init__(self, module: str) -> None:
        self._numbering = Numbering(module)

    def _scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._numbering.enter(node.name)
        self.generic_visit(node)
        self._numbering.leave()
        return node

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _scope  # noqa: N815 - `ast` asks for these names

    def visit_Await(self, node: ast.Await) -> ast.AST:
        name = ast.Constant(self._numbering.next())
        self.generic_visit(node)
        pair = ast.Tuple([_call("before", name), node.value], ast.Load())
        node.value = ast.Subscript(pair, ast.Constant(1), ast.Load())
        return _at(node, _call("after", name, node))

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        name = ast.Constant(self._numbering.next())
        self.generic_visit(node)
        node.iter = _at(node.iter, _call("Items", name, node.iter))
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        name = ast.Constant(self._numbering.next()) if node.is_async else None
        self.generic_visit(node)
        if name is not None:
            node.iter = _at(node.iter, _call("Items", name, node.iter))
        return node

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        names = [ast.Constant(self._numbering.next()) for _ in node.items]
        self.generic_visit(node)
        for item, name in zip(node.items, names, strict=True):
            item.context_expr = _at(item.context_expr, _call("Within", name, item.context_expr))
        return node


def _call(hook: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(ast.Name(_NAME, ast.Load()), hook, ast.Load()), list(arguments), [])


def _at(old: ast.expr, new: ast.expr) -> ast.expr:
    return ast.fix_missing_locations(ast.copy_location(new, old))


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Always from the source: neither reads nor writes the cache of compiled modules."""
        del fullname
        data = self.get_data(self.path)
        return self.source_to_code(data, self.path)

    def source_to_code(  # type: ignore[override]  # typeshed has a static method, the library an ordinary one
        self, data: Any, path: Any, *, _optimize: int = -1
    ) -> CodeType:
        tree = _Instrumenter(self.name).visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, _NAME, Hooks)
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self._files = modules()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        file = self._files.get(fullname)
        if file is None:
            return None
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Loader(fullname, str(file))
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


def install() -> None:
    """From now on the worker's modules are imported with the calls in them.

    Raises:
        RuntimeError: one of them has been imported without.
    """
    early = sorted(modules().keys() & sys.modules.keys())
    if early:
        raise RuntimeError(f"imported before they could be changed: {', '.join(early)}")
    sys.meta_path.insert(0, _Finder())

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from adapters.kubernetes_package import defer_init


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose `__init__` leaves a trace, and a part that imports a sibling by its full name."""
    name = "package_to_defer"
    folder = tmp_path / name
    (folder / "part").mkdir(parents=True)
    (folder / "__init__.py").write_text("VALUE = 7\n")
    (folder / "part" / "__init__.py").write_text(f"import {name}.part.inner as inner\n")
    (folder / "part" / "inner.py").write_text("VALUE = 8\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [found for found in sys.modules if found.partition(".")[0] == name]:
        del sys.modules[module]


def test_a_part_is_imported_without_running_the_package(package: str) -> None:
    defer_init(package)
    assert import_module(f"{package}.part").inner.VALUE == 8
    assert "VALUE" not in vars(sys.modules[package])


def test_the_package_runs_when_something_of_it_is_asked_for(package: str) -> None:
    defer_init(package)
    assert import_module(package).VALUE == 7
    with pytest.raises(AttributeError, match="nonsense"):
        import_module(package).nonsense  # noqa: B018 - that it raises is the point


def test_a_package_that_was_imported_before_stays_as_it_is(package: str) -> None:
    before = import_module(package)
    defer_init(package)
    assert import_module(package) is before


def test_a_package_that_is_not_installed_is_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        defer_init("not_installed_here")


def test_our_adapter_leaves_the_synchronous_client_out_and_usable() -> None:
    program = """
import sys
import adapters.kubernetes_api
assert "kubernetes.client" not in sys.modules
assert "requests" not in sys.modules
import kubernetes
print(kubernetes.client.CoreV1Api.__name__)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout == "CoreV1Api\n"

import ast
import subprocess
import sys

import pytest

from tests.mutations.document import document
from tests.mutations.sabotage import Sabotage
from tests.mutations.table import SABOTAGES
from tests.mutations.trial import PROJECT


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_each_sabotage_is_one_edit_of_the_product_as_it_is(sabotage: Sabotage) -> None:
    sound = (PROJECT / sabotage.file).read_text(encoding="utf-8")
    harmed = sabotage.applied_to(sound)
    assert harmed != sound
    assert not sabotage.file.startswith("tests/")
    if sabotage.file.endswith(".py"):
        assert ast.dump(ast.parse(harmed)) != ast.dump(ast.parse(sound))


def test_names_are_unique_and_each_is_caught_by_one_or_two_tests() -> None:
    names = [sabotage.name for sabotage in SABOTAGES]
    assert len(set(names)) == len(names)
    assert all(1 <= len(sabotage.caught_by) <= 2 for sabotage in SABOTAGES)


def test_every_test_that_is_named_exists() -> None:
    nodes = sorted({node for sabotage in SABOTAGES for node in sabotage.caught_by})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", *nodes],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_is_the_table() -> None:
    written = (PROJECT / "docs" / "mutations.md").read_text(encoding="utf-8")
    assert written == document(), "run: python -m tests.mutations --document > docs/mutations.md"


def test_an_edit_that_no_longer_fits_is_refused() -> None:
    sabotage = Sabotage("x", "worker/x.py", "a = 1", "a = 2", "nothing", ("tests/x.py::test_x",))
    assert sabotage.applied_to("b\na = 1\n") == "b\na = 2\n"
    for text in ("a = 2\n", "a = 1\na = 1\n"):
        with pytest.raises(ValueError, match=r"x: 'a = 1' occurs [02] times in worker/x\.py, not once"):
            sabotage.applied_to(text)

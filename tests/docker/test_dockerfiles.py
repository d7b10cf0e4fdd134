"""What every Dockerfile of the project keeps to, and that the runner's image holds what the runner imports."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.dockerfile import ALL, PRODUCT, ROOT, last_stage, read

every = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
product = pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.stem)

LIST_IMPORTS = """
import json, pkgutil, sys, importlib, runner
for module in pkgutil.iter_modules(runner.__path__):
    importlib.import_module(f"runner.{module.name}")
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, Path]:
    """Every module that is loaded when all of the runner is, by name; without built-in ones."""
    command = [sys.executable, "-c", LIST_IMPORTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return {name: Path(file) for name, file in json.loads(done.stdout).items() if file}


def test_all_images_are_found() -> None:
    assert [path.stem for path in ALL] == ["runner", "worker", "job", "services"]


@every
def test_the_base_is_an_argument_without_a_default(path: Path) -> None:
    instructions = read(path)
    assert (instructions[0].name, instructions[0].arguments) == ("ARG", "BASE")
    assert instructions[1].words[0] == "${BASE}"


@every
def test_stages_begin_with_the_base_or_with_nothing(path: Path) -> None:
    origins = {instruction.words[0] for instruction in read(path) if instruction.name == "FROM"}
    assert origins <= {"${BASE}", "scratch"}


@every
def test_no_host_is_named_and_nothing_is_fetched_by_address(path: Path) -> None:
    assert not re.search(r"https?:|git@|\w\.(com|dev|io|net|org)\b", path.read_text(encoding="utf-8"))
    assert "ADD" not in {instruction.name for instruction in read(path)}
    for instruction in read(path):
        if instruction.name == "COPY":
            assert not re.search(r"--from=(?!assembled|built)", instruction.arguments)


def without_labels(path: Path) -> str:
    return "\n".join(instruction.arguments for instruction in read(path) if instruction.name != "LABEL")


@every
def test_the_user_is_a_number_and_not_root(path: Path) -> None:
    users = [instruction.arguments for instruction in last_stage(read(path)) if instruction.name == "USER"]
    assert users, "without USER the image runs as root"
    user, group = users[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


@every
def test_no_architecture_is_named(path: Path) -> None:
    assert not re.search(r"amd64|x86|arm64|aarch64|--platform", path.read_text(encoding="utf-8"))


@product
def test_the_last_stage_holds_one_copied_tree_and_runs_nothing(path: Path) -> None:
    final = last_stage(read(path))
    assert final[0].arguments == "scratch"
    assert "RUN" not in {instruction.name for instruction in final}
    copies = [instruction.words for instruction in final if instruction.name == "COPY"]
    assert [words[1:] for words in copies] == [["/rootfs", "/"]]


@product
def test_the_labels_name_the_image_and_its_version(path: Path) -> None:
    final = last_stage(read(path))
    labels = " ".join(instruction.arguments for instruction in final if instruction.name == "LABEL")
    assert f'org.opencontainers.image.title="dynapod-{path.stem}"' in labels
    assert 'org.opencontainers.image.version="$VERSION"' in labels
    assert any(instruction.name == "ARG" and instruction.words[0].startswith("VERSION") for instruction in final)


@product
def test_pip_installs_locked_wheels_only(path: Path) -> None:
    instructions = read(path)
    installs = re.findall(r"pip(?: --python \S+)? install ([^&]*)", without_labels(path))
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index" in arguments, arguments
    if installs:
        assert any("PIP_ONLY_BINARY=:all:" in one.arguments for one in instructions if one.name == "ENV")


def test_the_runner_image_holds_every_module_that_the_runner_imports(imported: dict[str, Path]) -> None:
    copied = [one.words for one in read(ROOT / "docker" / "runner.Dockerfile") if one.name == "COPY"]
    names = {word for words in copied if not words[0].startswith("--") for word in words[:-1]}
    own = [path for path in imported.values() if path.is_relative_to(ROOT) and "site-packages" not in path.parts]
    needed = {path.relative_to(ROOT).as_posix() for path in own}
    from_spec = {name for name in needed if name.startswith("runner_spec/")}
    assert from_spec
    assert {name for name in names if name.startswith("runner_spec/")} == from_spec
    assert "runner" in names  # the whole folder
    assert {Path(name).parts[0] for name in needed} == {"runner", "runner_spec"}


def test_the_runner_imports_nothing_but_itself_and_the_standard_library(imported: dict[str, Path]) -> None:
    roots = {name.partition(".")[0] for name, path in imported.items() if "site-packages" in path.parts}
    # What an editable install puts into every process of this environment.
    assert {name for name in roots if not name.startswith(("_", "sitecustomize", "distutils"))} == set()


@every
def test_what_is_copied_from_the_context_is_let_into_it(path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for instruction in read(path):
        if instruction.name == "COPY" and not instruction.arguments.startswith("--from"):
            for source in instruction.words[:-1]:
                parents = {source, *(parent.as_posix() for parent in Path(source).parents)}
                assert source == "." or parents & allowed, f"{source} is not in .dockerignore's list"
                assert (ROOT / source).exists(), source


def test_the_context_is_an_allow_list() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line for line in rules[1:] if not line.startswith("!")} <= {"**/__pycache__", "**/*.egg-info"}
    for line in rules[1:]:
        assert not re.match(r"!\.(git|venv|dynapod)", line)

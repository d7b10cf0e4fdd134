"""The builder of the images' file trees: what it takes along, what it leaves out, what it refuses."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docker.dockerfile import ROOT

UNCHECKED_HASH = 0b01  # PEP 552: bit 0 says that there is a hash, bit 1 that it is to be compared with the source


def load() -> ModuleType:
    """The script, which stands in a folder of Dockerfiles and in no package."""
    spec = importlib.util.spec_from_file_location("rootfs", ROOT / "docker" / "rootfs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["rootfs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


rootfs = load()

# name, what it provides, what it needs: as dpkg-query prints them
LISTING = """\
git\t\tlibc6 (>= 2.36), libcurl, perl, git-man (>> 1:2)
perl\t\tperl-base (= 5.36), libc6
perl-base\t\tlibc6
curl-gnutls\tlibcurl (= 7), curl-any\tlibc6:any
libc6\t\tlibgcc-s1
libgcc-s1\t\tlibc6
mawk\tawk\tlibc6
base-files\t\tawk,
tool\t\tmissing | libc6
"""


@pytest.fixture
def packages() -> dict[str, object]:
    found: dict[str, object] = rootfs.parse_packages(LISTING)
    return found


def test_a_package_comes_with_all_that_it_needs(packages: dict[str, object]) -> None:
    assert rootfs.closure(packages, ["git"], ["git-man"]) == [
        *("curl-gnutls", "git", "libc6", "libgcc-s1", "perl", "perl-base")
    ]


def test_what_only_a_package_that_is_left_out_needs_is_left_out_too(packages: dict[str, object]) -> None:
    assert "perl-base" not in rootfs.closure(packages, ["git"], ["perl", "git-man"])


def test_a_dependency_may_be_left_out_by_the_name_that_is_asked_for(packages: dict[str, object]) -> None:
    assert rootfs.closure(packages, ["base-files"], ["awk"]) == ["base-files"]
    assert rootfs.closure(packages, ["base-files"], []) == ["base-files", "libc6", "libgcc-s1", "mawk"]


def test_of_alternatives_the_one_that_is_installed_is_taken(packages: dict[str, object]) -> None:
    assert rootfs.closure(packages, ["tool"], []) == ["libc6", "libgcc-s1", "tool"]


def test_a_package_that_is_not_installed_is_named(packages: dict[str, object]) -> None:
    with pytest.raises(rootfs.BuildError, match="package git-man is not installed in this stage"):
        rootfs.closure(packages, ["git"], ["perl"])


def test_leaving_out_what_nothing_needs_is_an_error(packages: dict[str, object]) -> None:
    with pytest.raises(rootfs.BuildError, match="--without adduser: nothing depends on it"):
        rootfs.closure(packages, ["tool"], ["adduser"])


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("/usr/share/doc/git/README.gz", True),
        ("/usr/share/doc/git/copyright", False),
        ("/usr/share/man/man1/git.1.gz", True),
        ("/usr/share/zoneinfo/UTC", False),
        ("/usr/bin/git", False),
    ],
)
def test_documentation_is_left_out_but_not_the_licences(path: str, left_out: bool) -> None:  # noqa: FBT001 - a table
    assert bool(rootfs.LEFT_OUT.fullmatch(path)) is left_out


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_program_without_its_interpreter_is_removed_and_a_module_never(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/elsewhere/dash")
    kept = [
        script(tmp_path / "bin" / "submodule", "#!/bin/sh -e\n"),
        script(tmp_path / "lib" / "pydoc.py", "#!/usr/bin/env python3\n"),
        script(tmp_path / "lib" / "template", "#!/usr/bin/perl\n", 0o644),
    ]
    orphan = script(tmp_path / "bin" / "send-email", "#!/usr/bin/perl\n")
    rootfs.remove_orphaned_scripts(tmp_path)
    assert not orphan.exists()
    assert all(path.exists() for path in kept)


def test_byte_code_is_used_without_a_look_at_its_source(tmp_path: Path) -> None:
    module = script(tmp_path / "opt" / "module.py", "ANSWER = 42\n", 0o644)
    slow = script(tmp_path / "opt" / "slow" / "module.py", "ANSWER = 43\n", 0o644)
    rootfs.compile_modules(tmp_path, "/slow/")
    (compiled,) = (tmp_path / "opt" / "__pycache__").iterdir()
    assert int.from_bytes(compiled.read_bytes()[4:8], "little") == UNCHECKED_HASH
    assert bytes(tmp_path) not in compiled.read_bytes()  # a traceback names the file's place in the image
    assert not (slow.parent / "__pycache__").exists()
    module.write_text("ANSWER = 0\n")
    os.utime(module, (1, 1))
    show = [sys.executable, "-c", "import module; print(module.ANSWER)"]
    done = subprocess.run(show, cwd=module.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_a_module_that_cannot_be_compiled_stops_the_build(tmp_path: Path) -> None:
    script(tmp_path / "broken.py", "def\n")
    with pytest.raises(rootfs.BuildError, match="SyntaxError"):
        rootfs.compile_modules(tmp_path, "")


def test_a_program_that_lacks_a_library_stops_the_build(tmp_path: Path) -> None:
    program = Path(shutil.which("ls") or "").resolve()
    (tmp_path / "bin").mkdir()
    shutil.copy(program, tmp_path / "bin" / "ls")
    with pytest.raises(rootfs.BuildError, match=r"bin/ls needs libc\.so\.6"):
        rootfs.check_libraries(tmp_path)
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in [Path(line.split()[2]) for line in listing.splitlines() if "=> /" in line]:
        place = tmp_path / library.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    rootfs.check_libraries(tmp_path)


def test_modes_do_not_depend_on_who_builds_and_grant_no_privilege(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir(mode=0o700)
    (tmp_path / "folder").mkdir(mode=0o700)
    expected = {
        tmp_path / "tmp": 0o1777,
        tmp_path / "folder": 0o755,
        script(tmp_path / "ssh-keysign", "", 0o4711): 0o755,
        script(tmp_path / "private", "", 0o600): 0o644,
        script(tmp_path / "shared", "", 0o666): 0o644,
    }
    assert {path: rootfs.mode(path, tmp_path) for path in expected} == expected


def test_errors_end_the_build_with_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script(tmp_path / "etc" / "ld.so.conf", "", 0o644)
    script(tmp_path / "broken.py", "def\n")
    assert rootfs.main(["seal", str(tmp_path), "--epoch", "1"]) == 1
    assert capsys.readouterr().err.startswith("rootfs: ")

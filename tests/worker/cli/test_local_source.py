import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from worker.cli.exit_status import InvalidInputError
from worker.cli.local_source import local_source, source_files
from worker.cli.staging import LIST_LIMIT_BYTES, staged_source

DESCRIPTION: dict[str, Any] = {"image": "a", "steps": [{"run": "true"}]}


def git(folder: Path, *arguments: str) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, env=environment)


def source(description: dict[str, Any], folder: Path, **options: Any) -> Any:
    return local_source(description, folder, **options)["source"]


def test_without_a_source_the_files_own_folder_is_copied(tmp_path: Path) -> None:
    assert source(DESCRIPTION, tmp_path) == {"folder": str(tmp_path)}


def test_no_source_at_all_can_be_asked_for(tmp_path: Path) -> None:
    assert source({**DESCRIPTION, "source": None}, tmp_path) is None


def test_nobody_is_kept_waiting_by_a_local_run(tmp_path: Path) -> None:
    """There is nothing to `kubectl exec` into; what is wrong stays, for validation to say so."""
    assert "keep" not in local_source({**DESCRIPTION, "keep": "on-failure 1h"}, tmp_path)
    assert local_source({**DESCRIPTION, "keep": 7}, tmp_path)["keep"] == 7


def test_relative_paths_begin_at_the_descriptions_folder(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert source({"source": {"git": ".", "ref": "main"}}, tmp_path) == {"git": tmp_path.as_uri(), "ref": "main"}
    assert source({"source": {"git": "a b"}}, tmp_path) == {"git": (tmp_path / "a b").as_uri()}
    assert source({"source": {"folder": "a b"}}, tmp_path) == {"folder": str(tmp_path / "a b")}
    assert source({"source": {"git": "../x"}}, tmp_path / "a b", override=".")["folder"] == str(Path.cwd())


@pytest.mark.parametrize(
    "url", ["https://git.example/a.git", "git@git.example:a.git", "ssh://git.example/a", "file:///a"]
)
def test_urls_stay_urls(tmp_path: Path, url: str) -> None:
    assert source({"source": {"git": url, "depth": 0}}, tmp_path) == {"git": url, "depth": 0}
    assert source(DESCRIPTION, tmp_path, override=url, ref="v1") == {"git": url, "ref": "v1"}


def test_a_path_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"source\.git: there is no folder .*/nowhere"):
        local_source({"source": {"git": "nowhere"}}, tmp_path)
    with pytest.raises(InvalidInputError, match=r"--source: there is no folder"):
        local_source(DESCRIPTION, tmp_path, override=str(tmp_path / "nowhere"))


def test_another_folder_is_copied_and_another_ref_is_checked_out(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    private = {"source": {"git": "https://git.example/a.git", "depth": 0}}
    assert source(private, tmp_path, override=str(other)) == {"folder": str(other)}
    assert source(private, tmp_path, override=str(other), ref="v1") == {
        "depth": 0,
        "git": other.as_uri(),
        "ref": "v1",
    }
    assert source(DESCRIPTION, tmp_path, ref="v1") == {"git": tmp_path.as_uri(), "ref": "v1"}


def test_what_is_no_source_is_left_for_validation(tmp_path: Path) -> None:
    assert source({"source": 7}, tmp_path) == 7
    assert source({"source": {"git": 7}}, tmp_path) == {"git": 7}
    with pytest.raises(InvalidInputError, match="--ref"):
        local_source({"source": 7}, tmp_path, ref="v1")


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    for name in ("tracked.py", "deleted.py", "ignored.pyc", "new file.py", "sub/tracked.py", ".dynapod/state/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("*.pyc\n")
    (folder / "link").symlink_to("nowhere")
    git(folder, "init")
    git(folder, "add", "tracked.py", "deleted.py", "sub", ".gitignore")
    git(folder, "commit", "-m", "a")
    (folder / "deleted.py").unlink()
    return folder


def test_gits_files_are_tracked_ones_and_new_ones_that_are_not_ignored(work_tree: Path) -> None:
    assert source_files(work_tree) == (".gitignore", "link", "new file.py", "sub/tracked.py", "tracked.py")


def test_a_folder_inside_a_work_tree_has_its_own_files_only(work_tree: Path) -> None:
    assert source_files(work_tree / "sub") == ("tracked.py",)


def test_a_repository_inside_the_work_tree_brings_its_files(work_tree: Path) -> None:
    inner = work_tree / "inner"
    inner.mkdir()
    (inner / "a").write_text("a")
    git(inner, "init")
    assert "inner/a" in (source_files(work_tree) or ())


def test_without_git_everything_is_copied(tmp_path: Path) -> None:
    assert source_files(tmp_path) is None
    assert staged_source({"folder": str(tmp_path)}, tmp_path / "staging") == {"folder": str(tmp_path)}


def test_a_short_list_travels_with_the_job(work_tree: Path, tmp_path: Path) -> None:
    staged = staged_source({"folder": str(work_tree)}, tmp_path / "staging")
    assert staged == {"folder": str(work_tree), "files": list(source_files(work_tree) or ())}


def test_a_list_that_is_given_is_kept(work_tree: Path, tmp_path: Path) -> None:
    given = {"folder": str(work_tree), "files": ["tracked.py"]}
    assert staged_source(given, tmp_path / "staging") == given


@pytest.mark.parametrize("kind", ["long", "not utf-8"])
def test_files_whose_names_cannot_travel_are_copied_first(work_tree: Path, tmp_path: Path, kind: str) -> None:
    if kind == "long":
        for number in range(LIST_LIMIT_BYTES // 200 + 1):
            (work_tree / f"{number:0200}").write_text("")
    else:
        Path(os.fsdecode(os.fsencode(work_tree) + b"/\xff")).write_text("")
    staging = tmp_path / "staging"
    assert staged_source({"folder": str(work_tree)}, staging) == {"folder": str(staging)}
    assert source_files(work_tree) == tuple(
        sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if not path.is_dir() or path.is_symlink())
    )
    assert (staging / "sub/tracked.py").read_text() == "sub/tracked.py"
    assert (staging / "link").is_symlink()

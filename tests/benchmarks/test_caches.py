import shutil
from pathlib import Path

import pytest

from benchmarks import caches
from benchmarks.caches import CACHED, KINDS, Tar, Tree, both, figures, make_tree, pipe
from benchmarks.suite import BenchmarkError, Options

TINY = 0.0005


def test_a_tree_has_files_of_every_kind_and_is_the_same_each_time(tmp_path: Path) -> None:
    trees = [make_tree(tmp_path / name, TINY) for name in ("one", "two")]
    contents = [
        {path.relative_to(tree.root): path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
        for tree in trees
    ]
    assert contents[0] == contents[1]
    assert {path.parts[1] for path in contents[0]} == set(KINDS)
    assert (len(contents[0]), sum(map(len, contents[0].values()))) == (trees[0].files, trees[0].size)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the benchmark itself says that zstd has to be installed")
def test_both_sides_save_and_restore_the_tree(tmp_path: Path) -> None:
    found = list(caches.measure(Options(1, TINY, tmp_path, lambda _: None)))
    assert [(figure.unit, figure.target is not None) for figure in found] == 2 * [
        ("MB/s", False),
        ("MB/s", False),
        ("", True),
    ]
    assert all(figure.value > 0 for figure in found)


class Forgetful(Tar):
    def restore(self, key: str, root: Path) -> None:
        super().restore(key, root)
        next(path for path in (root / CACHED).rglob("*") if path.is_file()).unlink()


@pytest.mark.skipif(shutil.which("zstd") is None, reason="as above")
def test_files_that_do_not_come_back_are_no_figure(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", TINY)
    with pytest.raises(BenchmarkError, match="were restored"):
        both(Forgetful(tmp_path), tree, "key", tmp_path / "restored")


def test_without_zstd_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="apt-get install tar"):
        list(caches.measure(Options(1, TINY, tmp_path, lambda _: None)))


def test_a_program_of_the_pipe_that_fails_is_named() -> None:
    with pytest.raises(BenchmarkError, match="false ended with exit status 1"):
        pipe(["false"], ["cat"])


def test_the_ratio_is_of_pairs() -> None:
    rates = {
        ("save", "dynapod"): [90.0, 10.0],
        ("save", "tar"): [100.0, 10.0],
        ("restore", "dynapod"): [50.0, 40.0],
        ("restore", "tar"): [100.0, 100.0],
    }
    ratio = {figure.name: figure for figure in figures(Tree(Path(), 1, 1_000_000), rates) if not figure.unit}
    assert ratio["save, beside tar and zstd"].values == (0.9, 1.0)
    assert not ratio["save, beside tar and zstd"].missed
    assert ratio["restore, beside tar and zstd"].missed

import hashlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.cachekey import KeyExpressionError, resolve
from runner.globs import GlobError, compile_globs, find

FILES = [
    "a.txt",
    "b.py",
    ".hidden",
    "dist/app.whl",
    "dist/.build/info",
    "src/deep/er/x.py",
    "src/x.py",
    "src/[odd]/y.py",
    "node_modules/p/x.py",
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.txt"], ["a.txt"]),
        (["*"], FILES),
        (["?.py"], ["b.py"]),
        ([".*"], [".hidden"]),
        (["dist"], ["dist/app.whl", "dist/.build/info"]),
        (["dist/"], ["dist/app.whl", "dist/.build/info"]),
        (["./dist/*.whl"], ["dist/app.whl"]),
        (["dist/*/info"], ["dist/.build/info"]),
        (["**/x.py"], ["src/deep/er/x.py", "src/x.py", "node_modules/p/x.py"]),
        (["src/**"], ["src/deep/er/x.py", "src/x.py", "src/[odd]/y.py"]),
        (["src/**/x.py"], ["src/deep/er/x.py", "src/x.py"]),
        (["**"], FILES),
        (["."], FILES),
        (["**/*.py", "!node_modules", "!**/er/**"], ["b.py", "src/x.py", "src/[odd]/y.py"]),
        (["!node_modules/**", "**/x.py", "!src/deep"], ["src/x.py"]),
        (["[a-b].*"], ["a.txt", "b.py"]),
        (["[!a].*"], ["b.py"]),
        (["src/[[]odd]/y.py"], ["src/[odd]/y.py"]),
        (["*.rs", "nothing/here"], []),
        (["!*.txt"], []),
    ],
)
def test_globs(workspace: Path, patterns: list[str], expected: list[str]) -> None:
    assert sorted(find(workspace, compile_globs(patterns))) == sorted(expected)


def test_overlapping_patterns_give_each_file_once(workspace: Path) -> None:
    assert list(find(workspace, compile_globs(["dist/app.whl", "dist/**", "dist"]))).count("dist/app.whl") == 1


def test_links_to_folders_are_given_and_not_entered(workspace: Path) -> None:
    (workspace / "loop").symlink_to(workspace)
    (workspace / "inner").symlink_to("src")
    assert sorted(find(workspace, compile_globs(["loop/**", "inner", "inner/x.py"]))) == ["inner"]


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../x", "a/../../x", "", "!", "!/x"])
def test_patterns_that_leave_the_workspace_are_refused(pattern: str) -> None:
    with pytest.raises(GlobError):
        compile_globs([pattern])


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [("[+--]", "-+,", "a."), ("[!--]", "a+", "-"), ("[--a]", "-Aa", "b+"), ("[&&a~~]", "&a~", "b")],
)
def test_hyphens_and_doubled_signs_in_a_class_mean_themselves(pattern: str, yes: str, no: str) -> None:
    globs = compile_globs([pattern])
    assert all(globs.matches(name) for name in yes)
    assert not any(globs.matches(name) for name in no)


@given(st.text(alphabet="ab*?[]!^-\\/.", min_size=1, max_size=12))
@example("[?--]")
def test_any_pattern_is_compiled_or_refused(pattern: str) -> None:
    try:
        globs = compile_globs([pattern])
    except GlobError:
        return
    globs.matches("a/b")


@given(
    st.text(alphabet="ab.{}+()|$^", min_size=1, max_size=8).filter(
        lambda t: t.strip(".") and ".." not in t and t[0] != "!"
    )
)
def test_what_is_no_wildcard_means_itself(name: str) -> None:
    assert compile_globs([name]).matches(name)
    assert not compile_globs([name]).matches(name + "x")


# --- cache keys -------------------------------------------------------------------------------------------------------


def test_a_key_without_expression_is_itself(workspace: Path) -> None:
    assert resolve("pip-v1", workspace) == "pip-v1"


def test_a_hash_depends_on_names_and_contents_and_on_nothing_else(workspace: Path) -> None:
    key = "k-{{ hash('src/**', 'b.py') }}-{{hash('a.txt')}}"
    first = resolve(key, workspace)
    (workspace / "unrelated").write_text("x")
    (workspace / "b.py").touch()
    assert resolve(key, workspace) == first
    (workspace / "b.py").write_text("changed")
    second = resolve(key, workspace)
    assert second != first
    assert second.rpartition("-")[2] == first.rpartition("-")[2]
    (workspace / "src/x.py").rename(workspace / "src/z.py")
    assert resolve(key, workspace) != second


def test_a_hash_of_no_file_is_always_the_same(workspace: Path) -> None:
    assert resolve("{{ hash('none*') }}", workspace) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("key", ["{{ hash() }}", "{{ env('X') }}", "{{ hash('../x') }}", "{{}}", "{{ hash('a' }}"])
def test_other_expressions_are_refused_with_the_key(workspace: Path, key: str) -> None:
    with pytest.raises(KeyExpressionError, match="cache key"):
        resolve(key, workspace)

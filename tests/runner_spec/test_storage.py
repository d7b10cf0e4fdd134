import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner_spec import storage

# Surrogates included: names of files need not be UTF-8.
text = st.text(st.characters(exclude_categories=()), min_size=1, max_size=60)
spiky = st.one_of(
    text,
    st.text("./%=#-_aA\0\n\x7f\udcffé", min_size=1, max_size=12),
    st.builds(lambda part, times: part * times, st.sampled_from(["x", ".", "%", "é", "a."]), st.integers(1, 700)),
)
paths = st.lists(spiky.map(lambda part: part.replace("/", "_")), min_size=1, max_size=4).map("/".join)
scopes = st.one_of(text, st.sampled_from(["main", "../main", "MAIN", "a/b"]))

NAME = re.compile(r"[A-Za-z0-9._%=-]+(/[A-Za-z0-9._%=-]+)*")


def _assert_valid(name: str) -> None:
    assert NAME.fullmatch(name)
    assert len(name) <= storage.NAME_BYTES
    for segment in name.split("/"):
        assert segment not in {".", ".."}
        assert len(segment) <= 255


@given(job=spiky, attempt=st.integers(1, 10**6), artifact=spiky, path=paths)
@example(job="..", attempt=1, artifact="..", path="../..")
def test_every_name_is_valid_and_stays_in_its_folder(job: str, attempt: int, artifact: str, path: str) -> None:
    folder = storage.job_prefix(job)
    attempt_folder = f"{folder}/{attempt}"
    names = {
        storage.artifact_path(job, attempt, artifact, path): f"{attempt_folder}/artifacts/",
        storage.manifest_path(job, attempt): f"{attempt_folder}/",
        storage.log_path(job, attempt, artifact[:100], attempt): f"{attempt_folder}/logs/",
    }
    assert re.fullmatch(r"jobs/[a-z0-9-]{1,41}[0-9a-f]{32}", folder)
    for name, parent in names.items():
        _assert_valid(name)
        assert name.startswith(parent)


@given(one=st.tuples(spiky, paths), other=st.tuples(spiky, paths))
@example(one=("a", "b/c"), other=("a/b", "c"))
@example(one=("a", "%2E"), other=("a", "."))
@example(one=("a", "x" * 201), other=("a", "x" * 200 + "%/x"))
@example(one=("a", "x" * 200 + "." + "y"), other=("a", "x" * 200 + "%2E" + "y"))
def test_different_files_have_different_names(one: tuple[str, str], other: tuple[str, str]) -> None:
    same = storage.artifact_path("j", 1, *one) == storage.artifact_path("j", 1, *other)
    assert same == (one == other)


@given(one=st.tuples(spiky, st.integers(1, 3)), other=st.tuples(spiky, st.integers(1, 3)))
def test_different_attempts_share_nothing(one: tuple[str, int], other: tuple[str, int]) -> None:
    first, second = storage.attempt_prefix(*one), storage.attempt_prefix(*other)
    if one == other:
        assert first == second
    else:
        assert not f"{first}/".startswith(f"{second}/")


def test_a_plain_name_stays_readable() -> None:
    assert re.fullmatch(r"jobs/build-42-[0-9a-f]{32}", storage.job_prefix("Build #42"))
    assert storage.artifact_path("b", 1, "wheel", "dist/a-1.0.whl").endswith("/1/artifacts/wheel/dist/a-1.0.whl")
    assert storage.cache_path("main", "pip-3.12-abc").endswith("/pip-3.12-abc")


@given(offsets=st.lists(st.integers(0, 10**20 - 1), max_size=10))
def test_pieces_of_a_log_sort_by_offset(offsets: list[int]) -> None:
    names = [storage.log_path("j", 1, "run", offset) for offset in offsets]
    assert [storage.log_offset(name) for name in sorted(names)] == sorted(offsets)
    assert storage.log_offset("jobs/j/1/logs/run/x") is None


@given(scope=scopes, key=text, prefix_length=st.integers(1, 60))
def test_entries_are_found_by_any_prefix_of_their_key(scope: str, key: str, prefix_length: int) -> None:
    entry = storage.cache_entry_path(scope, key, "tar.zst")
    _assert_valid(entry)
    assert entry.startswith(storage.cache_path(scope, key[:prefix_length]))
    assert entry.startswith(storage.cache_prefix(scope) + "/")
    assert storage.parse_cache_entry(scope, entry) == (key, "tar.zst")


@given(scope=scopes, one=spiky, other=spiky)
def test_a_prefix_finds_only_keys_that_start_with_it(scope: str, one: str, other: str) -> None:
    try:
        found = storage.cache_entry_path(scope, one, "tar.gz").startswith(storage.cache_path(scope, other))
    except storage.NameTooLongError:
        return
    # A long prefix may end where a folder ends: the parsed key decides then, as it does in the gateway.
    assert found >= one.startswith(other)
    if found:
        assert one.encode("utf-8", "surrogatepass").startswith(other.encode("utf-8", "surrogatepass"))


@given(one=st.tuples(scopes, text), other=st.tuples(scopes, text))
def test_different_keys_and_scopes_have_different_entries(one: tuple[str, str], other: tuple[str, str]) -> None:
    same = storage.cache_entry_path(*one, "tar.gz") == storage.cache_entry_path(*other, "tar.gz")
    assert same == (one == other)


@given(name=st.text(max_size=80))
def test_names_of_others_are_no_cache_entries(name: str) -> None:
    assert storage.parse_cache_entry("main", name) is None
    mine = f"{storage.cache_prefix('main')}/{name}"
    parsed = storage.parse_cache_entry("main", mine)
    assert parsed is None or storage.cache_entry_path("main", *parsed) == mine


def test_long_keys_keep_their_prefix_until_they_are_too_long() -> None:
    assert storage.cache_path("s", "k" * 850).startswith(storage.cache_path("s", "k" * 300))
    with pytest.raises(storage.NameTooLongError, match="shorten"):
        storage.cache_path("s", "k" * 1000)


@pytest.mark.parametrize("archive", ["", "tar/gz", "TAR", "a=b", "x" * 50])
def test_an_archive_format_that_is_none_is_refused(archive: str) -> None:
    with pytest.raises(ValueError, match="archive format"):
        storage.cache_entry_path("s", "k", archive)


@pytest.mark.parametrize("path", ["", "a//b", "/a", "a/"])
def test_empty_parts_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        storage.artifact_path("j", 1, "a", path)


@pytest.mark.parametrize(("attempt", "offset"), [(0, 0), (-1, 0), (1, -1), (1, 10**20)])
def test_impossible_numbers_are_refused(attempt: int, offset: int) -> None:
    with pytest.raises(ValueError, match=r"attempt|offset"):
        storage.log_path("j", attempt, "run", offset)

import asyncio
import hashlib
from pathlib import Path

import pytest

from adapters.object_store import NotFound, ObjectStore
from runner_spec import storage
from runner_spec.report import ArtifactReport, FileReport, UploadReport, to_json
from worker.cli.downloads import DownloadError, download_artifacts, recorded_artifacts

JOB = "job-1"


def uploaded(name: str, *contents: tuple[str, bytes]) -> ArtifactReport:
    files = tuple(FileReport(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in contents)
    return ArtifactReport(name, "uploaded", len(files), sum(file.size for file in files), files)


def download(artifact: ArtifactReport, output: Path, stored: dict[str, bytes]) -> list[Path]:
    async def session() -> list[Path]:
        store = ObjectStore.from_url("memory://")
        for path, data in stored.items():
            await store.put(storage.artifact_path(JOB, 1, artifact.name, path), data)
        return [found.path for found in await download_artifacts(store, JOB, 1, [artifact], output)]

    return asyncio.run(session())


def test_files_arrive_under_their_artifact_and_path(tmp_path: Path) -> None:
    files = {"dist/a.whl": b"a" * 3_000_000, "b.txt": b""}
    assert download(uploaded("wheel", *files.items()), tmp_path, files) == [tmp_path / "wheel"]
    assert {path: (tmp_path / "wheel" / path).read_bytes() for path in files} == files


def test_a_single_file_is_named_itself(tmp_path: Path) -> None:
    assert download(uploaded("wheel", ("dist/a.whl", b"a")), tmp_path, {"dist/a.whl": b"a"}) == [
        tmp_path / "wheel/dist/a.whl"
    ]


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        download(uploaded("a", ("f", data)), tmp_path, {"f": data})
    assert (tmp_path / "a/f").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["f"]


@pytest.mark.parametrize("path", ["../f", "/f", "a/../../f", "a//f", "."])
def test_a_path_that_leaves_its_folder_is_not_written(tmp_path: Path, path: str) -> None:
    with pytest.raises(DownloadError, match="would leave its folder"):
        download(uploaded("a", (path, b"x")), tmp_path / "out", {})
    assert not (tmp_path / "f").exists()


def test_altered_content_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="digest"):
        download(uploaded("a", ("f", b"right")), tmp_path, {"f": b"wrong"})
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        download(uploaded("a", ("f", b"x")), tmp_path, {})


def test_what_was_not_uploaded_is_not_looked_for(tmp_path: Path) -> None:
    assert download(ArtifactReport("a", "skipped"), tmp_path, {}) == []


def test_the_manifest_names_all_files() -> None:
    async def session() -> None:
        store = ObjectStore.from_url("memory://")
        assert await recorded_artifacts(store, JOB, 1) == ()
        artifact = uploaded("a", *[(f"f{number}", b"x") for number in range(1000)])
        await store.put(storage.manifest_path(JOB, 1), to_json(UploadReport("ok", artifacts=(artifact,))).encode())
        assert await recorded_artifacts(store, JOB, 1) == (artifact,)
        await store.put(storage.manifest_path(JOB, 1), b"{")
        with pytest.raises(DownloadError, match="manifest"):
            await recorded_artifacts(store, JOB, 1)

    asyncio.run(session())

"""dynapod's own job and three foreign projects as real pods, from a git server, with artifacts and caches in a store.

What has to come out of the foreign ones is written down in `examples/foreign/expected.json`, for local runs and this.
"""

import asyncio
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.foreign import run as foreign
from runner_spec.version import __version__
from tests.cluster import images
from tests.cluster.servers import git_daemon
from tests.cluster.site import Description, Ended, Site, WorkerProcess
from tests.cluster.site import site as make_site
from worker.cli.downloads import download_artifacts, recorded_artifacts
from worker.cli.ending import read_ending
from worker.cli.exit_status import exit_status

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]
PROJECTS = {project.job: project for project in foreign.PROJECTS}
PATIENCE_S = 300.0
ALL_TESTS, QUICK_TESTS = "tests/runner_spec tests/runner", "tests/runner_spec/test_duration.py"
RESOURCES = {"cpu": "1", "memory": "1Gi"}
# An operator's overcommitment: jobs of one core each, all at the same time on a node of two.
ALL_AT_ONCE = {"spec": {"containers": [{"name": "run", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}}


@dataclass(frozen=True)
class Repositories:
    """Git repositories behind a git server."""

    url: str

    def foreign(self, job: str) -> Description:
        """A foreign project's job. It has no network but the git server: the image holds its packages."""
        project = PROJECTS[job]
        url = f"{self.url}/{job}/{project.name}-{project.version}"
        description = foreign.description(project, url, {}, images.JOB)
        return {**description, "resources": RESOURCES}

    def own(self) -> Description:
        """`dynapod.yaml` with another image, and a git server's URL for the folder that it names."""
        description: Description = yaml.safe_load((ROOT / "dynapod.yaml").read_text())
        return {**description, "image": images.JOB, "source": {"git": f"{self.url}/dynapod"}, "resources": RESOURCES}


@pytest.fixture(scope="module")
def repositories(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repositories]:
    folder = tmp_path_factory.mktemp("repositories")
    downloads = tmp_path_factory.mktemp("downloads")
    for job, project in PROJECTS.items():
        foreign.make_repository(project, foreign.download(project, downloads), folder / job)
    copy_tree(folder / "dynapod")
    foreign.commit_all(folder / "dynapod", __version__)
    with git_daemon(folder, site.host) as url:
        yield Repositories(url)


def copy_tree(target: Path) -> None:
    """This working tree: what git tracks, and what is new and not ignored."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout.split(b"\0")
    for name in map(os.fsdecode, filter(None, names)):
        if (ROOT / name).is_file():  # and not deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass(frozen=True)
class Run:
    """A job that has ended, and the files that a user downloads."""

    ended: Ended
    files: Path

    def found(self) -> dict[str, Any]:
        """In the form of `expected.json`."""
        return foreign.seen(exit_status(read_ending(self.ended.status)), self.ended.status.result, self.files)

    def wheel(self) -> Mapping[str, str]:
        """The metadata of the only wheel among the files, each member of which has its right checksum."""
        (path,) = self.files.rglob("*.whl")
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            return dict(HeaderParser().parsestr(archive.read(metadata).decode()).items())

    def caches(self) -> list[str]:
        """What became of the job's cache: when it was restored, and when it was saved."""
        return [cache["result"] for cache in self.ended.status.result["caches"]]

    def seconds(self, step: str) -> float:
        (seconds,) = [entry["seconds"] for entry in self.ended.status.result["steps"] if entry["name"] == step]
        return float(seconds)


async def run(worker: WorkerProcess, description: Description, folder: Path) -> Run:
    ended = await worker.run(description, patience=PATIENCE_S)
    job, attempt = ended.status.id, ended.status.attempt
    store = worker.site.store()
    artifacts = await recorded_artifacts(store, job, attempt)
    await download_artifacts(store, job, attempt, artifacts, folder / job)
    return Run(ended, folder / job)


def as_expected(job: str, it: Run) -> None:
    wrong = foreign.differences(foreign.expectations()[job], it.found())
    assert not wrong, "\n".join([job, *wrong, it.ended.output.decode(errors="replace")[-4000:]])
    if foreign.expectations()[job]["wheel"]:
        project = PROJECTS[job]
        assert (it.wheel()["Name"], it.wheel()["Version"]) == (project.name, project.version)


def own_build(it: Run) -> None:
    assert (it.ended.verdict, it.ended.reason) == ("succeeded", "ok"), it.ended.output.decode(errors="replace")[-4000:]
    assert (it.wheel()["Name"], it.wheel()["Version"]) == ("dynapod", __version__)
    totals = it.found()["junit"]
    assert totals["tests"] > totals["skipped"]
    assert (totals["failures"], totals["errors"]) == (0, 0)


async def foreign_twice(worker: WorkerProcess, repositories: Repositories, job: str, folder: Path) -> None:
    """As expected both times; the second time, the wheels are there already."""
    first = await run(worker, repositories.foreign(job), folder)
    as_expected(job, first)
    if first.ended.verdict != "succeeded":
        assert first.caches() == ["miss", "skipped"]  # a job that has failed saves nothing
        return
    assert first.caches() == ["miss", "saved"]
    again = await run(worker, repositories.foreign(job), folder)
    as_expected(job, again)
    assert again.caches() == ["hit", "unchanged"]
    assert again.seconds("wheels") < first.seconds("wheels") / 2


async def own_twice(worker: WorkerProcess, repositories: Repositories, folder: Path) -> None:
    first = await run(worker, repositories.own(), folder)
    own_build(first)
    assert first.caches() == ["miss", "saved"]
    again = await run(worker, shortened(repositories.own()), folder)
    own_build(again)
    assert again.caches() == ["hit", "unchanged"]


def shortened(description: Description) -> Description:
    """With the quick part of its tests only: the first run has shown the others, which take a minute of one core."""
    steps = {step["name"]: step["run"] for step in description["steps"]}
    assert ALL_TESTS in steps["test"]
    steps["test"] = steps["test"].replace(ALL_TESTS, QUICK_TESTS)
    return {**description, "steps": [{"name": name, "run": script} for name, script in steps.items()]}


def test_real_projects_end_as_they_do_locally_and_the_second_run_finds_its_cache(
    site: Site, repositories: Repositories, tmp_path: Path
) -> None:
    async def test() -> None:
        with site.worker("projects", pod_patch=ALL_AT_ONCE) as worker:
            await asyncio.gather(
                own_twice(worker, repositories, tmp_path),
                *(foreign_twice(worker, repositories, job, tmp_path) for job in PROJECTS),
            )

    asyncio.run(test())


def test_a_local_folder_does_for_artifacts_and_caches_too(repositories: Repositories, tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        with here.worker("folder") as worker:
            await foreign_twice(worker, repositories, "itsdangerous", tmp_path)

    (tmp_path / "site").mkdir()
    with make_site(tmp_path / "site", s3=False) as here:
        asyncio.run(test(here))

"""The built image of the worker as real pods: restricted, with a read-only root, as users that it does not know."""

import re
import tomllib
from typing import Any

import pytest

from runner_spec.version import __version__
from tests.docker.dockerfile import ROOT
from tests.docker.pods import CLUSTER_TEST, STRANGER, USERS, WORKER, User, once, probe

pytestmark = CLUSTER_TEST

Facts = dict[str, Any]


@pytest.fixture(scope="module", params=USERS, ids=str)
def user(request: pytest.FixtureRequest) -> User:
    user: User = request.param
    return user


@pytest.fixture(scope="module")
def facts(user: User) -> Facts:
    return probe(WORKER, "worker", user)


def test_it_runs_as_the_user_of_the_pod_and_cannot_change_its_root(facts: Facts, user: User) -> None:
    assert facts["uid"] == user.uid
    assert facts["root"] == "Read-only file system"


def test_its_commands_start(facts: Facts) -> None:
    assert {name: ended["code"] for name, ended in facts["commands"].items()} == {
        "version": 0,
        "worker": 0,
        "gateway": 0,
    }
    assert facts["commands"]["version"]["said"] == f"dynapod, version {__version__}"
    assert facts["commands"]["worker"]["said"].startswith("Usage: dynapod worker")


def test_every_module_in_it_can_be_imported(facts: Facts) -> None:
    assert facts["problems"] == {}
    assert facts["own"] == []


def test_it_holds_what_the_lock_says(facts: Facts) -> None:
    lock = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock, flags=re.MULTILINE))
    found = dict(facts["distributions"])
    assert found.pop("dynapod") == __version__
    assert found.items() <= locked.items()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {re.split(r"[\[<>=]", line)[0].lower() for line in declared} <= set(found)


def test_there_is_nothing_to_build_or_install_with(facts: Facts) -> None:
    assert facts["forbidden"] == []
    assert facts["packagers"] == []


def test_no_file_grants_a_privilege(facts: Facts) -> None:
    assert facts["privileged"] == []


def test_it_trusts_the_public_authorities(facts: Facts) -> None:
    assert facts["authorities"] > 100


def test_the_command_of_the_worker_image_is_dynapod() -> None:
    ran = once(WORKER, STRANGER, args=["--version"])
    assert (ran.exit_code, ran.log) == (0, f"dynapod, version {__version__}\n")

"""The built image of the runner as real pods: restricted, with a read-only root, as users that it does not know."""

from typing import Any

import pytest

from tests.docker.pods import CLUSTER_TEST, RUNNER, SERVICES, STRANGER, USERS, User, once, probe

pytestmark = CLUSTER_TEST

Facts = dict[str, Any]


@pytest.fixture(scope="module", params=USERS, ids=str)
def user(request: pytest.FixtureRequest) -> User:
    user: User = request.param
    return user


@pytest.fixture(scope="module")
def facts(user: User) -> Facts:
    return probe(RUNNER, "runner", user)


def test_it_runs_as_the_user_of_the_pod_and_cannot_change_its_root(facts: Facts, user: User) -> None:
    assert facts["uid"] == user.uid
    assert facts["root"] == "Read-only file system"
    assert facts["unreadable"] == []


def test_its_programs_start(facts: Facts, user: User) -> None:
    failed = {name: ended for name, ended in facts["commands"].items() if ended["code"]}
    if user == STRANGER:
        # OpenSSH refuses users without an entry in /etc/passwd; docs/images.md says so.
        assert "No user exists for uid" in failed.pop("ssh")["said"]
    assert failed == {}
    assert facts["commands"]["git"]["said"].startswith("git version 2.")
    assert facts["commands"]["git-lfs"]["said"].startswith("git-lfs/")


def test_git_can_check_out_submodules(facts: Facts) -> None:
    assert facts["submodule"]["code"] == 0, facts["submodule"]
    assert "inner" in facts["submodule"]["said"]


def test_the_shell_for_jobs_is_static_and_lies_there_as_checkout_would_lay_it(facts: Facts) -> None:
    assert facts["static"] == [True, True]
    assert sorted(facts["delivered"]) == ["busybox", "sh", "shim"]
    assert facts["delivered"] == facts["installed"]
    assert facts["links"] == [], "a link would point out of a volume that is made of this folder"


def test_nothing_that_a_job_plants_runs_inside_it(facts: Facts) -> None:
    for how in ("usage", "usage_isolated"):
        assert facts[how] == {"code": 2, "said": "usage: python3 -m runner checkout|upload"}
    # The trap works: without either of the image's two variables it would have run.
    assert ["PLANTED" in unprotected["said"] for unprotected in facts["usage_unprotected"]] == [True, True]


def test_there_is_nothing_to_build_or_install_with(facts: Facts) -> None:
    assert facts["forbidden"] == []
    assert facts["packagers"] == []


def test_no_file_grants_a_privilege_or_can_be_changed_by_anybody(facts: Facts) -> None:
    assert facts["privileged"] == []
    assert facts["writable"] == []


def test_it_trusts_the_public_authorities(facts: Facts) -> None:
    assert facts["authorities"] > 100


def test_it_starts_from_byte_code(facts: Facts) -> None:
    assert facts["byte_code_flags"] == [1, 1, 1, 1]


def test_the_runner_image_says_how_it_is_used() -> None:
    ran = once(RUNNER, STRANGER)
    assert (ran.exit_code, ran.log) == (2, "usage: python3 -m runner checkout|upload\n")


def test_the_shell_of_the_runner_image_reaches_another_image_as_a_volume() -> None:
    delivered = {"image": {"reference": RUNNER, "pullPolicy": "IfNotPresent"}, "subPath": "dynapod/bin"}
    # nginx's image knows nothing of busybox: what answers is the program in the volume, through a shell of its own.
    command = ["/dynapod/bin/sh", "-c", "/dynapod/bin/busybox setsid /dynapod/bin/busybox test -x /dynapod/bin/shim"]
    ran = once(SERVICES, User(1000), volumes={"/dynapod/bin": delivered}, command=command)
    assert (ran.exit_code, ran.log) == (0, "")

import base64
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.gitfailure import explain
from runner.gitref import candidates, choose
from runner_spec.plan import GitSource
from tests.runner.git_server import GitServer, commit, daemon, git, new_repository, serving, static_files
from tests.runner.pod import Pod, Result


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with two branches, two tags, a pull request and five commits."""
    path = tmp_path / "repositories" / "app"
    new_repository(path)
    commit(path, {"src/app.py": "print(1)\n"}, "second")
    git(path, "tag", "v1.0")
    git(path, "tag", "--annotate", "--message", "annotated", "v1.1")
    commit(path, {"src/app.py": "print(2)\n"}, "third")
    git(path, "checkout", "--quiet", "-b", "feature/x")
    pull = commit(path, {"pull": "request\n"}, "a pull request")
    git(path, "update-ref", "refs/pull/7/head", pull)
    git(path, "reset", "--quiet", "--hard", "HEAD~1")
    commit(path, {"feature": "x\n"}, "on the branch")
    git(path, "checkout", "--quiet", "main")
    return path


@pytest.fixture
def server(origin: Path) -> Iterator[GitServer]:
    with serving(origin.parent) as server:
        yield server


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "pod")


def check_out(pod: Pod, url: str, ref: str | None = None, **fields: object) -> Result:
    pod.plan(git=GitSource(url, ref, **fields))  # type: ignore[arg-type]
    return pod.checkout()


def ok(result: Result) -> str:
    assert (result.code, result.checkout.reason) == (0, "ok"), result.output
    return result.checkout.commit


def count(pod: Pod) -> int:
    return int(git(pod.workspace, "rev-list", "--count", "HEAD"))


def test_the_remotes_head_is_checked_out_shallow_as_its_branch(pod: Pod, server: GitServer, origin: Path) -> None:
    assert ok(check_out(pod, f"{server.url}/app")) == git(origin, "rev-parse", "main")
    assert git(pod.workspace, "branch", "--show-current") == "main"
    assert count(pod) == 1
    assert git(pod.workspace, "status", "--porcelain") == ""


def test_depth_0_is_the_full_history_with_branches_and_tags(pod: Pod, server: GitServer, origin: Path) -> None:
    ok(check_out(pod, f"{server.url}/app", depth=0))
    assert count(pod) == 3
    assert git(pod.workspace, "describe", "--tags") == git(origin, "describe", "--tags")
    assert "origin/feature/x" in git(pod.workspace, "branch", "--remotes")


@pytest.mark.parametrize(
    ("ref", "means"),
    [
        ("main", "main"),
        ("feature/x", "feature/x"),
        ("v1.0", "v1.0"),
        ("v1.1", "v1.1^{commit}"),
        ("refs/pull/7/head", "refs/pull/7/head"),
        ("pull/7/head", "refs/pull/7/head"),
        ("refs/heads/feature/x", "feature/x"),
        ("refs/tags/v1.0", "v1.0"),
    ],
)
def test_branches_tags_and_other_refs(pod: Pod, server: GitServer, origin: Path, ref: str, means: str) -> None:
    assert ok(check_out(pod, f"{server.url}/app", ref)) == git(origin, "rev-parse", means)
    assert count(pod) == 1


def test_a_branch_wins_over_a_tag_of_the_same_name(pod: Pod, server: GitServer, origin: Path) -> None:
    git(origin, "tag", "both", "main~1")
    git(origin, "branch", "both", "main")
    assert ok(check_out(pod, f"{server.url}/app", "both")) == git(origin, "rev-parse", "refs/heads/both")


def test_a_full_commit_is_fetched_alone_when_the_server_gives_it_out(pod: Pod, server: GitServer, origin: Path) -> None:
    wanted = git(origin, "rev-parse", "main~2")  # no branch or tag is there
    result = check_out(pod, f"{server.url}/app", wanted)
    assert ok(result) == wanted
    assert "whole history" not in result.output


def test_a_full_commit_is_found_in_the_history_when_the_server_gives_out_refs_only(
    pod: Pod, origin: Path, tmp_path: Path
) -> None:
    # A server that speaks version 0 of the protocol only, behind a local stand-in for ssh.
    (tmp_path / "programs").mkdir()
    program = tmp_path / "programs" / "ssh"
    program.write_text('#!/bin/sh\nunset GIT_PROTOCOL\nfor last; do :; done\nexec sh -c "$last"\n')
    program.chmod(0o755)
    pod.variables["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    wanted = git(origin, "rev-parse", "main~2")
    result = check_out(pod, f"host.invalid:{origin}", wanted)
    assert ok(result) == wanted
    assert "fetching the whole history" in result.output


def test_an_abbreviated_commit_is_found_in_the_history(pod: Pod, server: GitServer, origin: Path) -> None:
    wanted = git(origin, "rev-parse", "main~2")
    assert ok(check_out(pod, f"{server.url}/app", wanted[:8])) == wanted


@pytest.mark.parametrize(
    "ref", ["no-such-branch", "f" * 40, "deadbeef", "refs/pull/99/head", "main~1", "--upload-pack=x", "a b"]
)
def test_a_missing_ref_is_the_jobs_fault_and_named_with_the_url(pod: Pod, server: GitServer, ref: str) -> None:
    result = check_out(pod, f"{server.url}/app", ref)
    assert (result.code, result.checkout.reason) == (1, "ref-not-found")
    assert repr(ref) in result.checkout.message
    assert len(server.requests) < 12


def test_an_empty_repository_has_nothing_to_check_out(pod: Pod, server: GitServer, origin: Path) -> None:
    git(origin.parent, "init", "--quiet", "empty")
    result = check_out(pod, f"{server.url}/empty")
    assert (result.code, result.checkout.reason) == (1, "ref-not-found")
    assert "has no commits" in result.checkout.message


def test_a_missing_repository_is_the_jobs_fault(pod: Pod, server: GitServer) -> None:
    result = check_out(pod, f"{server.url}/nothing-here")
    assert (result.code, result.checkout.reason) == (1, "repository-not-found")
    assert f"{server.url}/nothing-here" in result.checkout.message


def test_a_server_that_is_away_is_the_platforms_fault(pod: Pod) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # ours, and never listening
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/app"
        result = check_out(pod, url)
    assert (result.code, result.checkout.reason) == (75, "network")
    assert result.output.count("again in") == 3
    assert url in result.checkout.message


def test_network_errors_are_retried(pod: Pod, server: GitServer, origin: Path) -> None:
    server.failures = [503, 0, 502]
    assert ok(check_out(pod, f"{server.url}/app", "main")) == git(origin, "rev-parse", "main")
    assert server.failures == []


def test_a_server_without_shallow_histories_gives_the_whole_one(pod: Pod, origin: Path) -> None:
    git(origin, "update-server-info")  # for the protocol that any static web server speaks
    with static_files(origin.parent) as url:
        result = check_out(pod, f"{url}/app/.git", "v1.0")
        assert ok(result) == git(origin, "rev-parse", "v1.0")
    assert "cannot give out a shallow history" in result.output


def test_git_daemon(pod: Pod, origin: Path) -> None:
    with daemon(origin.parent) as url:
        assert ok(check_out(pod, f"{url}/app", "v1.0")) == git(origin, "rev-parse", "v1.0")


@pytest.mark.parametrize("prefix", ["file://", ""])
def test_a_local_repository_of_another_user(pod: Pod, origin: Path, prefix: str) -> None:
    pod.variables["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"  # git's own switch for this
    assert ok(check_out(pod, f"{prefix}{origin}", "feature/x")) == git(origin, "rev-parse", "feature/x")
    assert count(pod) == 1


def test_a_workspace_that_holds_files_is_no_obstacle(pod: Pod, server: GitServer) -> None:
    pod.write({"lost+found/x": "", "README": "in the way\n"})
    ok(check_out(pod, f"{server.url}/app"))
    assert (pod.workspace / "README").read_text() == "hello\n"
    assert (pod.workspace / "lost+found/x").exists()


def test_submodules_are_checked_out_recursively_at_their_commits(pod: Pod, server: GitServer, origin: Path) -> None:
    library, inner = origin.parent / "library", origin.parent / "inner"
    new_repository(inner, {"deep": "1\n"})
    new_repository(library)
    git(library, "submodule", "--quiet", "add", "../inner", "inner", GIT_ALLOW_PROTOCOL="file")
    commit(library, {"lib": "old\n"})
    git(origin, "submodule", "--quiet", "add", str(library), "lib")
    git(origin, "config", "--file", ".gitmodules", "submodule.lib.url", "../library")
    commit(origin, {"with": "submodule\n"})
    commit(library, {"lib": "new\n"})  # the submodule's commit is not the tip any more
    git(library, "config", "--file", ".gitmodules", "submodule.inner.url", "../inner")
    ok(check_out(pod, f"{server.url}/app", submodules=True))
    assert (pod.workspace / "lib/lib").read_text() == "old\n"
    assert (pod.workspace / "lib/inner/deep").read_text() == "1\n"


def test_submodules_stay_empty_unless_asked_for(pod: Pod, server: GitServer, origin: Path) -> None:
    new_repository(origin.parent / "library", {"lib": "1\n"})
    git(origin, "submodule", "--quiet", "add", "../library", "lib")
    commit(origin, {})
    ok(check_out(pod, f"{server.url}/app"))
    assert list((pod.workspace / "lib").iterdir()) == []


def test_lfs_files_are_fetched_where_git_lfs_is_installed_and_refused_clearly_where_it_is_not(
    pod: Pod, origin: Path
) -> None:
    if not has_lfs():
        result = check_out(pod, f"file://{origin}", lfs=True)
        assert (result.code, result.checkout.reason) == (1, "lfs")
        assert "git-lfs" in result.checkout.message
        return
    git(origin, "lfs", "install", "--local")
    git(origin, "lfs", "track", "*.bin")
    commit(origin, {"large.bin": "large\n" * 1000})
    assert git(origin, "show", "HEAD:large.bin").startswith("version https://git-lfs")
    ok(check_out(pod, f"file://{origin}", lfs=True))
    assert (pod.workspace / "large.bin").read_text() == "large\n" * 1000
    assert git(pod.workspace, "status", "--porcelain") == ""


def has_lfs() -> bool:
    return subprocess.run(["git", "lfs", "version"], capture_output=True, check=False).returncode == 0


# --- credentials ------------------------------------------------------------------------------------------------------

TREASURE = "s3cr3t-w/th %40 'quotes' and $signs"


@pytest.mark.parametrize(
    ("secret", "user"),
    [({"username": "joe", "password": TREASURE}, "joe"), ({"token": TREASURE + "\n"}, "x-access-token")],
)
def test_credentials_from_a_secret(
    pod: Pod, server: GitServer, origin: Path, secret: dict[str, str], user: str
) -> None:
    server.password = (user, TREASURE)
    pod.write(secret, folder="credentials")
    result, masks = _with_gateway(pod, GitSource(f"{server.url}/app", credentials=True))
    assert ok(result) == git(origin, "rev-parse", "main")
    _leaks_nothing(pod, result, TREASURE)
    assert TREASURE.encode() in masks
    assert base64.b64encode(f"{user}:{TREASURE}".encode()) in masks


def _with_gateway(pod: Pod, source: GitSource) -> tuple[Result, list[bytes]]:
    from tests.runner import gateway_server  # noqa: PLC0415 - credentials need a gateway to announce them to

    with gateway_server.serving(pod.root / "stored") as gateway:
        pod.variables["DYNAPOD_GATEWAY"] = gateway.url
        pod.plan(git=source)
        return pod.checkout(), gateway.masks


def _leaks_nothing(pod: Pod, result: Result, secret: str) -> None:
    for text in (result.output, result.message, (pod.workspace / ".git/config").read_text()):
        assert secret not in text
    for path in (pod.workspace / ".git").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert list((pod.root / "tmp").iterdir()) == []


def test_credentials_in_the_url_are_taken_out_of_it(pod: Pod, server: GitServer, origin: Path) -> None:
    server.password = ("joe", "p@ss")
    url = server.url.replace("http://", "http://joe:p%40ss@")
    result, masks = _with_gateway(pod, GitSource(f"{url}/app"))
    assert ok(result) == git(origin, "rev-parse", "main")
    _leaks_nothing(pod, result, "p%40ss")
    assert b"p@ss" in masks
    assert git(pod.workspace, "remote", "get-url", "origin") == f"{server.url}/app"


@pytest.mark.parametrize("credentials", [False, True])
def test_refused_or_missing_credentials_are_the_jobs_fault(pod: Pod, server: GitServer, *, credentials: bool) -> None:
    server.password = ("joe", "right")
    pod.write({"username": "joe", "password": "wrong-password"}, folder="credentials")
    result, _ = _with_gateway(pod, GitSource(f"{server.url}/app", credentials=credentials))
    assert (result.code, result.checkout.reason) == (1, "auth")
    assert server.url in result.checkout.message
    assert "wrong-password" not in result.output + result.message


def test_a_secret_without_any_known_key_is_named_as_such(pod: Pod, server: GitServer) -> None:
    pod.write({"user": "joe"}, folder="credentials")
    result, _ = _with_gateway(pod, GitSource(f"{server.url}/app", credentials=True))
    assert (result.code, result.checkout.reason) == (1, "auth")
    assert "'password', 'token' and 'ssh-privatekey'" in result.checkout.message


def test_a_submodule_on_another_server_never_gets_the_credentials(pod: Pod, server: GitServer, origin: Path) -> None:
    server.password = ("joe", TREASURE)
    pod.write({"username": "joe", "password": TREASURE}, folder="credentials")
    new_repository(origin.parent / "library")
    with serving(origin.parent) as stranger:
        stranger.password = ("nobody", "knows")
        git(origin, "submodule", "--quiet", "add", "../library", "lib")
        git(origin, "config", "--file", ".gitmodules", "submodule.lib.url", f"{stranger.url}/library")
        commit(origin, {})
        result, _ = _with_gateway(pod, GitSource(f"{server.url}/app", submodules=True, credentials=True))
        assert (result.code, result.checkout.reason) == (1, "auth")
        assert stranger.requests != []
        assert set(stranger.authorizations) == {None}


def test_an_ssh_key_reaches_ssh_in_a_private_file(pod: Pod, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    record = tmp_path / "record"
    (programs / "ssh").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{record}\nwhile [ "$1" != -i ]; do shift; done\n'
        f'ls -l "$2" >>{record}; cat "$2" >>{record}\necho "Permission denied (publickey)." >&2\nexit 255\n'
    )
    (programs / "ssh").chmod(0o755)
    pod.variables["PATH"] = f"{programs}:{os.environ['PATH']}"
    pod.write({"ssh-privatekey": "KEY MATERIAL", "known_hosts": "host ssh-ed25519 AAAA"}, folder="credentials")
    result, masks = _with_gateway(pod, GitSource("git@host.invalid:acme/app.git", credentials=True))
    assert (result.code, result.checkout.reason) == (1, "auth")
    recorded = record.read_text()
    assert recorded.endswith("KEY MATERIAL\n")
    assert "-rw-------" in recorded
    assert "StrictHostKeyChecking=yes" in recorded
    assert "BatchMode=yes" in recorded
    assert b"KEY MATERIAL" in masks
    assert list((pod.root / "tmp").iterdir()) == []


def test_temporary_files_with_credentials_are_private_while_they_exist(tmp_path: Path) -> None:
    from runner.credentials import Credentials, write_askpass  # noqa: PLC0415 - the only test at this level

    script = write_askpass(tmp_path, "https://host/x", Credentials("joe", "pw"))
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600
    answers = {
        "Username for 'https://host': ": "joe",
        "Password for 'https://joe@host': ": "pw",
        'Password for "https://joe@host/x/info/lfs"': "pw",
        "Password for 'https://joe@host.evil': ": "",
        "Password for 'https://joe@evil': ": "",
        "Password for 'http://joe@host': ": "",
        "Password for 'https://x@evil/@host': ": "",
        'Password for "https://joe@host.evil/': "",
    }
    for prompt, answer in answers.items():
        done = subprocess.run([str(script), prompt], capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == (answer, 0 if answer else 1), prompt


# --- pure parts -------------------------------------------------------------------------------------------------------


def test_candidates_name_branches_before_tags() -> None:
    assert candidates("x") == ("refs/heads/x", "refs/tags/x", "refs/x")
    assert candidates(None) == ("HEAD",)


def test_a_listing_of_similar_names_does_not_confuse_the_choice() -> None:
    listing = "1\trefs/heads/refs/heads/x\n2\trefs/tags/x\n2\trefs/tags/x^{}\n"
    target = choose("x", listing)
    assert target is not None
    assert (target.kind, target.name) == ("tag", "refs/tags/x")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("fatal: unable to access 'https://h/': Could not resolve host: h", "network"),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 503", "network"),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 403", "auth"),
        ("fatal: Authentication failed for 'https://h/'", "auth"),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", "auth"),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", "auth"),
        (
            "ssh: connect to host h port 22: Connection timed out\nfatal: Could not read from remote repository.",
            "network",
        ),
        ("remote: Repository not found.\nfatal: repository 'https://h/' not found", "repository-not-found"),
        ("fatal: '/x' does not appear to be a git repository", "repository-not-found"),
        ("fatal: remote error: upload-pack: not our ref 0000", "ref-not-found"),
        ("fatal: remote error: access denied or repository not exported: /app", "repository-not-found"),
        ("fatal: write error: No space left on device", "disk"),
        ("fatal: Unable to find remote helper for 'foo'", "url"),
        ("fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF", "network"),
    ],
)
def test_gits_messages_are_told_apart(said: str, reason: str) -> None:
    assert explain(said, "https://joe:pw@h/app", "main").reason == reason


def test_an_explanation_never_shows_the_urls_credentials() -> None:
    error = explain("fatal: unable to access 'https://joe:pw@h/app': gone", "https://joe:pw@h/app", None)
    assert re.search("joe|pw", str(error)) is None

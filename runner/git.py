"""Cloning a git repository into a workspace that may already hold files.

`init` and `fetch` rather than `clone`: the workspace is a mount point (which may hold `lost+found`), and a fetch can
name exactly what is wanted. The ref is looked up on the server first, so that a missing ref, refused credentials and
a network failure are three different errors.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from runner import console
from runner.credentials import Credentials, ssh_command, write_askpass
from runner.errors import JobFaultError
from runner.gitfailure import GitFailedError, disk_is_full, explain, last_words
from runner.gitref import BAD_REF, Target, candidates, choose
from runner.retry import RetryPolicy
from runner_spec.plan import GitSource

_LOOKUP_TIMEOUT_SECONDS: Final = 120  # a list of refs; a server that takes longer is away
_PROGRESS_SECONDS: Final = 10.0  # between two lines about the same transfer
_TAIL_BYTES: Final = 16 * 1024  # of git's messages, kept for the error
_ALL_BRANCHES: Final = "+refs/heads/*:refs/remotes/origin/*"

# bigFileThreshold: larger files are streamed to disk, not held in memory (git's own default is 512m).
_SETTINGS: Final = """[safe]
\tdirectory = *
[credential]
\thelper =
[init]
\tdefaultBranch = main
[advice]
\tdetachedHead = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[core]
\thooksPath = /dev/null
\tbigFileThreshold = 16m
\tdeltaBaseCacheLimit = 32m
[http]
\tlowSpeedLimit = 1000
\tlowSpeedTime = 60
"""
_LOCAL_SETTINGS: Final = '[protocol "file"]\n\tallow = always\n'


class Repository:
    """A working copy in the making. Use `cloning`, which provides the environment of git."""

    def __init__(self, path: Path, variables: Mapping[str, str], policy: RetryPolicy) -> None:
        self._path = path
        self._variables = variables
        self._policy = policy

    def clone(self, source: GitSource) -> str:
        """Check out `source` (its URL without credentials); the commit's full hash.

        Raises:
            RunnerError: with reason `ref-not-found`, `repository-not-found`, `auth`, `url`, `network`, `lfs`, …
        """
        if source.ref is not None and BAD_REF.search(source.ref):
            raise JobFaultError("ref-not-found", f"source.ref {source.ref!r} is not a branch, a tag, a commit or a ref")
        if source.lfs:
            self._require_lfs()
        self._local(source, "init", "--quiet", "--template=", ".")
        self._local(source, "config", "remote.origin.url", source.url)
        self._local(source, "config", "remote.origin.fetch", _ALL_BRANCHES)
        target = self._fetch(source, self._look_up(source))
        self._local(source, "checkout", "--quiet", "--force", *target.checkout, skip_lfs=True)
        if source.submodules:
            self._submodules(source)
        if source.lfs:
            self._large_files(source)
        commit = self._capture("rev-parse", "HEAD").strip()
        console.say(f"checked out {self._capture('log', '-1', '--format=%h %s', '--no-show-signature').strip()}")
        return commit

    def _look_up(self, source: GitSource) -> Target:
        patterns = candidates(source.ref)
        arguments = ("ls-remote", "--symref", "--", source.url, *patterns)
        listing = self._patiently(source, lambda: self._capture(*arguments, timeout=_LOOKUP_TIMEOUT_SECONDS))
        target = choose(source.ref, listing)
        if target is None:
            url = console.redact(source.url)
            missing = f"ref {source.ref!r} is not in {url}" if source.ref else f"{url} has no commits: nothing at HEAD"
            raise JobFaultError("ref-not-found", missing)
        return target

    def _fetch(self, source: GitSource, target: Target) -> Target:
        if target.kind != "commit":
            if source.depth:
                self._shallow(source, target.refspec)
            else:
                self._remote(source, "fetch", "--tags", "origin", _ALL_BRANCHES, target.refspec)
            return target
        if target.is_full and source.depth:
            try:
                self._shallow(source, target.name)
            except JobFaultError as error:
                if error.reason != "ref-not-found":
                    raise
                console.say("the server does not give out single commits: fetching the whole history")
            else:
                return target
        # An abbreviated commit can be found in a full history only.
        self._remote(source, "fetch", "--tags", "origin", _ALL_BRANCHES)
        try:
            found = self._capture("rev-parse", "--verify", "--quiet", "--end-of-options", target.name + "^{commit}")
        except GitFailedError as error:
            url = console.redact(source.url)
            raise JobFaultError(
                "ref-not-found", f"commit {target.name!r} is on no branch or tag of {url}, or is ambiguous"
            ) from error
        return Target("commit", found.strip())

    def _shallow(self, source: GitSource, refspec: str) -> None:
        try:
            self._remote(source, "fetch", *_depth(source.depth), "origin", refspec)
        except JobFaultError as error:
            if error.reason != "shallow":
                raise
            console.say("the server cannot give out a shallow history: fetching all of it")
            self._remote(source, "fetch", "origin", refspec)

    def _submodules(self, source: GitSource) -> None:
        update = ("submodule", "update", "--init", "--recursive")
        try:
            self._remote(source, *update, *_depth(source.depth))
        except JobFaultError as error:
            if error.reason not in {"ref-not-found", "shallow"} or not source.depth:
                raise
            # A submodule's commit is rarely the tip of a branch, and not every server gives out other commits.
            self._remote(source, *update)

    def _large_files(self, source: GitSource) -> None:
        # --skip-repo: no hooks; the filters are what later commands in `run` need.
        self._local(source, "lfs", "install", "--local", "--skip-repo")
        self._remote(source, "lfs", "pull")
        if source.submodules:
            each = "git lfs install --local --skip-repo && git lfs pull"
            self._remote(source, "submodule", "foreach", "--recursive", each)

    def _require_lfs(self) -> None:
        try:
            self._capture("lfs", "version")
        except GitFailedError as error:
            raise JobFaultError(
                "lfs", "source.lfs is set and the runner image has no git-lfs: use an image that has it, or lfs: false"
            ) from error

    # --- commands ---------------------------------------------------------------------------------------------------

    def _remote(self, source: GitSource, command: str, *arguments: str) -> None:
        """A command that talks to the server: shown, retried, its failure explained."""
        progress = ("--progress",) if command == "fetch" or arguments[:1] == ("update",) else ()
        words = (command, *arguments[: 1 if command in {"submodule", "lfs"} else 0])
        rest = arguments[len(words) - 1 :]
        self._patiently(source, lambda: self._narrate(*words, *progress, *rest))

    def _local(self, source: GitSource, *arguments: str, skip_lfs: bool = False) -> None:
        """A command that needs no server: its failure is a matter of the repository or of the disk."""
        try:
            self._narrate(*arguments, extra={"GIT_LFS_SKIP_SMUDGE": "1"} if skip_lfs else {})
        except GitFailedError as error:
            if disk_is_full(error.said):
                raise explain(error.said, source.url, source.ref) from error
            raise JobFaultError("git", f"git {arguments[0]} failed: {last_words(error.said)}") from error

    def _patiently(self, source: GitSource, command: Callable[[], str]) -> str:
        delays = self._policy.delays()
        while True:
            try:
                return command()
            except GitFailedError as error:
                problem = explain(error.said, source.url, source.ref)
                delay = next(delays, None)
                if isinstance(problem, JobFaultError) or delay is None:
                    raise problem from error
            console.say(f"{problem}; again in {delay:.1f} s")
            time.sleep(delay)

    def _capture(self, *arguments: str, timeout: float | None = None) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self._path,
                env=dict(self._variables),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GitFailedError(arguments[0], -1, f"error: no answer within {timeout} s") from error
        if done.returncode:
            raise GitFailedError(arguments[0], done.returncode, done.stderr[-_TAIL_BYTES:].decode("utf-8", "replace"))
        return done.stdout.decode("utf-8", "replace")

    def _narrate(self, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
        """Run a command and pass its messages on; the empty text."""
        process = subprocess.Popen(
            ["git", *arguments],
            cwd=self._path,
            env={**self._variables, **(extra or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert process.stdout
        with process:
            try:
                said = _pass_on(process.stdout)
            except BaseException:
                process.kill()  # canceled: leaving the block waits for its end
                raise
        if process.returncode:
            raise GitFailedError(arguments[0], process.returncode, said)
        return ""


def _depth(depth: int) -> tuple[str, ...]:
    return (f"--depth={depth}",) if depth else ()


def _pass_on(stream: IO[bytes]) -> str:
    """Print git's messages as they come, a transfer's progress at most every few seconds; the last of them."""
    tail, rest, printed = "", b"", time.monotonic()
    while chunk := stream.read(4096):
        *lines, rest = re.split(rb"(?<=[\r\n])", (rest + chunk)[-_TAIL_BYTES:])
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            if line.endswith("\r"):
                if time.monotonic() - printed < _PROGRESS_SECONDS:
                    continue
                printed = time.monotonic()
            if line.strip():
                console.say(f"git: {line.strip()}")
                tail = (tail + line.strip() + "\n")[-_TAIL_BYTES:]
    if rest.strip():
        console.say(f"git: {rest.decode('utf-8', 'replace').strip()}")
    return tail + rest.decode("utf-8", "replace")


@contextmanager
def cloning(
    workspace: Path, url: str, credentials: Credentials, policy: RetryPolicy, inherited: Mapping[str, str]
) -> Iterator[Repository]:
    """A repository in `workspace`, with git's environment for this URL; its temporary files vanish afterwards.

    The settings are a file named by GIT_CONFIG_GLOBAL, not GIT_CONFIG_COUNT: git removes the latter from the
    environment of the upload-pack that serves a local repository, which then refuses one that belongs to another uid.
    """
    with tempfile.TemporaryDirectory(prefix="dynapod-git-") as name:
        folder = Path(name)
        settings = folder / "gitconfig"
        local = not urlsplit(url).scheme or url.startswith("file:")
        # By default git lets no submodule name a local path. Where the source itself is local, they may.
        settings.write_text(_SETTINGS + (_LOCAL_SETTINGS if local else ""), encoding="utf-8")
        askpass = str(write_askpass(folder, url, credentials))
        variables = {name: value for name, value in inherited.items() if not name.startswith(("GIT_", "DYNAPOD_"))}
        variables |= {name: value for name, value in inherited.items() if name.startswith("GIT_TEST_")}
        variables |= {
            "GIT_CONFIG_GLOBAL": str(settings),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": askpass,
            "SSH_ASKPASS": askpass,
            "GIT_SSH_COMMAND": ssh_command(folder, credentials),
            "LC_ALL": "C.UTF-8",  # the messages are read by a program
        }
        yield Repository(workspace, variables, policy)


def check_out(workspace: Path, source: GitSource, credentials: Credentials, policy: RetryPolicy) -> str:
    """Clone `source`, whose URL holds no credentials, into `workspace`; the commit's full hash.

    Raises:
        RunnerError: see `Repository.clone`.
    """
    console.say(f"cloning {source.url} at {source.ref or 'HEAD'}, {_extent(source.depth)}")
    with cloning(workspace, source.url, credentials, policy, os.environ) as repository:
        return repository.clone(source)


def _extent(depth: int) -> str:
    return f"depth {depth}" if depth else "full history"

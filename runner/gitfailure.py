"""Why a git command failed, read from its messages: whose fault it is, and what to do about it."""

import re
from typing import Final

from runner import console
from runner.errors import JobFaultError, RunnerError, TemporaryError

_AUTH: Final = re.compile(
    r"Authentication failed|could not read (Username|Password)|terminal prompts disabled|Access denied"
    r"|Permission denied|Host key verification failed|returned error: 40[13]|unable to read askpass response"
    r"|invalid credentials|Authorization failed",
    re.IGNORECASE,
)
_NO_REPOSITORY: Final = re.compile(
    r"repository '[^']*' not found|Repository not found|does not appear to be a git repository"
    r"|returned error: 404|repository not exported|'[^']*' does not exist",
    re.IGNORECASE,
)
_NO_OBJECT: Final = re.compile(r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref")
_NO_SHALLOW: Final = re.compile(r"does not support (shallow|--depth)")
_NO_SPACE: Final = re.compile(r"No space left on device|Disk quota exceeded")
_BAD_URL: Final = re.compile(
    r"protocol '?[^ ]+'? is not supported|remote helper|not recognized|transport '[^']*' not allowed"
    r"|unable to find remote helper|URL using bad/illegal format"
)


class GitFailedError(Exception):
    """A git command failed; `said` is the end of its messages, without credentials."""

    def __init__(self, command: str, code: int, said: str) -> None:
        super().__init__(f"git {command} ended with exit code {code}: {said}")
        self.said = said


def explain(said: str, url: str, ref: str | None) -> RunnerError:
    """The error that git's messages stand for. What is not known is taken for the network: retrying is safe."""
    place, last = f"{console.redact(url)} at {ref or 'HEAD'}", last_words(said)
    if disk_is_full(said):
        return TemporaryError("disk", f"the disk is full while cloning {place}: {last}")
    for pattern, reason, message in _JOB_FAULTS:
        if pattern.search(said):
            return JobFaultError(reason, message.format(place=place) + f": {last}")
    return TemporaryError("network", f"cannot fetch {place}: {last}")


# In this order: git's advice at the end of a message speaks of access rights whatever the cause.
_JOB_FAULTS: Final = (
    (_NO_OBJECT, "ref-not-found", "the ref is not there: {place}"),
    (_NO_SHALLOW, "shallow", "the server has no shallow histories: {place}"),
    (_NO_REPOSITORY, "repository-not-found", "there is no repository, or it needs credentials: {place}"),
    (_AUTH, "auth", "the server refuses access (check source.credentials): {place}"),
    (_BAD_URL, "url", "git cannot use the URL: {place}"),
)


def disk_is_full(said: str) -> bool:
    """Whether git ran out of space: the platform's trouble, whatever the command."""
    return _NO_SPACE.search(said) is not None


def last_words(said: str) -> str:
    """The lines that tell the cause, shortened, without credentials."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:", "ERROR"))]
    return console.redact(" | ".join((telling or lines)[-3:]))[:600] or "git said nothing"

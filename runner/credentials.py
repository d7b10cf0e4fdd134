"""Credentials of a git server: from a mounted Secret or out of the URL, handed to git by files only.

Key names are those of Kubernetes' kubernetes.io/basic-auth and kubernetes.io/ssh-auth Secrets: `username`, `password`,
`ssh-privatekey`; and `token` (a password by another name) and `known_hosts`.
"""

import base64
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from runner.errors import JobFaultError

# GitHub wants this user with a token, GitLab and Gitea take any name.
_TOKEN_USER: Final = "x-access-token"  # noqa: S105 - a user's name
_WEB: Final = frozenset({"http", "https"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What git may need; all empty when there are none."""

    username: str = ""
    password: str = ""
    private_key: str = ""
    known_hosts: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Credentials":
        """Read a mounted Secret.

        Raises:
            JobFaultError: (`auth`) when it has neither a password, nor a token, nor a key, or is no text.
        """

        def text(key: str) -> str:
            path = folder / key
            try:
                return path.read_text(encoding="utf-8") if path.exists() else ""
            except (OSError, UnicodeDecodeError) as error:
                raise JobFaultError("auth", f"the credentials' key {key!r} cannot be read: {error}") from error

        token = text("token").strip()
        username, password = text("username").strip("\r\n"), text("password").strip("\r\n") or token
        found = cls(username or (_TOKEN_USER if token else ""), password, text("ssh-privatekey"), text("known_hosts"))
        if not (found.password or found.private_key):
            raise JobFaultError(
                "auth", "the source's credentials hold none of the keys 'password', 'token' and 'ssh-privatekey'"
            )
        return found

    def secrets(self) -> Iterator[bytes]:
        """What must be masked."""
        if self.password:
            yield self.password.encode()
            yield quote(self.password, safe="").encode()
            # The form of an Authorization header, as GIT_CURL_VERBOSE would print it.
            yield base64.b64encode(f"{self.username}:{self.password}".encode())
        elif self.username:
            yield self.username.encode()  # `https://TOKEN@host/…`
        if self.private_key:
            yield self.private_key.encode()


def extract(url: str, given: Credentials) -> tuple[str, Credentials]:
    """The URL without its user part, and the credentials with it; those given win.

    Only http and https URLs are changed: the user of an ssh URL is no secret, and git needs it there.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url, given  # git will say what is wrong with it
    if parts.scheme not in _WEB or "@" not in parts.netloc:
        return url, given
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    clean = urlunsplit(parts._replace(netloc=host))
    username = given.username if given.password else unquote(name)
    return clean, replace(given, username=username, password=given.password or unquote(password))


def write_askpass(folder: Path, url: str, credentials: Credentials) -> Path:
    """A program for GIT_ASKPASS that answers for this URL's server only.

    A submodule or a redirect may lead to any server, and git would ask on its behalf: that server must not get them.
    """
    script = folder / "askpass"
    lines = ["#!/bin/sh", 'case "$1" in']
    parts = urlsplit(url)
    if parts.scheme in _WEB and (credentials.username or credentials.password):
        _private(folder / "username", credentials.username)
        _private(folder / "password", credentials.password)
        # Plain http may be redirected to https on the same server.
        for scheme in {parts.scheme, "https"}:
            lines += _answers(f"{scheme}://", parts.netloc, credentials.username, folder)
    lines += ["*) exit 1 ;;", "esac", ""]
    script.write_text("\n".join(lines), encoding="utf-8")
    script.chmod(stat.S_IRWXU)
    return script


def _answers(scheme: str, host: str, username: str, folder: Path) -> Iterator[str]:
    """Cases of the shell script: git's prompts exactly, git-lfs's (which name the whole URL) up to the host's end."""
    users = sorted({username, quote(username, safe="")})
    for kind, origins in (
        ("Username", [host]),
        ("Password", [host, *(f"{user}@{host}" for user in users)]),
    ):
        answer = f"exec cat {shlex.quote(str(folder / kind.lower()))} ;;"
        for origin in origins:
            git = shlex.quote(f"{kind} for '{scheme}{origin}': ")
            lfs = f'{kind} for "{scheme}{origin}'
            ends = [shlex.quote(lfs + end) + "*" for end in ('"', "/")]
            yield f"{git}|{'|'.join(ends)}) {answer}"


def ssh_command(folder: Path, credentials: Credentials) -> str:
    """The value of GIT_SSH_COMMAND: never asks, and believes `known_hosts` alone when it is given."""
    known = folder / "known_hosts"
    _private(known, credentials.known_hosts)
    options: dict[str, str] = {
        "BatchMode": "yes",
        "ConnectTimeout": "30",
        "ServerAliveInterval": "15",
        "UserKnownHostsFile": str(known),
        # Without known hosts, the first key seen is believed for the time of this checkout.
        "StrictHostKeyChecking": "yes" if credentials.known_hosts else "accept-new",
    }
    command = ["ssh", "-F", "/dev/null"]
    if credentials.private_key:
        key = folder / "key"
        # A copy, because ssh refuses keys that a group may read, which is how Secrets are mounted.
        _private(key, credentials.private_key.rstrip("\n") + "\n")
        command += ["-i", str(key)]
        options["IdentitiesOnly"] = "yes"
    return shlex.join([*command, *_options(options)])


def _options(options: Mapping[str, str]) -> Iterator[str]:
    for name, value in options.items():
        yield "-o"
        yield f"{name}={value}"


def _private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, stat.S_IRUSR | stat.S_IWUSR)
    with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - of a descriptor
        file.write(text)

"""Lines in the container's log, with no credentials in URLs."""

import re
import sys

# Of C0, C1 and the line separators that terminals or `splitlines` know: a file's name must not write lines of ours.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s'\"<>]*@")


def redact(text: str) -> str:
    """The text with the user part of every URL replaced: it may hold a password, or be a token itself."""
    return _USERINFO.sub(r"\g<scheme>***@", text)


def say(text: str) -> None:
    """One line of progress, written at once: a log that lags is no help when the container is killed."""
    line = f"[dynapod] {_CONTROL.sub(lambda found: ascii(found[0])[1:-1], redact(text))}\n"
    sys.stdout.write(line.encode("utf-8", "backslashreplace").decode())
    sys.stdout.flush()


def warn(text: str) -> None:
    """A line about something that went wrong and does not fail the job."""
    say(f"warning: {text}")


def megabytes(size: int) -> str:
    """A size in bytes for people, in decimal units."""
    if size < 1000:  # noqa: PLR2004 - one kilobyte
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004 - one megabyte

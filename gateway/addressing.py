"""What a request addresses: artifact and path, or cache key, from the raw request target. Pure.

The raw target, because a decoded one is ambiguous: a file name need not be UTF-8, and `%2F` is not a separator in a
cache key. Bytes that are not UTF-8 become lone surrogates (as `os.fsdecode` makes them), so every name stays distinct.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from gateway.problem import malformed
from runner_spec.transfer import ARTIFACTS_PATH, CACHES_PATH

SEGMENT_BYTES: Final = 1024
PATH_BYTES: Final = 4096  # PATH_MAX of Linux
MAX_FALLBACKS: Final = 100


@dataclass(frozen=True, slots=True)
class ArtifactAddress:
    """One file of an artifact; `path` is relative to the workspace, `/`-separated, without `.` and `..`."""

    artifact: str
    path: str


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """A key, and the prefixes to try in order when no entry has it."""

    key: str
    fallbacks: tuple[str, ...]


def artifact_address(raw_path: str) -> ArtifactAddress:
    """The address in `…/artifacts/{artifact}/{path}`.

    Raises:
        Problem: 400 when a segment is empty, `.` or `..`, too long, or holds a control character.
    """
    artifact, _, path = _tail(raw_path, ARTIFACTS_PATH).partition("/")
    name = _checked("artifact", _text(artifact))
    if "/" in name:
        raise malformed(f"artifact {name!r} contains a slash", "Name the artifact without slashes.")
    segments = [_checked("path segment", segment) for segment in _text(path).split("/")]
    whole = "/".join(segments)
    if len(_octets(whole)) > PATH_BYTES:
        raise malformed(f"path of {len(_octets(whole))} bytes", f"Use paths of at most {PATH_BYTES} bytes.")
    return ArtifactAddress(name, whole)


def cache_key(raw_path: str) -> str:
    """The key in `…/caches/{key}`.

    Raises:
        Problem: 400 when it is empty, dots only, too long, or holds a control character.
    """
    return _checked("cache key", _text(_tail(raw_path, CACHES_PATH)))


def cache_lookup(raw_query: str) -> CacheLookup:
    """Key and fallbacks in `?key=…&fallback=…`.

    Raises:
        Problem: 400 when `key` is not there exactly once, a value is malformed, or another parameter is given.
    """
    try:
        pairs = parse_qsl(raw_query, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_FALLBACKS + 1)
    except ValueError as error:
        raise malformed("too many parameters", f"Send one key and at most {MAX_FALLBACKS} fallbacks.") from error
    values: dict[str, list[str]] = {"key": [], "fallback": []}
    for name, value in pairs:
        if name not in values:
            raise malformed(f"parameter {name!r} is not known", "Send one key and any number of fallback.")
        # A lone dot is no key, but a prefix of many.
        values[name].append(_checked("cache key", value) if name == "key" else _bounded("cache fallback", value))
    if len(values["key"]) != 1:
        raise malformed(f"{len(values['key'])} values of key", "Send ?key=… exactly once.")
    return CacheLookup(values["key"][0], tuple(values["fallback"]))


def _tail(raw_path: str, base: str) -> str:
    if not raw_path.startswith(base + "/"):
        raise malformed(f"path {raw_path[:200]!r}", f"Write {base}/ itself without percent-encoding.")
    return raw_path[len(base) + 1 :]


def _text(raw: str) -> str:
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _checked(what: str, text: str) -> str:
    if text in {".", ".."}:
        raise malformed(f"{what} {text!r}", "A name must not be '.' or '..'.")
    return _bounded(what, text)


def _bounded(what: str, text: str) -> str:
    if not text:
        raise malformed(f"{what} is empty", "Give it a name.")
    if len(_octets(text)) > SEGMENT_BYTES:
        raise malformed(f"{what} of {len(_octets(text))} bytes", f"Use names of at most {SEGMENT_BYTES} bytes.")
    if any(character < " " or character == "\x7f" for character in text):
        raise malformed(f"{what} {text!r} holds a control character", "Rename it.")
    return text

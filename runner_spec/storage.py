"""Object names: where artifacts, manifests, logs and cache entries live in the object store.

Pure. Job ids, artifact names, paths and cache keys come from outside and may hold anything; the names made here

- are valid in every store: only `A-Z a-z 0-9 . _ - % /` (and `=` in cache entries), segments of at most 201 bytes
  (file systems allow 255), 1000 bytes in all (S3 allows 1024, and the store's own prefix comes on top);
- never escape their folder: no segment is empty, `.` or `..`;
- are injective: different inputs never share a name (up to a collision of SHA-256).

How text becomes part of a name: every byte of its UTF-8 form outside `A-Z a-z 0-9 . _ -` is written `%XX`, and so
is a leading dot. What is longer than a segment goes on in a folder whose name ends in a lone `%`, which no escape
produces. Both rules look at nothing to the right, so the name of a prefix is a prefix of the name: that is how the
fallbacks of a cache are looked up.

    jobs/<job>/<attempt>/artifacts/<artifact>/<path>
    jobs/<job>/<attempt>/manifest.json
    jobs/<job>/<attempt>/logs/<container>/<offset, 20 digits>
    caches/<scope>/<key>=<archive format>
"""

import hashlib
import re
from typing import Final

JOBS: Final = "jobs"
CACHES: Final = "caches"

SEGMENT_BYTES: Final = 200
NAME_BYTES: Final = 1000
# What of a job id or a cache scope is kept for people's eyes; the hash beside it tells them apart.
SLUG_CHARACTERS: Final = 40
# 128 bits: a collision among 10^12 jobs has a chance of 10^-15.
HASH_CHARACTERS: Final = 32
# Room for `=` and an archive format.
ARCHIVE_CHARACTERS: Final = 40
# Offsets sort as text; 20 digits hold any 64-bit number.
OFFSET_DIGITS: Final = 20

_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_CONTINUED: Final = "%"
_FORMAT_SEPARATOR: Final = "="
_ARCHIVE: Final = re.compile(r"[a-z0-9.]{1,39}")
_ENTRY: Final = re.compile(r"=([a-z0-9.]{1,39})\Z")
_OF_A_JOB: Final = re.compile(rf"{JOBS}/[a-z0-9-]+-[0-9a-f]{{{HASH_CHARACTERS}}}/")
_MANIFEST: Final = re.compile(rf"{JOBS}/[^/]+/[1-9][0-9]*/manifest\.json")
_OFFSET: Final = re.compile(r"/([0-9]{20})\Z")


class NameTooLongError(ValueError):
    """The name would be longer than object stores allow."""


def job_prefix(job_id: str) -> str:
    """The folder of a job: a readable slug of its id and a hash of it. No trailing slash (as in all prefixes here)."""
    return f"{JOBS}/{_slug(job_id)}"


def attempt_prefix(job_id: str, attempt: int) -> str:
    """The folder of one attempt.

    Raises:
        ValueError: when `attempt` is not positive.
    """
    if attempt < 1:
        raise ValueError(f"attempt is {attempt}: attempts are counted from 1")
    return f"{job_prefix(job_id)}/{attempt}"


def job_folder(path: str) -> str | None:
    """The folder of the job that an object belongs to, with its slash: in the order of names, as their objects are.

    None for what is no job's.
    """
    found = _OF_A_JOB.match(path)
    return found[0] if found else None


def is_manifest(path: str) -> bool:
    """Whether `manifest_path` made this name."""
    return _MANIFEST.fullmatch(path) is not None


def artifacts_prefix(job_id: str, attempt: int) -> str:
    """The folder of all artifacts of one attempt."""
    return f"{attempt_prefix(job_id, attempt)}/artifacts"


def artifact_path(job_id: str, attempt: int, artifact: str, path: str) -> str:
    """The object of one file; `path` is relative to the workspace, `/`-separated.

    A name that would be too long ends in a hash instead: the file's real path is in the manifest.

    Raises:
        ValueError: when the artifact's name or a part of the path is empty.
    """
    folder = artifacts_prefix(job_id, attempt)
    name = "/".join([_encode(artifact), *(_encode(part) for part in path.split("/"))])
    if len(folder) + 1 + len(name) > NAME_BYTES:
        name = f"{_CONTINUED}/{_digest(f'{len(artifact)}/{artifact}/{path}', 64)}"
    return f"{folder}/{name}"


def manifest_path(job_id: str, attempt: int) -> str:
    """The object of the attempt's upload report (`report.UploadReport`, in full)."""
    return f"{attempt_prefix(job_id, attempt)}/manifest.json"


def log_prefix(job_id: str, attempt: int, container: str) -> str:
    """The folder of one container's log."""
    return f"{attempt_prefix(job_id, attempt)}/logs/{_encode(container)}"


def log_path(job_id: str, attempt: int, container: str, offset: int) -> str:
    """The object of one piece of a log; `offset` is that of its first byte. Names sort in the log's order.

    Raises:
        ValueError: when the offset is negative or has more than 20 digits, or the container's name is empty.
    """
    if not 0 <= offset < 10**OFFSET_DIGITS:
        raise ValueError(f"offset is {offset}: it must lie between 0 and 10^{OFFSET_DIGITS}")
    return f"{log_prefix(job_id, attempt, container)}/{offset:0{OFFSET_DIGITS}d}"


def log_offset(path: str) -> int | None:
    """The offset that `log_path` wrote into a name, None for any other name."""
    found = _OFFSET.search(path)
    return int(found[1]) if found else None


def cache_prefix(scope: str) -> str:
    """The folder of all cache entries of one scope."""
    return f"{CACHES}/{_slug(scope)}"


def cache_path(scope: str, key: str) -> str:
    """What the names of all entries whose key starts with `key` start with.

    Raises:
        ValueError: when the key is empty.
        NameTooLongError: when the key is too long for a name (about 900 bytes; a byte outside ASCII counts three).
    """
    name = f"{cache_prefix(scope)}/{_encode(key)}"
    if len(name) > NAME_BYTES - ARCHIVE_CHARACTERS:
        raise NameTooLongError(f"cache key of {len(key)} characters is too long: shorten it, or hash a part of it")
    return name


def cache_entry_path(scope: str, key: str, archive: str) -> str:
    """The object of one cache entry; its archive format (`tar.zst`) stands in the name.

    In the name, because a local folder as store has no place for attributes of an object.

    Raises:
        ValueError: as `cache_path`, and when the format does not look like one.
    """
    if not _ARCHIVE.fullmatch(archive):
        raise ValueError(f"archive format {archive!r}: expected something like tar.zst")
    return f"{cache_path(scope, key)}{_FORMAT_SEPARATOR}{archive}"


def parse_cache_entry(scope: str, path: str) -> tuple[str, str] | None:
    """Key and archive format of an entry, from its name; None when `cache_entry_path` did not write it."""
    found = _ENTRY.search(path)
    folder = cache_prefix(scope) + "/"
    if not found or not path.startswith(folder):
        return None
    try:
        key = _decode(path[len(folder) : found.start()])
        return (key, found[1]) if cache_entry_path(scope, key, found[1]) == path else None
    except ValueError:
        return None


def _slug(text: str) -> str:
    readable = re.sub(r"[^a-z0-9]+", "-", text[: 4 * SLUG_CHARACTERS].lower())[:SLUG_CHARACTERS].strip("-")
    return f"{readable or 'x'}-{_digest(text, HASH_CHARACTERS)}"


def _digest(text: str, characters: int) -> str:
    return hashlib.sha256(_octets(text)).hexdigest()[:characters]


def _octets(text: str) -> bytes:
    # surrogatepass: file names that are not UTF-8 arrive as lone surrogates, and each must keep its own name.
    return text.encode("utf-8", "surrogatepass")


def _encode(text: str) -> str:
    """One part of a name, from any text."""
    if not text:
        raise ValueError("a part of the name is empty")
    pieces, piece = [], ""
    for index, octet in enumerate(_octets(text)):
        plain = octet in _PLAIN and not (index == 0 and octet == ord("."))
        symbol = chr(octet) if plain else f"%{octet:02X}"
        if len(piece) + len(symbol) > SEGMENT_BYTES:
            pieces.append(piece + _CONTINUED)
            piece = ""
            # A later piece may start with a dot: it must not become `.` or `..` either.
            symbol = "%2E" if symbol == "." else symbol
        piece += symbol
    return "/".join([*pieces, piece])


def _decode(name: str) -> str:
    plain = name.replace(_CONTINUED + "/", "")
    octets = bytearray()
    for literal, escape in re.findall(r"([^%])|%([0-9A-F]{2})", plain):
        octets += literal.encode() if literal else bytes.fromhex(escape)
    return octets.decode("utf-8", "surrogatepass")

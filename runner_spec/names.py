"""Names of Kubernetes objects made from text that may hold anything: job ids, worker names, cache scopes.

Each function is injective (up to a collision of SHA-256) and its result valid, whatever the input: an empty id, ten
kilobytes of it, any Unicode, even lone surrogates.
"""

import hashlib
import re
from base64 import b32encode
from typing import Final

# An int32 has ten digits; nobody tries a job that often, and the pod's name must stay within 63 characters.
ATTEMPT_LIMIT: Final = 10**10 - 1
_SLUG_CHARACTERS: Final = 20
# 26 base32 characters are 130 bits: `dp-` + 20 + `-` + 26 + `-` + 10 digits make 61 of the 63 characters allowed.
_HASH_CHARACTERS: Final = 26
# A label value may have 63 characters; the whole digest has 52.
_HASHED_LABEL: Final = "sha256."
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def pod_name(job_id: str, attempt: int) -> str:
    """`dp-<slug>-<hash>-<attempt>`: a DNS-1123 label, the same for equal inputs and for no others.

    Raises:
        ValueError: when `attempt` is not between 1 and 9,999,999,999.
    """
    if not 1 <= attempt <= ATTEMPT_LIMIT:
        raise ValueError(f"attempt is {attempt}: attempts are counted from 1 to {ATTEMPT_LIMIT}")
    return f"dp-{_slug(job_id)}-{_digest(job_id)[:_HASH_CHARACTERS]}-{attempt}"


def label_value(text: str) -> str:
    """The text itself when it is a valid label value (as UUIDs are, for `kubectl -l`), else `sha256.<digest>`."""
    # Text that looks like a digest is digested too; else it could be chosen to equal another text's value.
    if _LABEL_VALUE.fullmatch(text) and not text.startswith(_HASHED_LABEL):
        return text
    return _HASHED_LABEL + _digest(text)


def scope_name(kind: str, text: str) -> str:
    """`<kind>-<slug>-<hash>`, for a cache scope: readable, of a-z, 0-9 and - only."""
    return f"{kind}-{_slug(text)}-{_digest(text)[:_HASH_CHARACTERS]}"


def _digest(text: str) -> str:
    # surrogatepass: text with lone surrogates must have a name as well, and its own.
    return b32encode(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()).decode().rstrip("=").lower()


def _slug(text: str) -> str:
    readable = re.sub(r"[^a-z0-9]+", "-", text[: 4 * _SLUG_CHARACTERS].lower()).strip("-")
    return readable[:_SLUG_CHARACTERS].strip("-") or "job"

"""Names, labels and annotations: the rules of k8s.io/apimachinery/pkg/util/validation, with its wording.

Every function answers None for a good value, else the problem as the apiserver words it.
"""

import ipaddress
import re
import secrets
from collections.abc import Mapping
from typing import Final

_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE: Final = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_CONFIG_KEY: Final = r"[-._a-zA-Z0-9]+"

SUBDOMAIN_MAX: Final = 253
LABEL_MAX: Final = 63
# ValidateAnnotationsSize: keys and values of all annotations together.
ANNOTATIONS_MAX_BYTES: Final = 256 * 1024
# k8s.io/apiserver/pkg/storage/names: no vowels, no 0/1/3, so that no word appears by accident.
_SUFFIX_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH: Final = 5
_GENERATED_BASE_MAX: Final = LABEL_MAX - _SUFFIX_LENGTH


def subdomain_problem(name: str) -> str | None:
    """DNS-1123 subdomain: names of pods, secrets, config maps."""
    if len(name) > SUBDOMAIN_MAX:
        return f"must be no more than {SUBDOMAIN_MAX} characters"
    if re.fullmatch(_SUBDOMAIN, name):
        return None
    return (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
        f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
    )


def dns_label_problem(name: str) -> str | None:
    """DNS-1123 label: names of containers, volumes and namespaces."""
    if len(name) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if re.fullmatch(_LABEL, name):
        return None
    return (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
        f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
    )


def ip_address_problem(text: str) -> str | None:
    """An address in a field of old, where Go's sloppy reading holds: leading zeros mean nothing in IPv4."""
    try:
        ipaddress.ip_address(text if ":" in text else re.sub(r"(^|\.)0+(?=\d)", r"\1", text))
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return None


def label_key_problem(key: str) -> str | None:
    """A label's or annotation's key: an optional DNS prefix and a name of at most 63 characters."""
    prefix, slash, name = key.rpartition("/")
    if slash and (not prefix or subdomain_problem(prefix)):
        return "prefix part " + (subdomain_problem(prefix) or "" if prefix else "must be non-empty")
    if not name:
        return "name part must be non-empty"
    if len(name) > LABEL_MAX:
        return f"name part must be no more than {LABEL_MAX} characters"
    if not re.fullmatch(_QUALIFIED, name):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            f"'{_QUALIFIED}')"
        )
    return None


def label_value_problem(value: str) -> str | None:
    """A label's value: at most 63 characters of a small alphabet, or empty."""
    if len(value) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if re.fullmatch(_VALUE, value):
        return None
    return (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
        f"validation is '{_VALUE}')"
    )


def config_key_problem(key: str) -> str | None:
    """A key of a secret or config map: it becomes a file's name."""
    if len(key) > SUBDOMAIN_MAX:
        return f"must be no more than {SUBDOMAIN_MAX} characters"
    if key in (".", "..") or key.startswith(".."):
        return "must not be '.' or start with '..'"
    if re.fullmatch(_CONFIG_KEY, key):
        return None
    return (
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME', "
        f" or 'key-name', regex used for validation is '{_CONFIG_KEY}')"
    )


def annotations_bytes(annotations: Mapping[str, str]) -> int:
    """What counts against `ANNOTATIONS_MAX_BYTES`: UTF-8 bytes of all keys and values."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())


def generated_name(base: str) -> str:
    """A name from `generateName`: the base, cut so that five random characters still fit into 63."""
    suffix = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(_SUFFIX_LENGTH))
    return base[:_GENERATED_BASE_MAX] + suffix

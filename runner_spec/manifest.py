"""Reading a manifest that may have any shape, and comparing it: what is missing, or of a wrong type, reads as empty."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a place of a manifest."""

    path: Path
    message: str
    value: object = ""


def mapping(value: object) -> Json:
    """The value when it is a mapping."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Json]:
    """The items of a list, what is no mapping as an empty one: places keep their numbers."""
    return [mapping(item) for item in value] if isinstance(value, list) else []


def containers(spec: Json) -> Iterator[tuple[Path, Json]]:
    """Every container with its place, whatever kind it is."""
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(mappings(spec.get(field))):
            yield ("spec", field, index), container


def repeated(values: Iterable[object]) -> list[tuple[str, int]]:
    """What occurs more than once, and how often."""
    return [(value, count) for value, count in Counter(map(str, values)).items() if count > 1]


def match(path: Path, actual: object, expected: object) -> Iterator[Finding]:
    """Where two values differ, key by key; a key too many is a difference as well."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key in [*expected, *(key for key in actual if key not in expected)]:
            if key not in expected:
                yield Finding((*path, str(key)), "the policy gives no pod this field", actual[key])
            else:
                yield from match((*path, key), actual.get(key), expected[key])
    elif type(actual) is not type(expected) or actual != expected:
        yield Finding(path, "this differs from what the policy gives", "null" if actual is None else actual)


def known(path: Path, values: Json, names: Sequence[str]) -> Iterator[Finding]:
    """The keys that are none of these names."""
    for name in values:
        if name not in names:
            yield Finding((*path, str(name)), "the policy gives no pod this field", values[name])

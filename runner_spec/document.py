"""From the text of a document, YAML or JSON, to plain data, with the place of every value.

YAML is read as its 1.2 core schema (`yes` is a text, only `true` and `false` are booleans), from parser events and
without recursion, so that neither deep nesting nor aliases that multiply (a "billion laughs") cost more than they
are allowed to. Duplicate keys, further documents and tags are refused, with line and column.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from runner_spec.problem import InvalidDescription, Problem, shorten

SIZE_LIMIT_BYTES: Final = 4 * 1024 * 1024  # a 1 MiB script still gets the answer about scripts, not about documents
NODES_LIMIT: Final = 50_000  # values, counting each use of an alias in full
DEPTH_LIMIT: Final = 64

Place = tuple[int, int]  # line and column, from 1

_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]{1,400}")
_OCTAL: Final = re.compile(r"0o[0-7]{1,400}")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,400}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PATH_PART: Final = re.compile(r'\[([0-9]+)\]|\["((?:[^"\\]|\\.)*)"\]|\.?([^.\[]+)')


@dataclass(frozen=True, slots=True)
class Document:
    """A document's `data` and where each of its values stands."""

    data: dict[str, Any]
    places: Mapping[tuple[int, object], Place]  # (id of the container in `data`, key or index) → place

    def locate(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems with line and column added where the document knows them (else those of the nearest parent)."""
        return [self._located(problem) for problem in problems]

    def _located(self, problem: Problem) -> Problem:
        container: Any = self.data
        place: Place | None = None
        for part in _parts(problem.path):
            place = self.places.get((id(container), part), place)
            try:
                container = container[part]
            except (KeyError, IndexError, TypeError):
                break
        return problem if place is None else replace(problem, line=place[0], column=place[1])


def _parts(path: str) -> Iterator[str | int]:
    for index, quoted, name in _PATH_PART.findall(path):
        yield int(index) if index else json.loads(f'"{quoted}"') if quoted else name


def load_document(source: str | bytes) -> Document:
    """Read a document whose top is a mapping.

    Raises:
        InvalidDescription: with one problem, its line and column: not UTF-8, too large, not YAML or JSON, a duplicate
            key, a second document, a tag, too deep, too many values, or another top than a mapping.
    """
    text = _decode(source)
    if text.lstrip().startswith("{"):
        data = _load_json(text)
        if data is not None:
            return Document(data, {})
    try:
        return _Builder().build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark or error.context_mark)
        remedy = "check indentation, colons and quotes there"
        raise _invalid(f"this is not YAML: {error.problem or error.context}", place, remedy) from error
    except yaml.reader.ReaderError as error:
        line, column = _place_of(text, error.position)
        message = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise InvalidDescription([Problem("", message, "", "remove it", line, column)]) from error


def _decode(source: str | bytes) -> str:
    size = len(source) if isinstance(source, bytes) else len(source.encode("utf-8", "surrogatepass"))
    if size > SIZE_LIMIT_BYTES:
        message = f"the document has {size} bytes; {SIZE_LIMIT_BYTES} are allowed"
        raise InvalidDescription([Problem("", message, "", "keep long scripts as files in the repository")])
    if isinstance(source, str):
        return source.removeprefix("\ufeff")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} of the document (0x{source[error.start]:02x}) is not UTF-8"
        raise InvalidDescription([Problem("", message, "", "save it as UTF-8", line)]) from error


def _load_json(text: str) -> dict[str, Any] | None:
    """The fast way for machines. None: let the YAML reader, which knows places, say what is wrong (or read it)."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) != len(pairs):
            raise ValueError("duplicate key")
        return data

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _place_of(text: str, position: int) -> Place:
    before = text[:position]
    return before.count("\n") + 1, position - before.rfind("\n")


def _invalid(message: str, place: Place | None, remedy: str, value: str = "") -> InvalidDescription:
    line, column = place if place is not None else (None, None)
    return InvalidDescription([Problem("", message, value, remedy, line, column)])


_ABSENT: Final = object()


@dataclass(slots=True)
class _Frame:
    """A collection under construction. `key`: pending, of a mapping; `weight`: its values, aliases counted in full."""

    value: dict[Any, Any] | list[Any]
    anchor: str | None
    place: Place
    key: Any = _ABSENT
    key_place: Place | None = None
    weight: int = 1
    merges: tuple[Mapping[Any, Any], ...] = ()


class _Builder:
    """Builds data from parser events, with a stack of its own instead of recursion."""

    def __init__(self) -> None:
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._places: dict[tuple[int, object], Place] = {}
        self._merged: list[object] = []  # kept alive: `_places` goes by identity, which Python would use again
        self._nodes = 0
        self._top: Any = _ABSENT

    def build(self, events: Iterator[yaml.Event]) -> Document:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _invalid(
                        "a second document begins here", _place(event.start_mark), "put each job into its own file"
                    )
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
        if not isinstance(self._top, dict):
            seen = "" if self._top is _ABSENT else shorten(self._top)
            raise _invalid(
                "a job description is a mapping", None, "write keys such as image and steps at the top level", seen
            )
        return Document(self._top, self._places)

    def _node(self, event: yaml.NodeEvent) -> None:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _invalid(
                    f"nothing is called &{event.anchor}", _place(event.start_mark), "define it before its use"
                )
            value, weight = self._anchors[event.anchor]
            self._add(value, weight, _place(event.start_mark))
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1)
            self._add(value, 1, _place(event.start_mark), plain=event.implicit[0])
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        _refuse_tag(event)
        if len(self._stack) >= DEPTH_LIMIT:
            raise _invalid(
                f"nested deeper than {DEPTH_LIMIT} levels", _place(event.start_mark), "no job description needs that"
            )
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is _ABSENT:
            raise _invalid("a key must be a text, not a collection", _place(event.start_mark), "write key: value")
        value: dict[Any, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._count(1, _place(event.start_mark))
        self._stack.append(_Frame(value, event.anchor, _place(event.start_mark)))

    def _close(self) -> None:
        frame = self._stack.pop()
        if isinstance(frame.value, dict):
            for merged in frame.merges:
                for key in merged:
                    if key not in frame.value:
                        frame.value[key] = merged[key]
                        self._places[id(frame.value), key] = self._places.get((id(merged), key), frame.place)
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.value, frame.weight)
        self._nodes -= frame.weight  # `_add` counts the whole
        self._add(frame.value, frame.weight, frame.place)

    def _count(self, weight: int, place: Place) -> None:
        self._nodes += weight
        if self._nodes > NODES_LIMIT:
            raise _invalid(f"more than {NODES_LIMIT} values", place, "use fewer, and fewer aliases")

    def _add(self, value: Any, weight: int, place: Place, *, plain: bool = False) -> None:  # noqa: ANN401 - any YAML
        self._count(weight, place)
        if not self._stack:
            self._top = value
            return
        frame = self._stack[-1]
        frame.weight += weight
        if isinstance(frame.value, list):
            self._places[id(frame.value), len(frame.value)] = place
            frame.value.append(value)
        elif frame.key is _ABSENT:
            self._key(frame, value, place, plain=plain)
        else:
            self._pair(frame, value, place)

    def _key(self, frame: _Frame, key: object, place: Place, *, plain: bool) -> None:
        if isinstance(key, dict | list):
            raise _invalid("a key must be a text, not a collection", place, "write key: value")
        if key in frame.value:
            line, column = self._places[id(frame.value), key]
            message = f"the key {shorten(key)} stands here again (first in line {line}, column {column})"
            raise _invalid(message, place, "keep one of the two")
        frame.key, frame.key_place = (_MERGE if key == "<<" and plain else key), place

    def _pair(self, frame: _Frame, value: Any, place: Place) -> None:  # noqa: ANN401 - any YAML
        key, frame.key = frame.key, _ABSENT
        if key is _MERGE:
            merges = value if isinstance(value, list) else [value]
            if not all(isinstance(merged, dict) for merged in merges):
                raise _invalid("<< takes a mapping, or a list of mappings", place, "write <<: *name")
            frame.merges += tuple(merges)
            self._merged += merges
            return
        assert isinstance(frame.value, dict)
        frame.value[key] = value
        self._places[id(frame.value), key] = frame.key_place or place


_MERGE: Final = object()


def _place(mark: Any) -> Place:  # noqa: ANN401 - pure Python and libyaml have a class of their own each
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _refuse_tag(event: yaml.NodeEvent) -> None:
    tag = getattr(event, "tag", None)
    if tag not in {None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}:
        raise _invalid(
            f"the tag {shorten(tag)} is not supported", _place(event.start_mark), "write the value without a tag"
        )


def _scalar(event: yaml.ScalarEvent) -> str | int | float | bool | None:  # noqa: PLR0911 - one a type
    """The value of a scalar under YAML 1.2's core schema; not-a-number and infinities stay texts, as JSON has none."""
    _refuse_tag(event)
    text: str = event.value
    if not event.implicit[0]:  # quoted, a block, or tagged as a text
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return text

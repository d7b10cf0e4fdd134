"""Label and field selectors: text in, a predicate over objects out.

Grammar as in k8s.io/apimachinery/pkg/labels and /fields: equality (`a=b`, `a==b`, `a!=b`), sets (`a in (b,c)`,
`a notin (b)`), existence (`a`, `!a`), comparison (`a>1`, `a<9`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from devcluster.names import label_key_problem, label_value_problem
from devcluster.resources import FieldGetter, Object, Resource
from devcluster.status_error import bad_request

Predicate = Callable[[Object], bool]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Selector:
    """Both selectors of a request. `everything` lets callers skip matching, and decides on remainingItemCount."""

    predicates: tuple[Predicate, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether no object can be refused."""
        return not self.predicates

    def matches(self, obj: Object) -> bool:
        """Whether the object passes every requirement."""
        return all(predicate(obj) for predicate in self.predicates)


def parse(resource: Resource, label_selector: str, field_selector: str) -> Selector:
    """The predicate of a request.

    Raises:
        StatusError: 400 for a malformed selector or a field that the resource cannot be selected by.
    """
    return Selector((*_label_predicates(label_selector), *_field_predicates(resource, field_selector)))


_TOKEN = re.compile(r"\s*(?:(==|!=|=|>|<|!|,|\(|\))|([^\s=!<>,()]+))")


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    stripped = text.rstrip()
    while position < len(stripped):
        found = _TOKEN.match(stripped, position)
        if found is None:  # pragma: no cover - the two alternatives cover every character
            raise bad_request(f"unable to parse requirement: unexpected character in {text!r}")
        tokens.append(found.group(1) or found.group(2))
        position = found.end()
    return tokens


def _label_predicates(text: str) -> list[Predicate]:
    tokens = _tokens(text)
    predicates: list[Predicate] = []
    position = 0
    while position < len(tokens):
        predicate, position = _requirement(tokens, position)
        predicates.append(predicate)
        if position < len(tokens):
            if tokens[position] != ",":
                raise bad_request(f"found '{tokens[position]}', expected: ',' or 'end of string'")
            position += 1
            if position == len(tokens):
                raise bad_request("found '', expected: identifier after ','")
    return predicates


def _requirement(tokens: list[str], position: int) -> tuple[Predicate, int]:
    negated = tokens[position] == "!"
    position += negated
    key = _word(tokens, position, "identifier")
    if problem := label_key_problem(key):
        raise bad_request(f"unable to parse requirement: <nil>: Invalid value: {quote(key)}: {problem}")
    position += 1
    operator = tokens[position] if position < len(tokens) else ","
    if negated:
        return _absent(key), position
    if operator == ",":
        return _present(key), position
    if operator in ("in", "notin"):
        values, position = _values(tokens, position + 1)
        return _member(key, frozenset(values), wanted=operator == "in"), position
    if operator not in ("=", "==", "!=", ">", "<"):
        raise bad_request(f"unable to parse requirement: found '{operator}', expected: in, notin, =, ==, !=, gt, lt")
    value, position = _single_value(tokens, position + 1)
    if operator in "<>":
        return _compared(key, operator, value), position
    return _member(key, frozenset({value}), wanted=operator != "!="), position


def _word(tokens: list[str], position: int, expected: str) -> str:
    if position >= len(tokens) or tokens[position] in {"=", "==", "!=", "!", ",", "(", ")", ">", "<"}:
        found = tokens[position] if position < len(tokens) else ""
        raise bad_request(f"unable to parse requirement: found '{found}', expected: {expected}")
    return tokens[position]


def _single_value(tokens: list[str], position: int) -> tuple[str, int]:
    if position >= len(tokens) or tokens[position] == ",":
        return "", position  # `a=` selects the empty value
    return _checked(_word(tokens, position, "identifier")), position + 1


def _values(tokens: list[str], position: int) -> tuple[list[str], int]:
    if position >= len(tokens) or tokens[position] != "(":
        found = tokens[position] if position < len(tokens) else ""
        raise bad_request(f"unable to parse requirement: found '{found}' expected: '('")
    values, position, expect_value = [], position + 1, True
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == ")":  # noqa: S105 - a token of the grammar
            if expect_value:
                values.append("")  # `in ()` and a trailing comma mean the empty value
            return values, position
        if token == ",":  # noqa: S105
            if expect_value:
                values.append("")
            expect_value = True
        else:
            values.append(_checked(_word(tokens, position - 1, "identifier")))
            expect_value = False
    raise bad_request("unable to parse requirement: found '', expected: ',' or ')'")


def _checked(value: str) -> str:
    if problem := label_value_problem(value):
        raise bad_request(f"unable to parse requirement: values[0]: Invalid value: {quote(value)}: {problem}")
    return value


def quote(text: str) -> str:
    """A string in double quotes, for messages."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _labels(obj: Object) -> Labels:
    labels: Labels = obj["metadata"].get("labels") or {}
    return labels


def _present(key: str) -> Predicate:
    return lambda obj: key in _labels(obj)


def _absent(key: str) -> Predicate:
    return lambda obj: key not in _labels(obj)


def _member(key: str, values: frozenset[str], *, wanted: bool) -> Predicate:
    if wanted:
        return lambda obj: _labels(obj).get(key) in values
    return lambda obj: _labels(obj).get(key) not in values


def _compared(key: str, operator: str, value: str) -> Predicate:
    if not value.lstrip("-").isdigit():
        raise bad_request(
            f"unable to parse requirement: values[0]: Invalid value: {quote(value)}: "
            "for 'Gt', 'Lt' operators, the value must be an integer"
        )
    bound = int(value)

    def matches(obj: Object) -> bool:
        label = _labels(obj).get(key, "")
        if not label.lstrip("-").isdigit():
            return False
        return int(label) > bound if operator == ">" else int(label) < bound

    return matches


_FIELD_TERM = re.compile(r"(?P<field>[^=!]*?)(?P<operator>!=|==|=)(?P<value>(?:\\.|[^\\=])*)\Z", re.DOTALL)


def _field_predicates(resource: Resource, text: str) -> list[Predicate]:
    predicates: list[Predicate] = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        found = _FIELD_TERM.match(term)
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        getter = resource.fields.get(found["field"])
        if getter is None:
            message = f"field label not supported: {found['field']}"
            if resource.kind not in ("Pod", "Event"):
                message = (
                    f'"{found["field"]}" is not a known field selector: only "metadata.name", "metadata.namespace"'
                )
            raise bad_request(message)
        value = re.sub(r"\\(.)", r"\1", found["value"])
        predicates.append(_field(getter, value, equal=found["operator"] != "!="))
    return predicates


def _field(getter: FieldGetter, value: str, *, equal: bool) -> Predicate:
    return lambda obj: (getter(obj) == value) is equal

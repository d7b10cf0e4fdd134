"""From pydantic's errors to problems that name the field, the value and the remedy."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runner_spec.problem import Problem, join_path, shorten

# pydantic's error type → our words and the remedy; `{…}` are fields of the error's context.
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("a required key is missing", "add it"),
    "int_type": ("a whole number is expected", "write it in digits, without quotes and without a unit"),
    "bool_type": ("true or false is expected", "write true or false, without quotes"),
    "tuple_type": ("a list is expected", "put each item on its own line, after a dash"),
    "dict_type": ("a mapping is expected", "write key: value"),
    "model_type": ("a mapping is expected", "write key: value"),
    "model_attributes_type": ("a mapping is expected", "write key: value"),
    "invalid_key": ("a key must be a text", "put it in quotes"),
    "string_unicode": ("the text is not valid Unicode", "save the document as UTF-8"),
    "literal_error": ("the value is not one of {expected}", "choose one of them"),
    "too_short": ("at least {min_length} is needed", "add one"),
    "string_too_short": ("at least {min_length} character is needed", "write one, or remove the key"),
    "too_long": ("{actual_length} are too many", "keep at most {max_length}"),
    "string_too_long": ("the text is too long", "keep at most {max_length} characters"),
    "greater_than_equal": ("the number is too small", "write {ge} or more"),
    "greater_than": ("the number is too small", "write more than {gt}"),
    "less_than_equal": ("the number is too large", "write {le} or less"),
}
# Errors whose value is absent, or must not be repeated in a log.
_SILENT: Final = frozenset({"missing", "credentials_in_url"})
_UNION_TAGS: Final = frozenset({"git", "folder"})
_KEY: Final = "[key]"  # how pydantic marks an error in a mapping's key


def diagnose(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """One problem for each of pydantic's errors."""
    return [_problem(detail, model) for detail in error.errors(include_url=False) if not _is_echo(detail)]


def _is_echo(detail: ErrorDetails) -> bool:
    """Pydantic counts only the valid items: a list whose every item is wrong is then called too short as well."""
    found = detail["input"]
    return (
        detail["type"] == "too_short" and isinstance(found, list | tuple) and len(found) >= detail["ctx"]["min_length"]
    )


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    location = _location(detail["loc"])
    context = detail.get("ctx", {})
    value = "" if detail["type"] in _SILENT else shorten(detail["input"])
    path = join_path(location)
    if detail["type"] == "extra_forbidden":
        return Problem(path, "this key is unknown", "", _suggestion(location, model))
    if "remedy" in context:
        return Problem(path, str(context["reason"]), value, str(context["remedy"]))
    if detail["type"] == "string_type":
        return Problem(path, "a text is expected", value, _quoted(detail["input"]))
    message, remedy = _WORDS.get(detail["type"], (detail["msg"], ""))
    words = {name: str(content) for name, content in context.items()}
    return Problem(path, message.format_map(words), value, remedy.format_map(words))


def _location(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """The location without the marks that no author has written: union tags and `[key]`."""
    parts = [part for part in location if part != _KEY]
    if len(parts) > 1 and parts[0] == "source" and parts[1] in _UNION_TAGS:
        del parts[1]
    return tuple(parts)


def _quoted(value: object) -> str:
    if value is None or isinstance(value, bool | int | float):
        return f'write "{"" if value is None else shorten(value)}", with quotes'
    return "write a text"


def _suggestion(location: Sequence[str | int], model: type[BaseModel]) -> str:
    known = _known_keys(location[:-1], model)
    close = difflib.get_close_matches(str(location[-1])[:100], known, n=1)
    return f"did you mean {close[0]}?" if close else f"known keys here: {', '.join(known)}"


def _known_keys(location: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    """The keys that may stand at a location: walks the models' annotations."""
    models = [model]
    for part in location:
        if isinstance(part, str):
            models = [inner for outer in models for inner in _field_models(outer, part)]
    return sorted({field.alias or name for found in models for name, field in found.model_fields.items()})


def _field_models(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    for name, field in model.model_fields.items():
        if key == (field.alias or name):
            return _models_in(field.annotation)
    return [model]  # the key of a mapping such as env: the next part decides


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - annotations have no common type
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def in_document_order(problems: Iterable[Problem], data: Mapping[str, Any]) -> list[Problem]:
    """Problems in the order of the document's top-level keys; those about absent keys last. Stable otherwise."""
    places = {str(key): place for place, key in enumerate(data)}

    def place(problem: Problem) -> int:
        top = problem.path.partition(".")[0].partition("[")[0]
        return places.get(top, len(places))

    return sorted(problems, key=place)

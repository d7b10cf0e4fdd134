"""Durations in whole seconds: `30m`, `1h30m`, `90s`, or an integer number of seconds."""

import re
from typing import Annotated, Any, Final

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# 30 days. Far beyond any policy's cap; it keeps sums of durations within a Kubernetes int32 of seconds.
MAXIMUM_SECONDS: Final = 30 * 24 * 3600

# What is kept for less might be deleted while the job's end is being recorded; more than ten years is `never`.
MINIMUM_RETENTION: Final = 3600
MAXIMUM_RETENTION: Final = 3650 * 24 * 3600

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN: Final = r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?"
_DURATION: Final = re.compile(_PATTERN)
_REMEDY: Final = "write 90s, 30m, 1h30m or a whole number of seconds, from 1s to 30d"


def parse_duration(value: object) -> int:
    """Seconds of `1h30m`, `90s`, `"90"` or `90`; the units d, h, m, s in this order, each at most once.

    Raises:
        ValueError: when the value is not a duration, or not between 1 second and 30 days.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a duration is text like 30m or a whole number of seconds")  # noqa: TRY004 - one error for callers
    seconds = _seconds(value) if isinstance(value, str) else value
    if not 1 <= seconds <= MAXIMUM_SECONDS:
        raise ValueError("a duration lies between 1s and 30d")
    return seconds


def _seconds(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    found = _DURATION.fullmatch(text)
    if not found or not text:
        raise ValueError("this is not a duration")
    return sum(int(count) * unit for count, unit in zip(found.groups(), _UNITS.values(), strict=True) if count)


def parse_keep(value: object) -> int:
    """Seconds of `on-failure 1h`: for how long a failed job's container stays.

    Raises:
        ValueError: when the value is anything else.
    """
    word, separator, length = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if word != "on-failure" or not separator:
        raise ValueError("this does not say when and for how long the container is kept")
    return parse_duration(length)


def parse_retention(value: object) -> int:
    """Seconds of `90d`; 0 for `never` and 0, which keep what there is.

    Raises:
        ValueError: when the value is anything else, or not between 1 hour and 10 years.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("this is not how long something is kept")  # noqa: TRY004 - one error for callers
    if value in ("never", "0", 0):
        return 0
    seconds = _seconds(value) if isinstance(value, str) else value
    if not MINIMUM_RETENTION <= seconds <= MAXIMUM_RETENTION:
        raise ValueError("what ends is kept for 1h to 3650d")
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest text that `parse_duration` reads back: 5400 → `1h30m`.

    Raises:
        ValueError: when `seconds` is not positive.
    """
    if seconds < 1:
        raise ValueError(f"a duration is at least 1 second, not {seconds}")
    text = ""
    for name, unit in _UNITS.items():
        count, seconds = divmod(seconds, unit)
        text += f"{count}{name}" if count else ""
    return text


def _validate_keep(value: Any) -> int:  # noqa: ANN401 - a validator's input is anything
    try:
        return parse_keep(value)
    except ValueError as error:
        remedy = "write on-failure and a duration, such as on-failure 1h"
        raise PydanticCustomError("keep", "{reason}", {"reason": str(error), "remedy": remedy}) from error


def _validate_retention(value: Any) -> int:  # noqa: ANN401 - a validator's input is anything
    try:
        return parse_retention(value)
    except ValueError as error:
        remedy = "write a duration from 1h to 3650d, such as 90d, or never"
        raise PydanticCustomError("retention", "{reason}", {"reason": str(error), "remedy": remedy}) from error


def _validate_or_zero(value: Any) -> int:  # noqa: ANN401 - a validator's input is anything
    return 0 if value in (0, "0") and not isinstance(value, bool) else _validate(value)


def _validate(value: Any) -> int:  # noqa: ANN401 - a validator's input is anything
    try:
        return parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error), "remedy": _REMEDY}) from error


def _schema(minimum: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^(?=.)(?:[0-9]{{1,9}}|{_PATTERN})$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": minimum, "maximum": MAXIMUM_SECONDS}, text]})


# Fields of a model: whole seconds as int, read from any of the forms.
Seconds = Annotated[int, PlainValidator(_validate), _schema(1)]
KeepSeconds = Annotated[
    int,
    PlainValidator(_validate_keep),
    WithJsonSchema({"type": "string", "pattern": f"^on-failure (?=.)(?:[0-9]{{1,9}}|{_PATTERN})$"}),
]
SecondsOrZero = Annotated[int, PlainValidator(_validate_or_zero), _schema(0)]
RetentionSeconds = Annotated[
    int,
    PlainValidator(_validate_retention),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAXIMUM_RETENTION},
                {"type": "string", "pattern": f"^(?=.)(?:never|[0-9]{{1,9}}|{_PATTERN})$"},
            ]
        }
    ),
]

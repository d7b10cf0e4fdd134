"""Kubernetes quantities, exactly: `500m`, `1Gi`, `1.5`, `2e3`.

The grammar is that of apimachinery's resource.Quantity (pkg/api/resource/quantity.go): a decimal number with a
binary suffix (Ki … Ei), a decimal one (n, u, m, k, M, G, T, P, E) or an exponent. Signs are left out: a job asks
for a positive amount. Values are fractions, never floats, so no sum or comparison rounds.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Fraction(1024**power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
# Digits are bounded (Kubernetes keeps 18 significant ones) so that a hostile number costs nothing to compute.
_PATTERN: Final = r"([0-9]{1,19}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:([eE][+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE])?)"
_QUANTITY: Final = re.compile(_PATTERN)
# Kubernetes stores quantities in an int64 of the smallest unit in use.
_MAXIMUM: Final = Fraction(2**63 - 1)
_SMALLEST_CPU: Final = Fraction(1, 1000)  # Kubernetes refuses a CPU finer than 1m
_SMALLEST_MEMORY: Final = Fraction(1024**2)  # nothing starts in less; `512m` (half a byte) is a common slip
_ANY_REMEDY: Final = 'write a Kubernetes quantity such as "500m", "1.5" or 1Gi'


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount of a resource: exact `value` (cores or bytes) and the `text` it was written as.

    Ordered by value: `1000m <= 1` and `1 <= 1000m` although they are not equal as text.
    """

    text: str
    value: Fraction

    def __str__(self) -> str:
        return self.text

    def __lt__(self, other: "Quantity") -> bool:
        return self.value < other.value

    def __le__(self, other: "Quantity") -> bool:
        return self.value <= other.value

    def __gt__(self, other: "Quantity") -> bool:
        return self.value > other.value

    def __ge__(self, other: "Quantity") -> bool:
        return self.value >= other.value


def parse_quantity(value: object) -> Quantity:
    """Read `500m`, `1Gi`, `1.5`, 2 or 0.5 (a float's shortest decimal form is taken as its exact value).

    Raises:
        ValueError: when it is not a quantity, or not positive, or beyond 2^63-1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a quantity is a number or text")  # noqa: TRY004 - one error for callers
    if isinstance(value, int) and not 0 < value <= _MAXIMUM:
        raise ValueError("a quantity is positive and below 2^63")
    return _quantity(value if isinstance(value, str) else repr(value))


# The same few amounts stand in every pod, and each is read several times on a job's way.
@lru_cache(maxsize=1024)
def _quantity(text: str) -> Quantity:
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise ValueError("this is not a quantity")
    number, exponent, suffix = found.groups()
    scale = Fraction(10) ** int(exponent[1:]) if exponent else _SUFFIXES[suffix or ""]
    # Fraction refuses "1." although Kubernetes allows it.
    amount = Fraction(number.rstrip(".") if number.endswith(".") else number) * scale
    if not 0 < amount <= _MAXIMUM:
        raise ValueError("a quantity is positive and below 2^63")
    return Quantity(text, amount)


@contextmanager
def _complaints(remedy: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise PydanticCustomError("quantity", "{reason}", {"reason": str(error), "remedy": remedy}) from error


def _cpu(value: Any) -> Quantity:  # noqa: ANN401 - a validator's input is anything
    if isinstance(value, Quantity):
        return value
    with _complaints('write cores or thousandths of one: 2, "1.5" or 500m'):
        quantity = parse_quantity(value)
        if quantity.value < _SMALLEST_CPU or (quantity.value * 1000).denominator != 1:
            raise ValueError("CPU is counted in thousandths of a core, 1m at least")
        if quantity.value > 1024:  # noqa: PLR2004 - more cores than any node has: someone meant thousandths
            raise ValueError("that is more than 1024 cores")
        return quantity


def _bytes(value: Any) -> Quantity:  # noqa: ANN401 - a validator's input is anything
    if isinstance(value, Quantity):
        return value
    with _complaints("write bytes with a unit, such as 512Mi or 2Gi"):
        quantity = parse_quantity(value)
        if quantity.value < _SMALLEST_MEMORY:
            meant = f": m means thousandths, {quantity.text[:-1]}Mi are MiB" if quantity.text.endswith("m") else ""
            raise ValueError("that is less than 1Mi" + meant)
        return quantity


def _schema(example: str) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^(?:{_PATTERN})$", "examples": [example]}
    return WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text]})


_TO_TEXT: Final = PlainSerializer(str, return_type=str)
Cpu = Annotated[Quantity, PlainValidator(_cpu), _TO_TEXT, _schema("500m")]
Bytes = Annotated[Quantity, PlainValidator(_bytes), _TO_TEXT, _schema("1Gi")]

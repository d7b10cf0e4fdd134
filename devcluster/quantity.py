"""Resource quantities (`500m`, `1Gi`, `1e3`), as k8s.io/apimachinery/pkg/api/resource reads them."""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

_FORMAT: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
_SUFFIXES: Final = {
    **{f"{letter}i": Decimal(1024) ** (i + 1) for i, letter in enumerate("KMGTPE")},
    **{letter: Decimal(1000) ** (i + 1) for i, letter in enumerate("kMGTPE")},
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
}
PATTERN_MESSAGE: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def parse_quantity(text: str | float) -> Decimal:
    """The exact value.

    Raises:
        ValueError: when the text is not a quantity.
    """
    found = _FORMAT.fullmatch(str(text))
    if found is None:
        raise ValueError(PATTERN_MESSAGE)
    number, suffix = Decimal(found[1]), found[2]
    if not suffix:
        return number
    return number * (_SUFFIXES[suffix] if suffix in _SUFFIXES else Decimal(f"1{suffix}"))


def whole(value: Decimal) -> int:
    """Rounded up, as `Quantity.Value()` does."""
    return int(value.to_integral_value(rounding=ROUND_CEILING))

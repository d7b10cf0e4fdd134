"""Durations, sizes and digests as people read them. Pure."""

from typing import Final

_SIZES: Final = ("B", "kB", "MB", "GB", "TB")
_STEP: Final = 1000
_MINUTE: Final = 60
_HOUR: Final = 3600
# What is longer is no time that anything took: 31 years. A number beyond it would only break the lines of a table.
_LONGEST_S: Final = 1e9
_LARGEST_BYTES: Final = 10**18
SHORT_DIGEST: Final = 12  # hexadecimal digits, as git and docker shorten theirs


def duration(seconds: float) -> str:
    """`3.2 s`, `4 min 05 s`, `2 h 05 min`; negative durations (clocks differ) and NaN count as none."""
    seconds = min(max(0.0, seconds), _LONGEST_S)  # in this order, which makes 0 of NaN
    if seconds < _MINUTE - 0.05:  # 59.96 would be shown as 60.0 s
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


def roughly(seconds: float) -> str:
    """A stage's duration: a whole number comes of Kubernetes' times, which are whole seconds, and is no exact one."""
    if seconds % 1 or not 0 <= seconds < _MINUTE:
        return duration(seconds)
    return f"~{seconds:.0f} s" if seconds >= 1 else "< 1 s"


def size(octets: int) -> str:
    """`812 B`, `1.2 kB`, `34 MB`: two digits or more, decimal units; no less than none, no more than an exabyte."""
    value = float(min(max(0, octets), _LARGEST_BYTES))
    unit = 0
    while value >= _STEP - 0.5 and unit < len(_SIZES) - 1:
        value /= _STEP
        unit += 1
    digits = 1 if unit and value < 9.95 else 0  # noqa: PLR2004 - 9.95 rounds to 10, which needs no decimal
    return f"{value:.{digits}f} {_SIZES[unit]}"


def short_digest(sha256: str) -> str:
    """The first digits of a hexadecimal digest."""
    return sha256[:SHORT_DIGEST]


def counted(number: int, noun: str) -> str:
    """`1 file`, `3 files`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")

"""Colours by meaning, not by name. Pure; rich is not needed for six of them."""

from dataclasses import dataclass
from typing import Final

from worker.cli.log_text import RESET

_CODES: Final = {
    "heading": "\x1b[1;36m",
    "step": "\x1b[1m",
    "good": "\x1b[32m",
    "bad": "\x1b[1;31m",
    "warning": "\x1b[33m",
    "faint": "\x1b[2m",
}


@dataclass(frozen=True, slots=True)
class Paint:
    """Wraps text in the colour of a meaning, or leaves it alone."""

    colours: bool

    def __call__(self, meaning: str, text: str) -> str:
        """Colour `text`; `meaning` is a key of the table above.

        Raises:
            KeyError: for an unknown meaning, with and without colours.
        """
        code = _CODES[meaning]
        return f"{code}{text}{RESET}" if self.colours and text else text


PLAIN: Final = Paint(colours=False)

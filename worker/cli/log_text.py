"""What a job prints, made safe for a terminal. Pure.

A log is written by strangers: an escape sequence in it could retitle the window, move the cursor over earlier lines,
or hide text. Colours pass (where colours are wanted), everything else that is not text is shown by its code.
"""

import re
import unicodedata
from typing import Final

RESET: Final = "\x1b[0m"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# Other escape sequences (ECMA-48): CSI …, OSC … (ended by BEL or ST), and the short ones. They carry no text.
_ESCAPE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]",
)
# Marks that reorder the text around them (Trojan Source, CVE-2021-42574).
_REORDERING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def display_lines(data: bytes, *, colours: bool) -> list[str]:
    """The lines to print for one line of a log (at least one).

    Bytes that are not UTF-8 become U+FFFD. A carriage return inside the line (a progress bar) starts a new line:
    nothing of the log is overwritten. With `colours`, colour sequences stay and are ended with the line.
    """
    text = data.decode("utf-8", "replace").rstrip("\r\n")
    return [_neutralise(part, colours=colours) for part in re.split(r"[\r\n]", text)]


def display_text(text: str) -> str:
    """One line of text from outside (a message, a name) without any control character."""
    return " ".join(_neutralise(part, colours=False) for part in re.split(r"[\r\n]+", text.strip()))


def _neutralise(text: str, *, colours: bool) -> str:
    if text.isascii() and text.isprintable():
        return text
    pieces, position, coloured = [], 0, False
    for found in _ESCAPE.finditer(text):
        pieces.append(_visible(text[position : found.start()]))
        if colours and _COLOUR.fullmatch(found[0]):
            pieces.append(found[0])
            coloured = True
        position = found.end()
    pieces.append(_visible(text[position:]))
    return "".join(pieces) + (RESET if coloured else "")


def _visible(text: str) -> str:
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character == "\t" or not (unicodedata.category(character) in {"Cc", "Cs"} or character in _REORDERING):
        return character
    code = ord(character)
    if code < 0x20:  # noqa: PLR2004 - C0 control characters have a customary notation: ^[ for escape
        return f"^{chr(code + 0x40)}"
    return f"<{code:02X}>" if code <= 0xFF else f"<U+{code:04X}>"  # noqa: PLR2004 - one byte, in two digits

"""What is wrong with an input: where, what, the value seen and the remedy; and the errors that carry such lists."""

import json
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

VALUE_CHARACTERS: Final = 80  # of a bad value are shown: enough to recognise it, too few to flood a log

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = VALUE_CHARACTERS
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 4
_SHORT.maxlevel = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `path` is like `steps[0].run` (empty: the whole document); `value` is shortened.

    `line` and `column` count from 1 and are known only when the input was text.
    """

    path: str
    message: str
    value: str = ""
    remedy: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """`line 3: steps[0].run: it is empty (got ""); write a command`, the whole problem on one line."""
        where = f"line {self.line}: " if self.line is not None else ""
        path = f"{self.path}: " if self.path else ""
        got = f" (got {self.value})" if self.value else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{where}{path}{self.message}{got}{remedy}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-pure form, without what is unknown."""
        return {name: value for name, value in asdict(self).items() if value or name in {"path", "message"}}


class ProblemsError(ValueError):
    """Base of the errors that carry everything that is wrong with an input at once, in `problems`."""

    subject = "input"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{self.subject}: {count} problem{'s' if count != 1 else ''}\n{lines}")


class InvalidDescription(ProblemsError):  # noqa: N818 - the name says what is invalid; `Error` would add nothing
    """The job description is refused: the job's author has to change it. Trying again is useless."""

    subject = "invalid job description"


class InvalidPolicy(ProblemsError):  # noqa: N818 - as above
    """The operator's policy is refused, or its pod patch made a pod that the policy itself forbids."""

    subject = "invalid policy"


def shorten(value: object) -> str:
    """A bad value for people: JSON-like, one line, at most 80 characters or so, safe to encode in UTF-8."""
    if isinstance(value, str):
        text = value if len(value) <= VALUE_CHARACTERS else value[: VALUE_CHARACTERS - 1] + "…"
        text = json.dumps(text, ensure_ascii=False)
    elif value is None or isinstance(value, bool):
        text = json.dumps(value)
    elif isinstance(value, int) and value.bit_length() > 256:  # noqa: PLR2004 - str() of huge integers is refused
        text = "a huge number"
    else:
        text = _SHORT.repr(value)
    text = text if len(text) <= 2 * VALUE_CHARACTERS else text[: 2 * VALUE_CHARACTERS - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def join_path(parts: Iterable[str | int]) -> str:
    """`("steps", 0, "run")` → `steps[0].run`. Keys that would be ambiguous are quoted: `env["a.b"]`."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.replace("-", "_").isidentifier():
            path += f".{part}" if path else part
        else:
            path += f"[{shorten(part)}]"
    return path

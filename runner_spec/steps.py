"""The steps of a job as a shell fragment, which the shim in the `run` container sources.

Standard library only. The shim (runner/shim.sh) defines the functions that the fragment calls, and is the authority on
what they do. Texts that the shim would have to escape or shorten with shell builtins are prepared here: the heading
(control characters shown as `?`) and the name as a JSON string for the termination message. Variables that every step
is to see are set in the fragment as well, not in the pod: `anatomy` says why.
"""

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runner_spec import anatomy

FRAGMENT_VERSION: Final = 1
# What a description (or the operator's patch of the pod) may change: variable → value, as a word of the shell. The
# workspace's root folder belongs to root where `run` is uid 1000 (an emptyDir with fsGroup does): git would refuse the
# checked out repository as of "dubious ownership".
DEFAULTS: Final[Mapping[str, str]] = {
    "CI": "true",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": f'"${anatomy.ENV_WORKSPACE}"',
}
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_STEPS_PATH: Final = f"{anatomy.PLAN_PATH}/{anatomy.STEPS_FILE}"
_RUN_PATHS: Final = (
    anatomy.ENV_BIN,
    anatomy.ENV_PLAN,
    anatomy.ENV_STATE,
    anatomy.ENV_TERMINATION_LOG,
    anatomy.ENV_WORKSPACE,
)
_ENTER: Final = "\n".join(
    [
        f"export {' '.join(f'{name}={anatomy.PATHS[name]}' for name in _RUN_PATHS)}",
        *(f"dynapod_{name}() {{ :; }}" for name in ("limits", "keep", "step", "after")),
        f"[ ! -r {_STEPS_PATH} ] || . {_STEPS_PATH}",
        'exec "$@"',
    ]
)
# A name's share of the 4 KiB termination message, in bytes of escaped JSON: thirty such steps still fit.
NAME_LIMIT_BYTES: Final = 64
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Keep:
    """For how long `run` stays after a failure, and the line for people that says how to get in and how to end it."""

    seconds: int
    hint: str


def steps_fragment(
    steps: Sequence[tuple[str, str]],
    after: Sequence[tuple[str, str]],
    *,
    timeout: float,
    grace: float,
    after_budget: float,
    keep: Keep | None = None,
    variables: Mapping[str, str] = _NONE,
    defaults: Collection[str] = (),
) -> str:
    """The fragment for these (name, script) pairs; equal inputs give equal text.

    Args:
        steps: run in order, until one fails.
        after: run in order, whatever happened before.
        timeout: seconds that all `steps` together may take.
        grace: seconds between TERM and KILL.
        after_budget: seconds that all `after` steps together may take.
        keep: when given, the shim stays after a failure.
        variables: name → value, for every step.
        defaults: those of `DEFAULTS` that the pod's own variables leave to it.

    Raises:
        ValueError: when a text holds NUL or a lone surrogate, which no file or annotation can carry, or when a time
            is not positive and finite (`grace` may be 0).
    """
    limits = (
        _centiseconds("timeout", timeout, least=1),
        _centiseconds("grace", grace, least=0),
        _centiseconds("after_budget", after_budget, least=1),
    )
    lines = [f"dynapod_limits {FRAGMENT_VERSION} {' '.join(map(str, limits))}"]
    lines += _exports(variables, defaults)
    if keep is not None:
        # A call of its own: a shim of an older runner image does not know it, says so and runs the steps all the same.
        hint = shlex.quote(_CONTROL.sub("?", keep.hint))
        lines.append(f"dynapod_keep {_centiseconds('keep', keep.seconds, least=100)} {hint}")
    lines += [_call("dynapod_step", f"steps[{i}]", name, script) for i, (name, script) in enumerate(steps)]
    lines += [_call("dynapod_after", f"after[{i}]", name, script) for i, (name, script) in enumerate(after)]
    return "\n".join(lines) + "\n"


def json_name(name: str) -> str:
    """The name as an ASCII JSON string of at most `NAME_LIMIT_BYTES`, cut between characters.

    `}` is escaped as well: the shim drops the oldest entries of a long report by looking for the next `},`.
    """
    whole = _escaped(name)
    if len(whole) <= NAME_LIMIT_BYTES:
        return whole
    cut = name
    while len(_escaped(cut + "…")) > NAME_LIMIT_BYTES:
        cut = cut[: min(len(cut) - 1, NAME_LIMIT_BYTES)]
    return _escaped(cut + "…")


def _escaped(text: str) -> str:
    return json.dumps(text).replace("}", "\\u007d")


def entered(command: Sequence[str]) -> list[str]:
    """A command line for `kubectl exec` in `run` that gives the command what the steps' variables are.

    A process that is started there inherits the container's own variables, not those that the shim has set. The
    fragment is read once more, with functions that do nothing; one of an older worker sets no variable, and needs to
    set none. The command's place is taken: its exit status, signals and terminal are its own.
    """
    return [f"{anatomy.BIN_PATH}/sh", "-c", _ENTER, "enter", *command]


def _exports(variables: Mapping[str, str], defaults: Collection[str]) -> list[str]:
    """At most one command, its words in the order of the names: equal variables give equal text."""
    for name, value in variables.items():
        _refuse_unprintable(f"variables.{name}", value)
    words = {name: word for name, word in DEFAULTS.items() if name in defaults}
    words |= {name: shlex.quote(value) for name, value in variables.items()}
    return [f"export {' '.join(f'{name}={word}' for name, word in sorted(words.items()))}"] if words else []


def _call(function: str, path: str, name: str, script: str) -> str:
    for field, text in (("name", name), ("run", script)):
        _refuse_unprintable(f"{path}.{field}", text)
    return " ".join((function, shlex.quote(_CONTROL.sub("?", name)), shlex.quote(json_name(name)), shlex.quote(script)))


def _refuse_unprintable(path: str, text: str) -> None:
    if "\0" in text:
        raise ValueError(f"{path}: holds a NUL character at offset {text.index(chr(0))}; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: holds a lone surrogate at offset {error.start}; use valid Unicode") from error


def _centiseconds(field: str, seconds: float, *, least: int) -> int:
    """Whole centiseconds: the unit of /proc/uptime, and shell arithmetic knows integers only."""
    try:
        value = round(seconds * 100)
    except (OverflowError, ValueError) as error:  # infinite, not a number
        raise ValueError(f"{field}: {seconds!r} is not a finite number of seconds") from error
    if value < least:
        raise ValueError(f"{field}: {seconds!r} seconds is too short; give at least {least / 100} s")
    return value

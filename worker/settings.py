"""The worker's settings: one documented field each.

Precedence: a command line flag, then the environment variable `DYNAPOD_<NAME>` (upper case), then the default.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final

from runner_spec import wire

ENV_PREFIX: Final = "DYNAPOD_"


class SettingsError(ValueError):
    """A setting cannot be used; the message names it, its value and the remedy."""


def _text(value: str) -> str:
    return value


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise ValueError("give at least one name, several separated by commas")
    return names


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError as error:
            raise ValueError(f"write a number from {low:g} to {high:g}") from error
        if not low <= number <= high:
            raise ValueError(f"it must lie between {low:g} and {high:g}")
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError as error:
            raise ValueError(f"write a whole number from {low} to {high}") from error
        if not low <= number <= high:
            raise ValueError(f"it must lie between {low} and {high}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"choose one of {', '.join(choices)}")
        return value

    return parse


def _setting(default: object, parse: Callable[[str], object], text: str) -> Any:  # noqa: ANN401 - as `field` itself
    return field(default=default, metadata={"parse": parse, "help": text})


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything an operator can set on a worker."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        _text,
        "Redis that holds the queues: redis://, rediss://, unix://, redis+sentinel://",
    )
    queues: tuple[str, ...] = _setting(("jobs",), _names, "Queues to serve, the most urgent first")
    kubeconfig: str = _setting("", _text, "Kubeconfig file; empty: $KUBECONFIG, else the pod's own service account")
    namespace: str = _setting("", _text, "Namespace of the jobs' pods, as the policy has it; empty: the policy's")
    policy: str = _setting("", _text, "Operator's policy file (YAML); empty: the defaults")
    store: str = _setting("", _text, "Object store for logs: a folder, s3://, gs:// or az://")
    capacity: int = _setting(1000, _whole(1, 100_000), "Jobs in flight at most")
    lease_seconds: float = _setting(
        15.0, _number(1, wire.LONGEST_LEASE_S), "Seconds without a sign of life after which others take over"
    )
    health_host: str = _setting("127.0.0.1", _text, "Address of /healthz, /readyz and /metrics")
    health_port: int = _setting(9090, _whole(0, 65535), "Port of /healthz, /readyz and /metrics; 0: any free one")
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"), "Least severe messages to log")
    log_format: str = _setting("text", _one_of("text", "json"), "How to log: text for people, json for machines")

    @classmethod
    def load(
        cls, environ: Mapping[str, str] = os.environ, flags: Mapping[str, str | None] | None = None
    ) -> "WorkerSettings":
        """Flags (None: not given) before environment before defaults.

        Raises:
            SettingsError: listing every setting that cannot be used.
        """
        values: dict[str, object] = {}
        problems: list[str] = []
        for setting in fields(cls):
            flag = (flags or {}).get(setting.name)
            given = flag if flag is not None else environ.get(env_name(setting))
            if given is None:
                continue
            try:
                values[setting.name] = setting.metadata["parse"](given)
            except ValueError as error:
                source = flag_name(setting) if flag is not None else env_name(setting)
                problems.append(f"{source}: {given!r} cannot be used: {error}")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values)  # type: ignore[arg-type]


def env_name(setting: "Field[Any]") -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + setting.name.upper()


def flag_name(setting: "Field[Any]") -> str:
    """The command line flag of a setting."""
    return "--" + setting.name.replace("_", "-")

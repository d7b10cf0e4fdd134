"""The gateway's settings: one frozen dataclass. Precedence: flags > environment `DYNAPOD_GATEWAY_*` > defaults.

Sizes are bytes, written as a number or with Ki, Mi, Gi (`512Mi`); times are seconds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final

from adapters.object_store import MAX_OBJECT_BYTES
from runner_spec.transfer import SEAL_BYTES

ENV_PREFIX: Final = "DYNAPOD_GATEWAY_"

_UNITS: Final = {"": 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
_SIZE: Final = re.compile(r"([0-9]+)(|Ki|Mi|Gi)")
_MAX_PORT: Final = 65535
# A Service named dynapod-gateway makes the kubelet set these in every pod of its namespace (Docker link variables).
_SERVICE_LINK: Final = re.compile(ENV_PREFIX + r"(SERVICE_(HOST|PORT)|PORT_[0-9]+_).*")
_SERVICE_LINK_PORT: Final = "tcp://"


class SettingsError(ValueError):
    """A setting is wrong; the message names it, its value and what is expected."""


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError("a size such as 1048576, 512Mi or 5Gi")
    return int(found[1]) * _UNITS[found[2]]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("a whole number")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ValueError("a number of seconds")
    return float(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return read


def _setting(default: Any, read: Callable[[str], Any], meaning: str) -> Any:  # noqa: ANN401 - as dataclasses.field
    return field(default=default, metadata={"read": read, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Quotas per object, and how much may happen at once."""

    max_artifact_bytes: int = _setting(5 * 1024**3, _size, "largest file of an artifact, in bytes")
    max_cache_bytes: int = _setting(10 * 1024**3, _size, "largest cache entry, in bytes, its seal included")
    max_manifest_bytes: int = _setting(16 * 1024**2, _size, "largest upload report, in bytes")
    max_masks_bytes: int = _setting(256 * 1024, _size, "largest list of values to mask, in bytes of JSON")
    max_masks: int = _setting(1000, _number, "most values to mask of one attempt")
    transfers: int = _setting(32, _number, "transfers at once (16 MiB of memory each); more have to wait")
    stall_seconds: float = _setting(60.0, _seconds, "a transfer, or the wait for one, that stands still is ended")

    def __post_init__(self) -> None:
        for name in ("max_artifact_bytes", "max_cache_bytes"):
            if getattr(self, name) > MAX_OBJECT_BYTES - SEAL_BYTES:
                raise SettingsError(f"{name} is {getattr(self, name)}: at most {MAX_OBJECT_BYTES - SEAL_BYTES} bytes")
        for name in ("transfers", "stall_seconds"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be greater than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """All of the gateway's settings. `DYNAPOD_GATEWAY_<FIELD>`, in capitals; those of `limits` likewise."""

    host: str = _setting("127.0.0.1", str, "address to listen on; 0.0.0.0 in a cluster")
    port: int = _setting(8080, _number, "port to listen on; 0 takes a free one")
    store: str = _setting(".dynapod/store", str, "object store: a folder, file:///…, s3://…, gs://…, az://…, memory://")
    redis_url: str = _setting("redis://127.0.0.1:6379/0", str, "Redis of the workers: the values to mask go there")
    namespaces: tuple[str, ...] = _setting(
        ("default",), _names, "where jobs run, comma-separated: tokens of pods elsewhere are refused"
    )
    drain_seconds: float = _setting(30.0, _seconds, "how long running transfers may finish when the gateway stops")
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"), "least severe messages to log")
    log_format: str = _setting("text", _one_of("text", "json"), "how to log: text for people, json for machines")
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= _MAX_PORT:
            raise SettingsError(f"port is {self.port}: expected 0 to {_MAX_PORT}")
        if not self.namespaces:
            raise SettingsError("namespaces is empty: name the namespace where jobs run")

    @classmethod
    def load(cls, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> "GatewaySettings":
        """Settings from the environment, overridden by `flags` (field name → value; None means not given).

        Raises:
            SettingsError: a value cannot be read, or a `DYNAPOD_GATEWAY_*` variable or a flag is not known.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        known = [item for kind in (cls, Limits) for item in fields(kind) if item.metadata]
        environ = {name: value for name, value in environ.items() if not _is_service_link(name, value)}
        _refuse_unknown(environ, given, {item.name for item in known})
        values = _values(known, environ, given)
        own = {item.name for item in fields(cls)}
        limits = Limits(**{name: value for name, value in values.items() if name not in own})
        return cls(**{name: value for name, value in values.items() if name in own}, limits=limits)


def _is_service_link(name: str, value: str) -> bool:
    linked_port = name == ENV_PREFIX + "PORT" and value.startswith(_SERVICE_LINK_PORT)
    return linked_port or _SERVICE_LINK.fullmatch(name) is not None


def _refuse_unknown(environ: Mapping[str, str], given: Mapping[str, Any], known: set[str]) -> None:
    variables = {ENV_PREFIX + name.upper() for name in known}
    for name in environ:
        if name.startswith(ENV_PREFIX) and name not in variables:
            # A misspelt quota would otherwise silently be the default.
            raise SettingsError(f"{name} is not a setting; known are {', '.join(sorted(variables))}")
    for name in given:
        if name not in known:
            raise SettingsError(f"{name} is not a setting; known are {', '.join(sorted(known))}")


def _values(known: list[Field[Any]], environ: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for item in known:
        variable = ENV_PREFIX + item.name.upper()
        if item.name in given:
            values[item.name] = given[item.name]
        elif variable in environ:
            try:
                values[item.name] = item.metadata["read"](environ[variable])
            except ValueError as error:
                raise SettingsError(f"{variable} is {environ[variable]!r}: expected {error}") from error
    return values

"""Where things are in this container: the variables of `runner_spec.anatomy`, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from runner.errors import TemporaryError
from runner_spec import anatomy
from runner_spec.plan import Plan

# Of the runner image and of tests, not of the pod: hence not in anatomy.
ENV_BUSYBOX: Final = "DYNAPOD_BUSYBOX"  # a static busybox to install in place of /bin/busybox
ENV_RETRY_BASE: Final = "DYNAPOD_RETRY_BASE"  # seconds before the first retry; doubles each time

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Environment:
    """Paths and addresses; None where this container has no such thing.

    `retry_base` is in seconds, `report_limit` in bytes.
    """

    workspace: Path
    home: Path
    state: Path
    plan: Path
    busybox: Path
    retry_base: float = 1.0
    bin: Path | None = None
    termination_log: Path | None = None
    report_limit: int = anatomy.TERMINATION_MESSAGE_LIMIT_BYTES
    gateway: str | None = None
    gateway_name: str = ""
    token: Path | None = None
    credentials: Path | None = None
    secrets: Path | None = None
    source: Path | None = None

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Environment":
        """The environment as these variables describe it.

        Raises:
            TemporaryError: when one that every container has is missing, or a number is none: worker and runner image
                do not match.
        """

        def required(name: str) -> Path:
            if not (value := variables.get(name)):
                raise TemporaryError("environment", f"{name} is not set: run this in a pod that dynapod rendered")
            return Path(value)

        def optional(name: str) -> Path | None:
            return Path(value) if (value := variables.get(name)) else None

        def number(name: str, kind: type[Number], default: Number) -> Number:
            try:
                return kind(variables.get(name, default))
            except ValueError as error:
                raise TemporaryError("environment", f"{name}: {variables[name]!r} is no number") from error

        return cls(
            workspace=required(anatomy.ENV_WORKSPACE),
            home=required("HOME"),
            state=required(anatomy.ENV_STATE),
            plan=required(anatomy.ENV_PLAN),
            busybox=Path(variables.get(ENV_BUSYBOX) or "/bin/busybox"),
            retry_base=number(ENV_RETRY_BASE, float, 1.0),
            bin=optional(anatomy.ENV_BIN),
            report_limit=number(anatomy.ENV_REPORT_LIMIT, int, anatomy.TERMINATION_MESSAGE_LIMIT_BYTES),
            termination_log=optional(anatomy.ENV_TERMINATION_LOG),
            gateway=variables.get(anatomy.ENV_GATEWAY) or None,
            gateway_name=variables.get(anatomy.ENV_GATEWAY_NAME, ""),
            token=optional(anatomy.ENV_TOKEN),
            credentials=optional(anatomy.ENV_CREDENTIALS),
            secrets=optional(anatomy.ENV_SECRETS),
            source=optional(anatomy.ENV_SOURCE),
        )

    def read_plan(self) -> Plan:
        """The plan of this attempt.

        Raises:
            TemporaryError: when it is absent, damaged or of another version: none of that is the job's fault.
        """
        path = self.plan / anatomy.PLAN_FILE
        try:
            return Plan.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise TemporaryError("plan", f"cannot use the plan at {path}: {error}") from error

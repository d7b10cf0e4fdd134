"""Where things are in this container: the variables of `runner_spec.anatomy`, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runner.errors import TemporaryError
from runner_spec import anatomy
from runner_spec.plan import Plan

# Of the runner image and of tests, not of the pod: hence not in anatomy.
ENV_BUSYBOX: Final = "DYNAPOD_BUSYBOX"  # a static busybox to install in place of /bin/busybox
ENV_RETRY_BASE: Final = "DYNAPOD_RETRY_BASE"  # seconds before the first retry; doubles each time


@dataclass(frozen=True, slots=True)
class Environment:
    """Paths and addresses; None where this container has no such thing. `retry_base` is in seconds."""

    workspace: Path
    home: Path
    bin: Path
    state: Path
    plan: Path
    busybox: Path
    retry_base: float = 1.0
    termination_log: Path | None = None
    gateway: str | None = None
    token: Path | None = None
    credentials: Path | None = None
    secrets: Path | None = None
    source: Path | None = None

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Environment":
        """The environment as these variables describe it.

        Raises:
            TemporaryError: when one that every container has is missing: worker and runner image do not match.
        """

        def required(name: str) -> Path:
            if not (value := variables.get(name)):
                raise TemporaryError("environment", f"{name} is not set: run this in a pod that dynapod rendered")
            return Path(value)

        def optional(name: str) -> Path | None:
            return Path(value) if (value := variables.get(name)) else None

        try:
            retry_base = float(variables.get(ENV_RETRY_BASE, "1"))
        except ValueError as error:
            value = variables[ENV_RETRY_BASE]
            raise TemporaryError("environment", f"{ENV_RETRY_BASE}: {value!r} is no number of seconds") from error
        return cls(
            workspace=required(anatomy.ENV_WORKSPACE),
            home=required("HOME"),
            bin=required(anatomy.ENV_BIN),
            state=required(anatomy.ENV_STATE),
            plan=required(anatomy.ENV_PLAN),
            busybox=Path(variables.get(ENV_BUSYBOX) or "/bin/busybox"),
            retry_base=retry_base,
            termination_log=optional(anatomy.ENV_TERMINATION_LOG),
            gateway=variables.get(anatomy.ENV_GATEWAY) or None,
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

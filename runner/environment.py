"""Where things are in this container, as `runner_spec.anatomy` has it; a variable that is set says otherwise.

The embedded cluster sets those of paths, and a pod that a worker of an older version has rendered has all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from runner.errors import TemporaryError
from runner_spec import anatomy
from runner_spec.plan import Plan

# Of the runner image and of tests, not of the pod: hence not in anatomy.
ENV_BUSYBOX: Final = "DYNAPOD_BUSYBOX"  # a static busybox to install in place of /bin/busybox
ENV_RETRY_BASE: Final = "DYNAPOD_RETRY_BASE"  # seconds before the first retry; doubles each time

_RETRY_BASE: Final = 1.0
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Environment:
    """Paths and addresses. A path says where something is when it is mounted; whether it is, the plan knows.

    `bin` is None where nothing but the plan can say that checkout is to fill it. `gateway` is None where none is named.
    `retry_base` is in seconds, `report_limit` in bytes (None: as the plan says).
    """

    workspace: Path
    home: Path
    state: Path
    plan: Path
    busybox: Path
    termination_log: Path = Path(anatomy.TERMINATION_LOG_PATH)
    token: Path = Path(anatomy.PATHS[anatomy.ENV_TOKEN])
    credentials: Path = Path(anatomy.CREDENTIALS_PATH)
    secrets: Path = Path(anatomy.SECRETS_PATH)
    source: Path = Path(anatomy.SOURCE_PATH)
    bin: Path | None = None
    retry_base: float = _RETRY_BASE
    report_limit: int | None = None
    gateway: str | None = None
    gateway_name: str = ""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Environment":
        """The environment as these variables describe it.

        Raises:
            TemporaryError: when HOME is missing, which every pod sets, or a number is none: worker and runner image do
                not match.
        """

        def path(name: str) -> Path:
            return Path(variables.get(name) or anatomy.PATHS[name])

        def number(name: str, kind: type[Number]) -> Number | None:
            if (value := variables.get(name)) is None:
                return None
            try:
                return kind(value)
            except ValueError as error:
                raise TemporaryError("environment", f"{name}: {value!r} is no number") from error

        if not (home := variables.get("HOME")):
            raise TemporaryError("environment", "HOME is not set: run this in a pod that dynapod rendered")
        return cls(
            workspace=path(anatomy.ENV_WORKSPACE),
            home=Path(home),
            state=path(anatomy.ENV_STATE),
            plan=path(anatomy.ENV_PLAN),
            busybox=Path(variables.get(ENV_BUSYBOX) or "/bin/busybox"),
            termination_log=path(anatomy.ENV_TERMINATION_LOG),
            token=path(anatomy.ENV_TOKEN),
            credentials=path(anatomy.ENV_CREDENTIALS),
            secrets=path(anatomy.ENV_SECRETS),
            source=path(anatomy.ENV_SOURCE),
            bin=path(anatomy.ENV_BIN) if variables.get(anatomy.ENV_BIN) else None,
            retry_base=_RETRY_BASE if (base := number(ENV_RETRY_BASE, float)) is None else base,
            report_limit=number(anatomy.ENV_REPORT_LIMIT, int),
            gateway=variables.get(anatomy.ENV_GATEWAY) or None,
            gateway_name=variables.get(anatomy.ENV_GATEWAY_NAME, ""),
        )

    def planned(self, plan: Plan) -> "Environment":
        """This environment, and what nothing but the plan says: whether to fill `bin`, and the report's limit.

        With the shim in a volume of the runner's image, `checkout` has that folder too, as a part of its image: that it
        exists means nothing.
        """
        folder = self.bin or (Path(anatomy.BIN_PATH) if plan.shim else None)
        limit = plan.report_limit if self.report_limit is None else self.report_limit
        return replace(self, bin=folder, report_limit=limit)

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

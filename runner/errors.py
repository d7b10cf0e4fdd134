"""How the runner fails: the job's own fault or a temporary trouble of the platform, told apart by the exit code."""

from typing import ClassVar

from runner_spec.anatomy import Exit


class RunnerError(Exception):
    """Ends checkout or upload. `reason` is a stable word for programs, the message one for people."""

    exit: ClassVar[Exit]

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class JobFaultError(RunnerError):
    """The job's author has to act: a wrong ref, refused credentials, a missing artifact."""

    exit = Exit.JOB_FAULT


class CanceledError(BaseException):
    """SIGTERM: nobody wants the result any more. Not an Exception: no handler on the way may take it for a failure."""


class TemporaryError(RunnerError):
    """Another attempt may succeed: a server is away, a volume could not be read."""

    exit = Exit.TEMPFAIL

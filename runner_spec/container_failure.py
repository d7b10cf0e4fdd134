"""How a container of ours failed, from its exit code and status: whose fault it was, and the words for it."""

import re
from typing import Final

from runner_spec.anatomy import Exit
from runner_spec.evidence import failed
from runner_spec.outcome import Fault, Outcome
from runner_spec.pod_status import LOST, NEVER_STARTED, OOM_KILLED, Container, End, Pod, one_line
from runner_spec.report import CheckoutReport, RunReport, UploadReport, parse_report
from runner_spec.runtime_words import told_by_runtime
from runner_spec.service_crash import crashes_told

_WORD: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_SIGNAL_BASE: Final = 128  # a shell reports death by signal N as 128+N
_SIGKILL_CODE: Final = _SIGNAL_BASE + 9
# Linux numbers (signal(7), x86 and arm); pods run on Linux, whatever this runs on.
_SIGNALS: Final = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM"),
    *("TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF"),
    *("WINCH", "IO", "PWR", "SYS"),
)
# runc's words where a memory limit leaves no room for its own first steps (libcontainer, 1.1 to 1.4).
_TOO_LITTLE_MEMORY: Final = re.compile(r"unable to set memory limit|memory limit too low|init was OOM-killed")


def run_failed(seen: Pod, run: Container, end: End) -> Outcome:
    """`run` ended otherwise than with 0."""
    return _not_by_itself(seen, run, end) or _shim_failed(seen, end) or _steps_failed(seen, run, end)


def runner_failed(seen: Pod, container: Container, end: End) -> Outcome:
    """`checkout` or `upload` ended otherwise than with 0: the exit code says whose fault, the report only why."""
    name, code = container.name, end.exit_code
    report: CheckoutReport | UploadReport | None
    if name == seen.checkout.name:
        report = parse_report(CheckoutReport, end.message)
    else:
        report = parse_report(UploadReport, end.message)
    if end.reason in LOST or code is None:
        return failed(seen, Fault.PLATFORM, "container-lost", f"the node lost {name} and cannot say how it ended")
    if end.reason == OOM_KILLED:
        message = f"{name} used more than its memory limit of {container.memory_limit or 'unknown size'}"
        return failed(seen, Fault.PLATFORM, "oom", f"{message}; the operator's policy.runner_resources sets it", code)
    if end.reason in NEVER_STARTED:
        message = f"{name} could not be started: {told_by_runtime(end.message) or end.reason}"
        return failed(seen, Fault.PLATFORM, "start-error", message, code)
    reason = report.reason if report and report.reason != "ok" and _WORD.fullmatch(report.reason) else name
    said = one_line(report.message) if report else _last_line(end.message)
    if code == Exit.TEMPFAIL or (code == Exit.JOB_FAULT and report is not None):
        # A service's own name says more than that it was checkout which waited for it.
        what = (
            said
            if said and reason == "service"
            else f"{name}: {said}"
            if said
            else f"{name} ended with exit code {code}"
        )
        crashes = crashes_told(seen) if name == seen.checkout.name else ""
        fault = Fault.JOB if code == Exit.JOB_FAULT else Fault.PLATFORM
        return failed(seen, fault, reason, f"{what}{crashes}", code)
    if code > _SIGNAL_BASE:
        return failed(seen, Fault.PLATFORM, f"{name}-killed", f"{name} was killed (exit code {code})", code)
    # Also 1 without a report: Python's own exit code, when the image holds no runner or one that cannot be imported.
    message = f"{name} crashed with exit code {code}{f': {said}' if said else ''}"
    return failed(seen, Fault.PLATFORM, f"{name}-crashed", message, code)


def upload_failed(seen: Pod, upload: Container) -> Outcome:
    """`upload` did not end with 0, or not at all, after a `run` that succeeded."""
    if upload.end is not None:
        return runner_failed(seen, upload, upload.end)
    message = "run succeeded, but the pod ended without a word from upload"
    return failed(seen, Fault.PLATFORM, "upload-unconfirmed", message)


def ran_out(seen: Pod, end: End) -> bool:
    """Whether the container ran as long as the timeout. Both times are cut to whole seconds, so it never seems less."""
    return seen.timeout is not None and end.seconds is not None and end.seconds >= seen.timeout


def _not_by_itself(seen: Pod, run: Container, end: End) -> Outcome | None:  # noqa: PLR0911 - one question a line
    """What the job has no part in, or only by asking for too little memory to begin with."""
    code = end.exit_code
    if end.reason in LOST or code is None:
        message = "the node lost the run container and cannot say how it ended"
        return failed(seen, Fault.PLATFORM, "container-lost", message)
    if end.reason in NEVER_STARTED:
        said = told_by_runtime(end.message) or end.reason
        if _TOO_LITTLE_MEMORY.search(end.message):
            message = f"the memory limit of {run.memory_limit or 'run'} is too small even to start run: {said}"
            return failed(seen, Fault.JOB, "oom", message, code)
        return failed(seen, Fault.PLATFORM, "start-error", f"the run container could not be started: {said}", code)
    if end.reason == OOM_KILLED:
        return None
    report = parse_report(RunReport, end.message)
    if code == _SIGKILL_CODE and report is None:
        # The shim was killed, and is the first process of its container: the kernel lets nobody inside do that.
        message = f"run was killed from outside the job (exit code {code}); its node may have been restarted"
        return failed(seen, Fault.PLATFORM, "run-killed", message, code)
    if code == Exit.CANCELED and report is not None and report.reason == "canceled":
        message = f"run was told to stop from outside the job (exit code {code}); its node may be shutting down"
        return failed(seen, Fault.PLATFORM, "run-killed", message, code)
    return None


def _shim_failed(seen: Pod, end: End) -> Outcome | None:
    """By the shim's own word. A job may forge it, and gains nothing but a retry of what fails."""
    report = parse_report(RunReport, end.message)
    if end.exit_code != Exit.SHIM or report is None or report.reason != "shim":
        return None
    message = f"the steps could not be run: {one_line(report.message) or 'the shim failed'}"
    return failed(seen, Fault.PLATFORM, "shim", message, Exit.SHIM)


def _steps_failed(seen: Pod, run: Container, end: End) -> Outcome:
    code = end.exit_code
    assert code is not None
    crashes = crashes_told(seen)
    if end.reason == OOM_KILLED:
        limit = f" of {run.memory_limit}" if run.memory_limit else ""
        message = f"run used more than its memory limit{limit} and was killed (exit code {code}){crashes}"
        return failed(seen, Fault.JOB, "oom", message, code)
    if code == Exit.TIMEOUT and ran_out(seen, end):
        message = f"the steps took longer than the timeout of {seen.timeout} s{crashes}"
        return failed(seen, Fault.JOB, "timeout", message, code)
    what = _failing_step(end)
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + len(_SIGNALS):
        name = f"SIG{_SIGNALS[code - _SIGNAL_BASE - 1]}"
        return failed(seen, Fault.JOB, "signal", f"{what} was killed by {name} (exit code {code}){crashes}", code)
    return failed(seen, Fault.JOB, "exit", f"{what} ended with exit code {code}{crashes}", code)


def _failing_step(end: End) -> str:
    """For the message only: a job can forge its own report."""
    report = parse_report(RunReport, end.message)
    for step in report.steps if report else ():
        if not step.after and step.exit not in {0, None} and step.name:
            return f"step {one_line(step.name, 80)}"
    return "run"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return one_line(lines[-1]) if lines else ""

"""`upload`: sleeps beside `run`, and when that has ended stores what is to last.

    wait for SIGTERM ─▶ artifacts ─▶ caches ─▶ manifest ─▶ termination message

Artifacts come before caches: they decide about success, and a large cache must not eat their time.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from runner import console, termination, tree
from runner.artifact import ArtifactResult, ArtifactUpload, applies
from runner.cache import Caches
from runner.environment import Environment
from runner.errors import JobFaultError, RunnerError, TemporaryError
from runner.gateway import Gateway
from runner.retry import RetryPolicy
from runner_spec.anatomy import EXIT_FILE, Exit
from runner_spec.plan import ArtifactPlan, Plan
from runner_spec.report import ArtifactReport, CacheReport, JUnitReport, UploadReport, to_json

_ATTEMPTS: Final = 1_000  # the upload budget is what ends retrying
_MANIFEST_SHARE: Final = 0.1  # of the budget, kept for the manifest: without it nothing counts
_EXIT_LIMIT_BYTES: Final = 16
_SHOWN_FAILURES: Final = 10
_TOOK_FOR_FAILED: Final = (
    "run ended well, but a process of the job wrote or removed its exit code in DYNAPOD_STATE: "
    "what is stored after success only was not stored"
)


def main() -> int:
    """The command; its exit code."""
    environment: Environment | None = None
    try:
        environment = Environment.read(os.environ)
        plan = environment.read_plan()
        environment = environment.planned(plan)
        caches = Caches(plan.caches, environment)
        keys = caches.kept_keys()  # now: the job is about to change the files that they are made of
        console.say("waiting for run to end")
        _await_end_of_run(environment)
        began = time.monotonic()
        report, code = Upload(environment, plan, caches, keys, began).run()
        report = replace(report, seconds=round(time.monotonic() - began, 2))
    except RunnerError as error:
        console.say(f"upload failed: {error}")
        report, code = UploadReport(error.reason, console.redact(str(error))), error.exit
    if environment:
        termination.write(environment, report)
    return code


def _await_end_of_run(environment: Environment) -> None:
    """Sleep until SIGTERM, which `__main__` has blocked; it and SIGINT are harmless from then on.

    A very short `run` can end before this process has blocked the signal, which the kernel then has dropped (for the
    first process of a container); but the shim has left its exit code.
    """
    if exit_code(environment) is None:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for number in (signal.SIGTERM, signal.SIGINT):
        # A handler, not SIG_IGN: programs started from here would inherit that.
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


def exit_code(environment: Environment) -> int | None:
    """How `run` ended; None while it has not, and when it was killed.

    Without its newline the file is still being written: to take it for a failure would skip the artifacts of a run
    that succeeds.
    """
    try:
        text = tree.read_file(environment.state, EXIT_FILE, _EXIT_LIMIT_BYTES).decode("ascii")
        return int(text) if text.endswith("\n") else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Upload:
    """The work after `run`; `began` is when it ended, in monotonic seconds."""

    environment: Environment
    plan: Plan
    caches: Caches
    keys: Sequence[str | None]
    began: float

    def run(self) -> tuple[UploadReport, Exit]:
        """Everything, as far as it goes: one failure does not keep the rest from being stored."""
        well = exit_code(self.environment) == 0
        console.say(f"run {'succeeded' if well else 'failed'}; storing what is to last")
        gateway = self._gateway()
        try:
            return self._store(gateway, well=well)
        finally:
            gateway.close()

    def _store(self, gateway: Gateway, *, well: bool) -> tuple[UploadReport, Exit]:
        end = self.began + self.plan.upload_budget
        deadline = end - self.plan.upload_budget * _MANIFEST_SHARE
        uploads = [self._artifact(plan, gateway, deadline, well=well) for plan in self.plan.artifacts]
        artifacts = tuple(upload.report for upload in uploads)
        caches: tuple[CacheReport, ...] = ()
        if well:
            caches = self.caches.save(self.keys, gateway, deadline)
        elif self.plan.caches:
            console.say("caches are saved after success only")
            caches = tuple(
                CacheReport(key or plan.key, "skipped", message="the run failed")
                for plan, key in zip(self.plan.caches, self.keys, strict=True)
            )
        error = _weightiest([upload.error for upload in uploads if upload.error])
        report = UploadReport(error.reason if error else "ok", str(error or ""), 0.0, artifacts, caches)
        report = replace(report, seconds=round(time.monotonic() - self.began, 2))
        problem = self._put_manifest(gateway, report, end)
        if problem and error is None and self.plan.artifacts:
            error = problem
            report = replace(report, reason=problem.reason, message=str(problem))
        _summarise(report)
        if error is None and not well and any(artifact.when == "success" for artifact in self.plan.artifacts):
            # Whether `run` succeeded is read from a file that any process of the job can write. If its container says
            # otherwise, the job's artifacts are missing, and this exit code keeps it from being green; where `run` has
            # failed indeed, that decides and this says nothing.
            return replace(report, reason="run-failed", message=_TOOK_FOR_FAILED), Exit.JOB_FAULT
        return report, error.exit if error else Exit.OK

    def _gateway(self) -> Gateway:
        environment = self.environment
        if not environment.gateway:
            raise TemporaryError("gateway", "no gateway is configured")
        policy = RetryPolicy(environment.retry_base, _ATTEMPTS)
        return Gateway(environment.gateway, environment.token, policy, name=environment.gateway_name)

    def _artifact(self, plan: ArtifactPlan, gateway: Gateway, deadline: float, *, well: bool) -> ArtifactResult:
        if not applies(plan, succeeded=well):
            console.say(f"artifact {plan.name}: skipped, it is uploaded on {plan.when} only")
            return ArtifactResult(ArtifactReport(plan.name, "skipped"))
        upload = ArtifactUpload(plan, self.environment.workspace, gateway, deadline).run()
        report = upload.report
        size = f", {report.count} files, {console.megabytes(report.size)}" if report.count else ""
        console.say(f"artifact {plan.name}: {report.result}{size}{' - ' + report.message if report.message else ''}")
        return upload

    def _put_manifest(self, gateway: Gateway, report: UploadReport, end: float) -> RunnerError | None:
        try:
            gateway.put_manifest(to_json(report), end)
        except (JobFaultError, TemporaryError) as error:
            console.warn(f"the manifest could not be stored: {error}")
            return error
        return None


def _weightiest(errors: Sequence[RunnerError]) -> RunnerError | None:
    """The error that decides. The platform's comes first: what it kept from us may be the rest."""
    return next((error for error in errors if error.exit is Exit.TEMPFAIL), errors[0] if errors else None)


def _summarise(report: UploadReport) -> None:
    for item in report.artifacts:
        if item.junit:
            _say_junit(item.name, item.junit)
    if report.reason != "ok":
        console.say(f"upload failed: {report.message}")
    else:
        count, size = sum(a.count for a in report.artifacts), sum(a.size for a in report.artifacts)
        console.say(f"uploaded {count} files, {console.megabytes(size)}, in {report.seconds:.1f} s")


def _say_junit(name: str, junit: JUnitReport) -> None:
    console.say(
        f"tests in {name}: {junit.tests} run, {junit.failures} failed, {junit.errors} errors, "
        f"{junit.skipped} skipped, {junit.seconds:.1f} s"
    )
    for case in junit.failed[:_SHOWN_FAILURES]:
        console.say(f"  failed: {case}")
    hidden = junit.failures + junit.errors - min(len(junit.failed), _SHOWN_FAILURES)
    if hidden > 0:
        console.say(f"  and {hidden} more")

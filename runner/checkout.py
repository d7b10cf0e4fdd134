"""`checkout`: prepares everything that `run` needs, in this order.

    announce secrets ─▶ install shell ─▶ source ─▶ restore caches ─▶ wait for services ─▶ report

Secrets come first: nothing is printed before the worker knows what to mask.
"""

import os
import signal
import time
from dataclasses import replace

from runner import console, folder, git, masks, services, shell, termination
from runner.cache import Caches
from runner.credentials import Credentials, extract
from runner.environment import Environment
from runner.errors import CanceledError, RunnerError, TemporaryError
from runner.gateway import Gateway
from runner.retry import RetryPolicy
from runner_spec.anatomy import ENV_NEEDS, Exit
from runner_spec.plan import Plan
from runner_spec.report import CacheReport, CheckoutReport

_GIT_ATTEMPTS = 4
_GATEWAY_ATTEMPTS = 5


def main() -> int:
    """The command; its exit code."""
    began = time.monotonic()
    environment: Environment | None = None
    # The first process of a container ignores signals that it does not handle: a deleted pod would linger.
    signal.signal(signal.SIGTERM, _cancel)
    for name in [name for name in os.environ if name.startswith(ENV_NEEDS)]:
        del os.environ[name]  # they have served their purpose: git and its helpers need not inherit them
    try:
        environment = Environment.read(os.environ)
        plan = environment.read_plan()
        environment = environment.planned(plan)
        report, code = Checkout(environment, plan).run(), Exit.OK
    except RunnerError as error:
        console.say(f"checkout failed: {error}")
        report, code = CheckoutReport(error.reason, console.redact(str(error))), error.exit
    except CanceledError:
        console.say("checkout canceled by SIGTERM")
        report, code = CheckoutReport("canceled", "canceled by SIGTERM"), Exit.CANCELED
    if environment:
        termination.write(environment, replace(report, seconds=round(time.monotonic() - began, 2)))
    return code


def _cancel(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: the way out must not be interrupted
    raise CanceledError


class Checkout:
    """One attempt's checkout."""

    def __init__(self, environment: Environment, plan: Plan) -> None:
        self._environment = environment
        self._plan = plan
        self._gateway: Gateway | None = None

    def run(self) -> CheckoutReport:
        """Do all of it.

        Raises:
            RunnerError: with the reason and exit code of the first thing that failed.
        """
        plan, environment = self._plan, self._environment
        credentials, source = Credentials(), plan.git
        if source and source.credentials:
            if not environment.credentials.is_dir():
                raise TemporaryError("credentials", "the source has credentials, but none are mounted here")
            credentials = Credentials.load(environment.credentials)
        if source:
            url, credentials = extract(source.url, credentials)
            source = replace(source, url=url)
        masks.send_masks(plan, environment, credentials, self._gateway_or_none())

        if environment.bin is not None:  # otherwise `run` has them from a volume of this very image
            shell.install(environment.bin, environment.busybox)
        commit = ""
        if source:
            policy = RetryPolicy(environment.retry_base, _GIT_ATTEMPTS)
            commit = git.check_out(environment.workspace, source, credentials, policy)
        elif plan.folder:
            folder.copy(plan.folder, environment.source, environment.workspace)
        caches = self._restore_caches()
        services.wait_for(plan.ready)
        return CheckoutReport("ok", commit=commit, caches=caches)

    def _restore_caches(self) -> tuple[CacheReport, ...]:
        return Caches(self._plan.caches, self._environment).restore(self._require_gateway)

    def _gateway_or_none(self) -> Gateway | None:
        environment = self._environment
        if self._gateway is None and environment.gateway:
            policy = RetryPolicy(environment.retry_base, _GATEWAY_ATTEMPTS)
            self._gateway = Gateway(environment.gateway, environment.token, policy, name=environment.gateway_name)
        return self._gateway

    def _require_gateway(self) -> Gateway:
        gateway = self._gateway_or_none()
        if gateway is None:
            raise TemporaryError("gateway", "no gateway is configured")
        return gateway

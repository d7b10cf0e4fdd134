"""What must never appear in a log: sent to the gateway before this container prints anything."""

import base64
from collections.abc import Iterable
from pathlib import Path

from runner.credentials import Credentials
from runner.environment import Environment
from runner.errors import TemporaryError
from runner.gateway import Gateway
from runner_spec.plan import Plan


def send_masks(plan: Plan, environment: Environment, credentials: Credentials, gateway: Gateway | None) -> None:
    """Send every value that this job could leak.

    Raises:
        TemporaryError: when one cannot be read, or the gateway does not take them: then nothing may run or print.
    """
    values = [*_secret_values(plan.masks, environment.secrets), *credentials.secrets()]
    values = sorted({value for value in values if value.strip()})
    if not values:
        return
    if gateway is None:
        raise TemporaryError("masks", "the job has secrets and there is no gateway to announce them to")
    # Whole, as they are: cutting them into lines, as logs are, is the worker's business (runner_spec.masking).
    gateway.put_masks(base64.b64encode(value).decode() for value in values)


def _secret_values(names: Iterable[str], folder: Path) -> Iterable[bytes]:
    for name in names:
        try:
            yield (folder / name).read_bytes()
        except OSError as error:
            raise TemporaryError("masks", f"secret {name!r} cannot be read for masking: {error.strerror}") from error

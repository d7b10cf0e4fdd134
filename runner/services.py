"""Waiting for the services that started before checkout."""

import http.client
import socket
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from runner import console
from runner.errors import JobFaultError
from runner_spec.plan import ReadyPlan

_CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_REDIRECTION_END: Final = 400


def wait_for(services: Sequence[ReadyPlan]) -> None:
    """Return when every service answers; all timeouts count from now.

    Raises:
        JobFaultError: (`service`) naming the first that does not answer in time, and how it last failed.
    """
    began = time.monotonic()
    for service in services:
        _wait(service, began)


def _wait(service: ReadyPlan, began: float) -> None:
    pause = _FIRST_PAUSE
    while True:
        problem = _probe(service)
        spent = time.monotonic() - began
        if not problem:
            console.say(f"service {service.service} is ready after {spent:.1f} s")
            return
        if spent + pause > service.timeout:
            target = f"port {service.tcp}" if service.tcp is not None else f"{service.http}"
            raise JobFaultError(
                "service",
                f"service {service.service!r} is not ready on {target} within {service.timeout:g} s: {problem}. "
                "See its log, or give ready.timeout more time",
            )
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)


def _probe(service: ReadyPlan) -> str:
    """What is wrong; empty when the service answers."""
    try:
        if service.tcp is not None:
            socket.create_connection(("localhost", service.tcp), timeout=_CONNECT_SECONDS).close()
            return ""
        return _get(service.http or "")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__


def _get(target: str) -> str:
    host, port, path = address(target)
    # All containers of a pod share one network: every service is on localhost, whatever name the URL has for it.
    connection = http.client.HTTPConnection("localhost", port, timeout=_CONNECT_SECONDS)
    try:
        connection.request("GET", path, headers={"Host": f"{host}:{port}"})
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if http.client.OK <= status < _REDIRECTION_END else f"HTTP status {status}"


def address(target: str) -> tuple[str, int, str]:
    """Host, port and path of `http://localhost:8080/ready`, `:8080/ready`, `8080/ready` or `/ready` (port 80).

    Raises:
        ValueError: when it is none of these.
    """
    if "://" not in target:
        separator = "" if target.startswith((":", "/")) else ":"
        target = f"http://localhost{separator}{target}"
    parts = urlsplit(target)
    if parts.scheme != "http":
        raise ValueError(f"{target!r}: only http:// can be asked")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.hostname or "localhost", parts.port or http.client.HTTP_PORT, path

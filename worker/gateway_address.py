"""The gateway by its number: what a job can change inside its pod must not decide whom the runner talks to.

All containers of a pod share `/etc/hosts` and `/etc/resolv.conf`. Root inside a user namespace can write them, and a
service's name is a line of the first. With a name in the pod, a job could so lead `checkout` and `upload`, their token
and the credentials of its source, to a server of its own, which says yes to everything. So the worker looks the name
up, in its own namespace, once. An address of https keeps its name: there the certificate proves who answers.

The name goes with the address into the pod's variables, for the Host header: a gateway behind routing by name (an
Ingress) is found by nothing else, and whoever answers at the address is who the worker has found there.
"""

import asyncio
import ipaddress
import logging
import socket
from typing import Final
from urllib.parse import urlsplit

from runner_spec.policy import Policy

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 30.0


async def pinned(policy: Policy) -> Policy:
    """The policy with the gateway's address beside its URL. Waits until the name is known."""
    return policy.with_gateway_at(await pin(policy.gateway_url))


async def pin(url: str) -> str:
    """The URL with its host as an address; unchanged for https, or when it is one. Waits until the name is known."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or _is_address(host):
        return url
    delay = RETRY_FIRST_S
    while True:
        try:
            address = await _look_up(host)
        except OSError as error:
            log.warning("gateway %s has no address yet: %s", host, error, extra={"action": "gateway_unknown"})
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_S)
            continue
        port = "" if parts.port is None else f":{parts.port}"
        pinned = parts._replace(netloc=f"[{address}]{port}" if ":" in address else f"{address}{port}").geturl()
        log.info("jobs reach the gateway %s at %s", url, pinned, extra={"action": "gateway_pinned"})
        return pinned


async def _look_up(host: str) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    # IPv4 first: every cluster's pods have it, but those of clusters that answer with nothing else.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

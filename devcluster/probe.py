"""Startup probes of sidecars: tcpSocket, httpGet and exec, as the kubelet's prober runs them."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from devcluster.pod_fields import NODE_IP

# Runs a command in the container; its exit code, or None when the timeout (seconds) was over.
Execute = Callable[[list[str], float], Awaitable[int | None]]
_LINE_LIMIT: Final = 1000


async def wait_started(container: Mapping[str, Any], execute: Execute) -> bool:
    """Probe until it succeeds; False once it has failed `failureThreshold` times in a row."""
    probe = container["startupProbe"]
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    for attempt in range(probe["failureThreshold"]):
        if attempt:
            await asyncio.sleep(probe["periodSeconds"])
        if await probe_once(container, probe, execute):
            return True
    return False


async def probe_once(container: Mapping[str, Any], probe: Mapping[str, Any], execute: Execute) -> bool:
    """Whether the probe succeeds now."""
    timeout: float = probe["timeoutSeconds"]
    if command := probe.get("exec", {}).get("command"):
        return await execute(command, timeout) == 0
    with suppress(OSError, TimeoutError, ssl.SSLError, ValueError):
        if tcp := probe.get("tcpSocket"):
            await asyncio.wait_for(_connect(tcp.get("host"), _port(container, tcp["port"]), None), timeout)
            return True
        if get := probe.get("httpGet"):
            return await asyncio.wait_for(_get(get, _port(container, get["port"])), timeout)
    return False


def _port(container: Mapping[str, Any], port: int | str) -> int:
    for known in container.get("ports", ()):
        if known.get("name") == port:
            return int(known["containerPort"])
    return int(port)


async def _connect(host: str | None, port: int, context: ssl.SSLContext | None) -> None:
    _, writer = await asyncio.open_connection(host or NODE_IP, port, ssl=context)
    writer.close()


async def _get(get: Mapping[str, Any], port: int) -> bool:
    context = None
    if get.get("scheme") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the kubelet does not verify either
    host = get.get("host") or NODE_IP
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        headers = "".join(f"{h['name']}: {h['value']}\r\n" for h in get.get("httpHeaders", ()))
        request = f"GET {get['path']} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.34\r\n{headers}"
        writer.write(request.encode() + b"Connection: close\r\n\r\n")
        line = (await reader.readline())[:_LINE_LIMIT].split()
        return len(line) > 1 and HTTPStatus.OK <= int(line[1]) < HTTPStatus.BAD_REQUEST
    finally:
        writer.close()

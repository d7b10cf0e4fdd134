"""Where jobs are told that the gateway is: by a number, unless a certificate proves the name."""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import pytest

from worker import gateway_address
from worker.gateway_address import pin


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8080", "http://[fd00::1]:8080/base", "https://gateway.example", "https://gateway:8443"]
)
def test_an_address_and_a_proven_name_stay_as_they_are(url: str) -> None:
    assert asyncio.run(pin(url)) == url


def test_a_name_becomes_its_address_and_all_else_stays() -> None:
    parts = urlsplit(asyncio.run(pin("http://localhost:8080/base")))
    assert ipaddress.ip_address(parts.hostname or "").is_loopback
    assert (parts.scheme, parts.port, parts.path) == ("http", 8080, "/base")


def test_an_unknown_name_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def look_up(host: str) -> str:
        asked.append(host)
        if len(asked) == 1:
            raise socket.gaierror("unknown")
        return "10.0.0.7"

    monkeypatch.setattr(gateway_address, "_look_up", look_up)
    monkeypatch.setattr(gateway_address, "RETRY_FIRST_S", 0.0)
    assert asyncio.run(pin("http://gateway:8080")) == "http://10.0.0.7:8080"

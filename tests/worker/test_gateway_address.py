"""Where jobs are told that the gateway is: by a number, unless a certificate proves the name."""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import pytest

from runner_spec.policy import parse_policy
from worker import gateway_address
from worker.gateway_address import pin, pinned


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


def test_jobs_are_given_the_address_and_the_name_stays_known() -> None:
    policy = asyncio.run(pinned(parse_policy({"gateway_url": "http://localhost:8080/base"})))
    assert ipaddress.ip_address(urlsplit(policy.gateway_address).hostname or "").is_loopback
    assert (policy.gateway_name, policy.gateway_url) == ("localhost:8080", "http://localhost:8080/base")


def test_a_proven_name_is_all_that_jobs_are_given() -> None:
    policy = asyncio.run(pinned(parse_policy({"gateway_url": "https://gateway.example"})))
    assert (policy.gateway_address, policy.gateway_name) == ("https://gateway.example", "")

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from adapters.redis_fitness import UnfitRedis, until_fit
from adapters.redis_server import BadRedisURL, RedisRefused, RedisUnavailable, connect, find_server, translated
from tests.redis_production.servers import RedisProcess, TlsFront, free_port, within

pytestmark = pytest.mark.redis


class Certificates:
    """An authority, a server's certificate for `localhost`, a client's, and the PEM files that a URL names."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "client.pem", folder / "client.key"
        self.strangers = folder / "strangers.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        trustme.CA().cert_pem.write_to_path(str(self.strangers))
        own = self.authority.issue_cert("worker.example")
        own.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        own.private_key_pem.write_to_path(str(self.key))

    def server(self, *, demanding: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost").configure_cert(context)
        if demanding:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def use(url: str) -> None:
    """All three pools, from the check at the start on."""
    async with within(10, "an answer, or an error"), connect(url) as connections:
        await until_fit(connections)
        await connections.control.set("key", "1")
        assert await connections.blocking.get("key") == b"1"
        assert await asyncio.to_thread(connections.sync.get, "key") == b"1"


def test_all_pools_speak_tls_with_an_authority_from_a_file(redis_url: str, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with TlsFront(redis_url, certificates.server()) as front:
            await use(f"rediss://localhost:{front.port}/0?ssl_ca_certs={certificates.ca}")

    asyncio.run(scenario())


def test_a_certificate_of_our_own_is_shown_where_the_server_demands_one(
    redis_url: str, certificates: Certificates
) -> None:
    async def scenario() -> None:
        async with TlsFront(redis_url, certificates.server(demanding=True)) as front:
            url = f"rediss://localhost:{front.port}/0?ssl_ca_certs={certificates.ca}"
            await use(f"{url}&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}")
            async with connect(url) as without:
                with pytest.raises((RedisUnavailable, RedisRefused)), translated():
                    await without.control.ping()

    asyncio.run(scenario())


def test_an_unknown_authority_ends_the_start_with_a_remedy(redis_url: str, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with TlsFront(redis_url, certificates.server()) as front:
            with pytest.raises(UnfitRedis, match=r"CERTIFICATE_VERIFY_FAILED(.|\n)*ssl_ca_certs"):
                await use(f"rediss://localhost:{front.port}/0?ssl_ca_certs={certificates.strangers}")

    asyncio.run(scenario())


def test_a_certificate_for_another_host_is_refused(redis_url: str, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with TlsFront(redis_url, certificates.server()) as front:
            with pytest.raises(UnfitRedis, match=r"127\.0\.0\.1"):
                await use(f"rediss://127.0.0.1:{front.port}/0?ssl_ca_certs={certificates.ca}")
            await use(f"rediss://127.0.0.1:{front.port}/0?ssl_ca_certs={certificates.ca}&ssl_check_hostname=false")

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel"])
def test_a_file_that_is_not_there_is_named(scheme: str) -> None:
    with pytest.raises(BadRedisURL, match=r"ssl_ca_certs is '/nowhere/ca\.pem'"):
        connect(f"{scheme}://localhost/queue?ssl_ca_certs=/nowhere/ca.pem")


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_sentinels_and_their_primary_are_asked_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    issued = certificates.authority.issue_cert("localhost", "127.0.0.1")
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    words: tuple[str, ...] = (
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {certificates.ca}",
    )
    words += ("tls-auth-clients no", "tls-replication yes")
    look = {"ssl": True, "ssl_ca_certs": str(certificates.ca)}
    if not tls_is_built_in(tmp_path):
        pytest.skip("this Redis was built without TLS, and a sentinel names a primary only as it knows it")
    with RedisProcess(tmp_path / "primary", *words, tls=look) as primary:
        monitor = f"sentinel monitor queue 127.0.0.1 {primary.port} 1"
        with RedisProcess(tmp_path / "sentinel", *words, monitor, sentinel=True, tls=look) as sentinel:
            hosts = f"localhost:{free_port()},localhost:{sentinel.port}"  # the first of them is away
            asyncio.run(use(f"rediss+sentinel://{hosts}/queue/0?ssl_ca_certs={certificates.ca}"))


def tls_is_built_in(folder: Path) -> bool:
    program = find_server()
    assert program is not None
    words = [str(program), "--port", "0", "--tls-port", "-1", "--dir", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    return "Bad directive" not in done.stdout + done.stderr

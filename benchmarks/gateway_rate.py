"""(m) How much a gateway serves: small artifacts taken in, a cache entry sent; for one pod, and for 16 at once.

A real gateway process, a folder as store. The clients write and read bare HTTP: they must not be what is measured.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from benchmarks.figure import Figure, percentile
from benchmarks.gateway_process import GatewayProcess, gateway
from benchmarks.suite import BenchmarkError, Options
from benchmarks.usage import Usage
from runner_spec import transfer

MB: Final = 1_000_000
CLIENTS: Final = (1, 16)
FULL_ARTIFACTS: Final = 2000
ARTIFACT_BYTES: Final = 1024
FULL_ENTRY_BYTES: Final = 64 * 1024 * 1024
READ_BYTES: Final = 1024 * 1024
TOKENS: Final = tuple(f"token-{number}" for number in range(max(CLIENTS)))


@dataclass(frozen=True, slots=True)
class Served:
    """The seconds of each request, of all of them together, and of the gateway's CPU."""

    latencies: tuple[float, ...]
    seconds: float
    cpu: float


def measure(options: Options) -> Iterator[Figure]:
    """Every combination in turn, and again."""
    count = options.sized(FULL_ARTIFACTS, at_least=max(CLIENTS))
    size, downloads = options.sized(FULL_ENTRY_BYTES, at_least=READ_BYTES), max(CLIENTS)
    taken: dict[tuple[str, int], list[Served]] = {}
    with gateway(options.folder, TOKENS) as it:
        asyncio.run(store_entry(it, size))
        for number in range(options.rounds):
            for clients in CLIENTS:
                put = asyncio.run(serve(it, clients, count, artifact_of(number, clients)))
                get = asyncio.run(serve(it, clients, downloads, entry_of(size)))
                taken.setdefault(("artifact", clients), []).append(put)
                taken.setdefault(("entry", clients), []).append(get)
    for clients in CLIENTS:
        yield from _of_artifacts(clients, taken["artifact", clients])
        yield from _of_entries(clients, size, taken["entry", clients])


def _of_artifacts(clients: int, runs: list[Served]) -> Iterator[Figure]:
    name = f"artifact of {ARTIFACT_BYTES} bytes, {_pods(clients)}"
    note = f"{len(runs[0].latencies)} requests"
    yield Figure("m", name, "req/s", tuple(len(run.latencies) / run.seconds for run in runs), note=note)
    for share in (0.5, 0.99):
        values = tuple(1000 * percentile(run.latencies, share) for run in runs)
        yield Figure("m", f"{name}: p{share * 100:.0f}", "ms", values)
    yield Figure("m", f"{name}: CPU", "ms/req", tuple(1000 * run.cpu / len(run.latencies) for run in runs))


def _of_entries(clients: int, size: int, runs: list[Served]) -> Iterator[Figure]:
    name = f"cache entry sent, {_pods(clients)}"
    megabytes = len(runs[0].latencies) * size / MB
    note = f"{len(runs[0].latencies)} times {size / MB:.0f} MB"
    yield Figure("m", name, "MB/s", tuple(megabytes / run.seconds for run in runs), note=note)
    yield Figure("m", f"{name}: CPU", "ms/MB", tuple(1000 * run.cpu / megabytes for run in runs))


def _pods(clients: int) -> str:
    return f"{clients} pod{'s' if clients > 1 else ''}"


class Connection:
    """A pod's connection, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self._token = reader, writer, token

    @classmethod
    async def open(cls, it: GatewayProcess, token: str) -> "Connection":
        """To the gateway, as the pod of this token."""
        reader, writer = await asyncio.open_connection(it.host, it.port, limit=2 * READ_BYTES)
        return cls(reader, writer, token)

    async def close(self) -> None:
        """End it."""
        self._writer.close()
        await self._writer.wait_closed()

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> int:
        """Send a request, read the answer to its end: the bytes of its body.

        Raises:
            BenchmarkError: it is none of success.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: it\r\nAuthorization: Bearer {self._token}\r\n{headers}"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        if status.split()[1] not in {"200", "201"}:
            raise BenchmarkError(f"{method} {path}: the gateway answers {status}")
        length = left = int(dict(line.lower().split(": ", 1) for line in lines if line)["content-length"])
        while left:
            data = await self._reader.read(min(left, READ_BYTES))
            if not data:
                raise BenchmarkError(f"{method} {path}: the answer ended {left} bytes early")
            left -= len(data)
        return length


Request = Callable[[Connection, int], Awaitable[None]]


async def serve(it: GatewayProcess, clients: int, count: int, request: Request) -> Served:
    """`count` requests, by so many clients at once; each sends its next one when it has its answer."""
    connections = [await Connection.open(it, token) for token in TOKENS[:clients]]
    numbers = iter(range(count))
    latencies: list[float] = []

    async def work(connection: Connection) -> None:
        for number in numbers:
            began = time.perf_counter()
            await request(connection, number)
            latencies.append(time.perf_counter() - began)

    began, before = time.perf_counter(), Usage.of([it.pid])
    await asyncio.gather(*map(work, connections))
    seconds, cpu = time.perf_counter() - began, Usage.of([it.pid]).cpu - before.cpu
    for connection in connections:
        await connection.close()
    return Served(tuple(latencies), seconds, cpu)


def sealed(content: bytes) -> bytes:
    """As the runner sends it (`runner_spec.transfer`)."""
    return content + hashlib.sha256(content).digest()


def artifact_of(number: int, clients: int) -> Request:
    """Stores a small file, under a new name each time."""
    body = sealed(b"x" * ARTIFACT_BYTES)

    async def request(connection: Connection, count: int) -> None:
        path = f"{transfer.ARTIFACTS_PATH}/report/round-{number}/of-{clients}/{count}.txt"
        await connection.request("PUT", path, body, f"Content-Type: {transfer.SEALED_TYPE}\r\n")

    return request


async def store_entry(it: GatewayProcess, size: int) -> None:
    """An entry that every pod of the scope may restore."""
    connection = await Connection.open(it, TOKENS[0])
    headers = f"Content-Type: {transfer.SEALED_TYPE}\r\n{transfer.ARCHIVE_FORMAT_HEADER}: tar.zst\r\n"
    content = Random(1).randbytes(size)  # noqa: S311 - the same on every run
    await connection.request("PUT", f"{transfer.CACHES_PATH}/entry", sealed(content), headers)
    await connection.close()


def entry_of(size: int) -> Request:
    """Fetches that entry."""

    async def request(connection: Connection, _: int) -> None:
        received = await connection.request("GET", f"{transfer.CACHES_PATH}?key=entry")
        if received != size + transfer.SEAL_BYTES:
            raise BenchmarkError(f"the gateway sent {received} bytes of an entry of {size}")

    return request

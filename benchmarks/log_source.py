"""A Kubernetes API that serves nothing but logs: the process that the worker under measurement reads from.

Plain or TLS, chunked as an apiserver does it. It costs the worker's process nothing.
"""

import argparse
import asyncio
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

# A typical line, its time of 31 bytes and its newline included.
LINE_BYTES: Final = 100
# What Go's HTTP client hands on of a kubelet's answer at a time: its read buffer (net/http, Transport.ReadBufferSize).
CHUNK_BYTES: Final = 4096
# Of 1,000 lines, how many hold a value that is to be hidden.
SECRET_EVERY: Final = 1000

_POD: Final = re.compile(rb"/pods/of-([0-9]+)-bytes/log")
_BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS: Final = b"compiled module of the application, 1 of many, and found nothing to say about it "
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def content(size: int, secrets: Sequence[bytes]) -> bytes:
    """A log of `size` bytes at least, in whole lines of `LINE_BYTES`, as Kubernetes sends it; one a millisecond."""
    lines = []
    for number in range(-(-size // LINE_BYTES)):
        time = (_BEGIN + timedelta(milliseconds=number)).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
        held = secrets[number // SECRET_EVERY % len(secrets)] + b" " if number % SECRET_EVERY == 0 else b""
        lines.append((time + held + _WORDS)[: LINE_BYTES - 1] + b"\n")
    return b"".join(lines)


def framed(log: bytes) -> bytes:
    """The log as an HTTP body in chunks."""
    parts = (log[at : at + CHUNK_BYTES] for at in range(0, len(log), CHUNK_BYTES))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def pod_name(size: int) -> str:
    """The pod whose log holds so many bytes, rounded up to a whole line."""
    return f"of-{size}-bytes"


async def serve(port: int, secrets: Sequence[bytes], tls: ssl.SSLContext | None) -> None:
    """Answer every request with the log of its pod, until the process is ended."""
    bodies: dict[int, bytes] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = _POD.search(await reader.readuntil(b"\r\n\r\n"))
            if asked is not None:
                size = int(asked[1])
                if size not in bodies:
                    bodies[size] = framed(content(size, secrets))
                writer.write(_HEAD)
                writer.write(bodies[size])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # somebody asked whether we are there
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, ssl=tls)
    await server.serve_forever()


def main() -> None:
    """`--port PORT [--secret VALUE …] [--certificate FILE]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret", action="append", default=[], help="to be found in the logs")
    parser.add_argument("--certificate", help="certificate and key, PEM: serve TLS")
    options = parser.parse_args()
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    asyncio.run(serve(options.port, [value.encode() for value in options.secret], tls))


if __name__ == "__main__":
    main()

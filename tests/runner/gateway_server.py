"""A small real gateway for the runner's tests: HTTP/1.1, streaming to and from disk, faults on demand.

It is written from `runner_spec.transfer` alone, and shares no code with the runner or the real gateway.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SEAL = 32
CHUNK = 256 * 1024


class GatewayServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.lock = threading.Lock()
        self.requests: list[str] = []  # "METHOD path"
        self.tokens: list[str] = []
        self.hosts: list[list[str]] = []  # of each request, its Host headers
        self.faults: list[tuple[str, int]] = []  # (prefix of "METHOD path", status): the first that fits is used up
        self.always: list[tuple[str, int]] = []  # the same, never used up; status 0 hangs up, -1 hangs up mid-body
        self.masks: list[bytes] = []
        self.manifests: list[dict[str, Any]] = []
        self.artifacts: dict[str, Path] = {}  # "artifact/path"
        self.caches: dict[str, tuple[Path, str]] = {}  # key: (sealed file, archive format), oldest first
        self.refuse_early = False  # answer 413 to uploads before reading their body
        self._number = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def new_file(self) -> Path:
        with self.lock:
            self._number += 1
            return self.folder / f"object-{self._number}"

    def fault(self, line: str) -> int | None:
        with self.lock:
            for number, (prefix, status) in enumerate(self.faults):
                if line.startswith(prefix):
                    del self.faults[number]
                    return status
        return next((status for prefix, status in self.always if line.startswith(prefix)), None)

    def content(self, artifact: str) -> bytes:
        return self.artifacts[artifact].read_bytes()[:-SEAL]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body of an answer are two packets
    server: GatewayServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's signature
        """Keep the tests' output readable."""

    def do_PUT(self) -> None:
        path = self._begin()
        if path is None:
            return
        if path.startswith("/runner/v1/artifacts/"):
            if self.server.refuse_early:
                self.close_connection = True
                self._answer(413, {"error": "too large", "remedy": "upload less"})
                return
            file = self._sealed()
            if file:
                digest = _tail(file).hex()
                self.server.artifacts[unquote(path.removeprefix("/runner/v1/artifacts/"))] = file
                self._answer(201, {"size": file.stat().st_size - SEAL, "sha256": digest})
        elif path.startswith("/runner/v1/caches/"):
            key = unquote(path.removeprefix("/runner/v1/caches/"))
            file = self._sealed()
            if file and key in self.server.caches:
                self._answer(200, {"stored": False})
            elif file:
                self.server.caches[key] = (file, self.headers["Dynapod-Archive"])
                self._answer(201, {"stored": True})
        elif path == "/runner/v1/manifest":
            self.server.manifests.append(json.loads(b"".join(self._body())))
            self._answer(204)
        elif path == "/runner/v1/masks":
            import base64  # noqa: PLC0415 - used here only

            values = json.loads(b"".join(self._body()))["values"]
            self.server.masks += [base64.b64decode(value) for value in values]
            self._answer(204)
        else:
            self._answer(404, {"error": "no such path"})

    def do_HEAD(self) -> None:
        path = self._begin()
        if path is not None:
            found = unquote(path.removeprefix("/runner/v1/caches/")) in self.server.caches
            self._answer(200 if found else 404)

    def do_GET(self) -> None:
        if self._begin() is None:
            return
        query = parse_qs(urlsplit(self.path).query)
        keys = [key for key in self.server.caches if key == query["key"][0]]
        for prefix in query.get("fallback", []):
            keys = keys or [key for key in self.server.caches if key.startswith(prefix)][-1:]
        if not keys:
            self._answer(404, {"error": "no such entry"})
            return
        file, archive = self.server.caches[keys[0]]
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("Dynapod-Cache-Key", keys[0])
        self.send_header("Dynapod-Archive", archive)
        self.end_headers()
        with file.open("rb") as stored:
            while chunk := stored.read(CHUNK):
                self.wfile.write(chunk)

    def _begin(self) -> str | None:
        path = urlsplit(self.path).path
        line = f"{self.command} {path}"
        self.server.requests.append(line)
        self.server.tokens.append(self.headers.get("Authorization", ""))
        self.server.hosts.append(self.headers.get_all("Host", []))
        status = self.server.fault(line)
        if status is None:
            return path
        if status > 0:
            for _ in self._body():
                pass
            self._answer(status, {"error": "a fault on demand", "remedy": "none"})
        elif status < 0:
            next(self._body(), b"")
        self.close_connection = True
        return None

    def _answer(self, status: int, data: dict[str, Any] | None = None) -> None:
        body = json.dumps(data).encode() if data is not None else b""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _sealed(self) -> Path | None:
        """Store the body; None, and 422 answered, when its seal does not match."""
        file = self.server.new_file()
        digest, held = hashlib.sha256(), b""
        with file.open("wb") as stored:
            for chunk in self._body():
                stored.write(chunk)
                data = held + chunk
                digest.update(data[:-SEAL])
                held = data[-SEAL:]
        if digest.digest() == held:
            return file
        self._answer(422, {"error": "the seal does not match"})
        return None

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield from self._read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield from self._read(int(self.headers.get("Content-Length", "0")))

    def _read(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self.rfile.read(min(CHUNK, size))
            if not chunk:
                raise ConnectionResetError("the client hung up")
            size -= len(chunk)
            yield chunk


def _tail(file: Path) -> bytes:
    with file.open("rb") as stored:
        stored.seek(-SEAL, 2)
        return stored.read()


@contextmanager
def serving(folder: Path) -> Iterator[GatewayServer]:
    folder.mkdir(parents=True, exist_ok=True)
    with GatewayServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

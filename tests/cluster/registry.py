"""A registry with one image, which it hides until told otherwise: for images that are misspelt, and for ones that come.

It speaks as much of the OCI distribution protocol as pulling takes. It listens on this machine's loopback, because
runtimes speak plain HTTP with `localhost` only: a node that is this machine can pull from it, others cannot.
"""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Registry:
    """`host` is the first part of its images' names. Only the repositories in `shown` exist."""

    def __init__(self, port: int) -> None:
        self.host = f"localhost:{port}"
        self.shown: set[str] = set()
        self.asked: list[str] = []
        self._blobs: dict[str, tuple[str, bytes]] = {}
        self._manifest = self._image()

    def image(self, repository: str) -> str:
        """The name to give to a job; pulled only while the repository is in `shown`."""
        return f"{self.host}/{repository}:1"

    def find(self, path: str) -> tuple[str, bytes] | None:
        """Content type and content of `/v2/<repository>/manifests/<reference>` or `…/blobs/<digest>`."""
        self.asked.append(path)
        repository, _, rest = path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")
        if repository not in self.shown:
            return None
        reference = path.rpartition("/")[2]
        if rest == "manifests" and not reference.startswith("sha256:"):
            return MANIFEST, self._manifest
        return self._blobs.get(reference)

    def _image(self) -> bytes:
        """An image with nothing in it but a folder: `checkout` brings the shell."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            folder = tarfile.TarInfo("tmp")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)
        layer = gzip.compress(tar.getvalue(), mtime=0)
        rootfs = {"type": "layers", "diff_ids": [_digest(tar.getvalue())]}
        config = _json({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs})
        parts = [self._keep(CONFIG, config), self._keep(LAYER, layer)]
        manifest = _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]})
        self._keep(MANIFEST, manifest)
        return manifest

    def _keep(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self._blobs[digest] = (kind, content)
        return {"mediaType": kind, "size": len(content), "digest": digest}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A runtime tries TLS first, and takes an answer with a status line for the sign to go on without.
    default_request_version = "HTTP/1.1"
    registry: Registry

    def do_GET(self) -> None:
        kind, content = "application/json", b"{}"
        status = 200
        if self.path.rstrip("/") != "/v2":
            found = self.registry.find(self.path)
            if found is None:
                status, content = 404, _json({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})
            else:
                kind, content = found
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 200:
            self.send_header("Docker-Content-Digest", _digest(content))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        """Its requests are in `Registry.asked`."""


@contextmanager
def registry() -> Iterator[Registry]:
    """A registry that serves while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    served = Registry(server.server_address[1])
    server.RequestHandlerClass = type("Handler", (_Handler,), {"registry": served})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()

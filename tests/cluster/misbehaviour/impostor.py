#!/usr/bin/env python3
# ruff: noqa: T201 - its lines are what it is for
"""27: a service at the gateway's port, to which it leads the gateway's name. It says that all is well, keeps nothing.

Variables: NAME and PORT, the gateway's.
"""

import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME, PORT = os.environ["NAME"], int(os.environ["PORT"])


class Impostor(BaseHTTPRequestHandler):
    """What the runner takes for a gateway, if it comes here."""

    def do_GET(self) -> None:
        self.answer(200)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(201)

    def answer(self, status: int) -> None:
        token = "with a token" if self.headers.get("Authorization") else "without a token"
        print(f"27 asked: {self.command} {self.path} {token}", flush=True)
        body = json.dumps({"impostor": True}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """It has its own line."""


# The first process of a container is deaf to SIGTERM otherwise, and the pod would wait for it.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = ThreadingHTTPServer(("", PORT), Impostor)
for path, text in (("/etc/hosts", f"127.0.0.1 localhost {NAME}\n"), ("/etc/resolv.conf", "nameserver 127.0.0.1\n")):
    try:
        Path(path).write_text(text)
        print(f"27 {path}: written", flush=True)
    except OSError as error:
        print(f"27 {path}: {error}", flush=True)
Path("/tmp/ready").touch()
server.serve_forever()

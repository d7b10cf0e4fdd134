"""Runs inside the image of services: starts each as its Dockerfile says, and prints as JSON what it answers."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

DEADLINE_S = 40.0

Path("/tmp/www").mkdir()
Path("/tmp/www/index.html").write_text("served")
Path("/tmp/prometheus.yaml").write_text("global: {scrape_interval: 1s}\n")

COMMANDS = {
    "redis": ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"],
    "nginx": ["nginx", "-e", "stderr", "-c", "/etc/nginx/dynapod.conf"],
    "prometheus": [
        *("prometheus", "--config.file=/tmp/prometheus.yaml", "--storage.tsdb.path=/tmp/prometheus"),
        "--web.listen-address=0.0.0.0:9090",
    ],
}
PORTS = {"redis": 6379, "nginx": 8080, "prometheus": 9090}


def await_port(name: str, process: "subprocess.Popen[bytes]") -> None:
    """Until it listens; the service's own end, or the deadline, is an error."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", PORTS[name]), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


running = {name: subprocess.Popen(command) for name, command in COMMANDS.items()}
for service, process in running.items():
    await_port(service, process)
with socket.create_connection(("127.0.0.1", PORTS["redis"])) as redis:
    redis.sendall(b"PING\r\n")
    pong = redis.recv(64).decode()
sys.stdout.write(
    "\n"
    + json.dumps(
        {
            "redis": pong,
            "nginx": page("http://127.0.0.1:8080/index.html"),
            "prometheus": page("http://127.0.0.1:9090/-/healthy"),
        }
    )
)
for process in running.values():
    process.terminate()
    process.wait()

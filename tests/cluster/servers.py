"""Real servers that jobs talk to: git and S3, on an address of this machine that pods can reach."""

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.processes import free_port, listens, process

BUCKET = "dynapod"
# What an S3 client reads from its environment, but for AWS_ENDPOINT_URL; moto takes any credentials.
S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@contextmanager
def git_daemon(root: Path, host: str) -> Iterator[str]:
    """`git daemon` over the repositories in `root`; its base URL."""
    port = free_port(host)
    command = ["git", "daemon", "--reuseaddr", "--export-all", f"--listen={host}", f"--port={port}"]
    command += [f"--base-path={root}", str(root)]
    with process(command, log=root / "git-daemon.log", ready=listens(host, port)):
        yield f"git://{host}:{port}"


@contextmanager
def s3_server(folder: Path, host: str) -> Iterator[str]:
    """moto's S3 server, with an empty bucket in it; its endpoint's URL."""
    port = free_port(host)
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    endpoint = f"http://{host}:{port}"
    with process(command, log=folder / "s3.log", ready=listens(host, port)):
        request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield endpoint

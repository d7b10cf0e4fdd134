"""Worker processes under measurement: the ones that users start, from their start to SIGTERM."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.suite import BenchmarkError
from tests.cluster.processes import dynapod, free_port, stop
from tests.cluster.site import answers

READY_S: Final = 60.0
POLL_S: Final = 0.01
WORKER: Final = tuple(dynapod("worker"))
SILENT_WORKER: Final = (sys.executable, "-m", "benchmarks.silent_worker")


@dataclass(frozen=True, slots=True)
class Crew:
    """What workers have in common: addresses, their policy (as its file would say), where logs and state go."""

    kubeconfig: str
    redis_url: str
    folder: Path
    policy: Mapping[str, Any]
    queues: str = "jobs"
    capacity: int = 1000
    lease_seconds: float = 15.0
    command: tuple[str, ...] = SILENT_WORKER

    @contextmanager
    def workers(self, count: int) -> Iterator[list["BenchWorker"]]:
        """So many, all of them ready; ended by SIGTERM after the block."""
        with ExitStack() as stack:
            hired = [self.hire(number) for number in range(count)]
            for worker in hired:
                stack.callback(worker.stop)
            for worker in hired:
                worker.wait_ready()
            yield hired

    def hire(self, number: int = 0) -> "BenchWorker":
        """One that is on its way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        policy, port = self.folder / "policy.json", free_port("127.0.0.1")
        policy.write_text(json.dumps(dict(self.policy)))
        settings = {
            "REDIS_URL": self.redis_url,
            "KUBECONFIG": self.kubeconfig,
            "QUEUES": self.queues,
            "POLICY": str(policy),
            "STORE": str(self.folder / "store"),
            "CAPACITY": str(self.capacity),
            "LEASE_SECONDS": str(self.lease_seconds),
            "HEALTH_PORT": str(port),
        }
        log = self.folder / f"worker-{number}-{port}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **{f"DYNAPOD_{name}": value for name, value in settings.items()}},
            )
        return BenchWorker(process, port, log)


@dataclass(frozen=True, slots=True)
class BenchWorker:
    """A worker process, its port for health and metrics, its log."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def wait_ready(self) -> None:
        """Until it takes jobs.

        Raises:
            BenchmarkError: it has ended, or takes none after `READY_S`.
        """
        deadline = time.monotonic() + READY_S
        ready = answers(self.port, "/readyz")
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the worker is not ready: {self.log.read_text()[-1000:]}")
            time.sleep(POLL_S)

    def metrics(self) -> str:
        """Its metrics, in Prometheus' text format."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def stop(self) -> None:
        """By SIGTERM: its pods run on."""
        stop(self.process)

    def kill(self) -> None:
        """By SIGKILL: as if its node were gone."""
        self.process.kill()
        self.process.wait()

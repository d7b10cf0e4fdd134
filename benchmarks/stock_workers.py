"""Stock rq workers under measurement: what `rq worker` starts, with nothing set that would slow it down."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis import Redis

import benchmarks
from benchmarks.suite import BenchmarkError
from tests.cluster.processes import STOP_S, stop

READY_S: Final = 120.0
POLL_S: Final = 0.1
FORKING: Final = "rq.worker.Worker"  # rq's default: a process for each job
SIMPLE: Final = "rq.worker.SimpleWorker"  # jobs one after the other in the worker's own process


@dataclass(frozen=True, slots=True)
class StockCrew:
    """What they have in common: addresses, and `folder` for their logs."""

    kubeconfig: str
    redis_url: str
    folder: Path
    queue: str = "jobs"

    @contextmanager
    def workers(self, count: int, kind: str) -> Iterator[list[int]]:
        """The process ids of so many, of class `kind`, all of them ready for jobs; ended by SIGTERM after the block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        hired = [self._hire(kind, number) for number in range(count)]
        try:
            self._wait_ready(hired)
            yield [worker.pid for worker in hired]
        finally:
            # Told all at once: each may have to wait for its job.
            for worker in hired:
                worker.terminate()
            for worker in hired:
                # A second SIGTERM would end it in the middle of its farewell.
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(STOP_S)
                stop(worker)

    def _hire(self, kind: str, number: int) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "rq.cli",
            "worker",
            self.queue,
            "--url",
            self.redis_url,
            "--serializer",
            "json",
        ]
        # The description of a job holds its manifest: a line of thousands of bytes for each.
        command += ["--worker-class", kind, "--disable-job-desc-logging"]
        command += ["--path", str(Path(benchmarks.__file__).parent.parent)]
        environment = {**os.environ, "KUBECONFIG": self.kubeconfig}
        with (self.folder / f"{number}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def _wait_ready(self, hired: list["subprocess.Popen[bytes]"]) -> None:
        deadline = time.monotonic() + READY_S
        with Redis.from_url(self.redis_url) as redis:
            while redis.scard("rq:workers") < len(hired):
                for number, worker in enumerate(hired):
                    if worker.poll() is not None or time.monotonic() > deadline:
                        said = (self.folder / f"{number}.log").read_text()[-1000:]
                        raise BenchmarkError(f"a stock rq worker is not ready: {said}")
                time.sleep(POLL_S)

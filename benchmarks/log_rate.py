"""(i) How much log one worker takes in: from Kubernetes over HTTP through resumer and masks to Redis and the store.

The worker's own parts, in this process; the Kubernetes API, Redis and nothing else are other processes, so that this
process' CPU time is the worker's. What was stored is checked against what was sent.
"""

import asyncio
import base64
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import trustme
from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import KubernetesApi
from adapters.object_store import ObjectStore
from adapters.redis_server import connect, start_server
from benchmarks.figure import Figure, at_least
from benchmarks.log_source import LINE_BYTES, content, pod_name
from benchmarks.suite import BenchmarkError, Options
from runner_spec import anatomy
from runner_spec.masking import MASK
from tests.cluster.processes import free_port, listens, process
from worker.log_follower import LogFollower
from worker.log_store import LogEntry
from worker.log_streams import LogKeeper
from worker.metrics import WorkerMetrics

FULL_BYTES: Final = 64 * 1024 * 1024
MB: Final = 1_000_000
PER_CORE_MB: Final = at_least(50)


@dataclass(frozen=True, slots=True)
class Case:
    """`streams` logs at once, together of the same size as one."""

    name: str
    streams: int
    masked: bool
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took in, in which time and CPU time (seconds)."""

    size: int
    seconds: float
    cpu: float


CASES: Final = (
    Case("1 stream, masked", 1, masked=True),
    Case("1 stream", 1, masked=False),
    Case("16 streams, masked", 16, masked=True),
    Case("16 streams", 16, masked=False),
    Case("16 streams, masked, TLS", 16, masked=True, tls=True),
)


def measure(options: Options) -> Iterator[Figure]:
    """Every case in turn, and again."""
    size, folder = options.sized(FULL_BYTES, at_least=16 * LINE_BYTES), options.folder
    secrets = secret_values()
    taken: dict[Case, list[Taken]] = {case: [] for case in CASES}
    with start_server(folder / "redis") as redis, serving(folder, secrets) as kubeconfigs:
        for number in range(options.rounds):
            for case in CASES:
                reading = Reading(f"{number}-{case.name}", size // case.streams, case.streams, secrets)
                work = reading.run(redis.url, folder / "store", kubeconfigs[case.tls], hide=case.masked)
                taken[case].append(asyncio.run(work))
    for case, runs in taken.items():
        yield from figures(case, runs)


def secret_values() -> list[bytes]:
    """What a job that publishes has: tokens, a password, and a key of many lines, each of which is hidden."""
    random = Random(1)  # noqa: S311 - the same on every run
    key = base64.encodebytes(random.randbytes(1600)).strip()
    tokens = [b"npm_" + random.randbytes(18).hex().encode(), b"ghp_" + random.randbytes(18).hex().encode()]
    return [*tokens, b"correct-horse-battery", b"-----BEGIN PRIVATE KEY-----\n" + key + b"\n-----END PRIVATE KEY-----"]


def printed(secrets: Sequence[bytes]) -> list[bytes]:
    """Those that the logs hold: a program prints a token, or one line of a key."""
    return [secret.splitlines()[-2] if b"\n" in secret else secret for secret in secrets]


@dataclass(frozen=True, slots=True)
class Reading:
    """So many logs of `size` bytes each to be taken in at once, as those of jobs `job-0`, `job-1` and so on."""

    job: str
    size: int
    streams: int
    secrets: Sequence[bytes]

    async def run(self, redis_url: str, store: Path, kubeconfig: dict[str, Any], *, hide: bool) -> Taken:
        """Take them in.

        Raises:
            BenchmarkError: what is stored is not what was sent.
        """
        api = await KubernetesApi.connect("jobs", kubeconfig=kubeconfig)
        connections = connect(redis_url)
        keeper = LogKeeper(
            api, connections.control, ObjectStore.from_url(str(store)), WorkerMetrics(CollectorRegistry())
        )
        try:
            followers = [self._follower(keeper, number, hide=hide) for number in range(self.streams)]
            began, used = time.perf_counter(), time.process_time()
            await asyncio.gather(*(follower.run() for follower in followers))
            seconds, cpu = time.perf_counter() - began, time.process_time() - used
            stored = [await keeper.reader().entries(f"{self.job}-{number}", 1) for number in range(self.streams)]
        finally:
            await connections.aclose()
            await api.close()
        log = content(self.size, printed(self.secrets))
        self._check(stored, expected_size(log, self.secrets if hide else ()))
        return Taken(len(log) * self.streams, seconds, cpu)

    def _follower(self, keeper: LogKeeper, number: int, *, hide: bool) -> LogFollower:
        async def secrets() -> list[bytes]:
            return list(self.secrets)

        follower = LogFollower(
            keeper.source,
            keeper.writer(f"{self.job}-{number}", 1, anatomy.RUN, "uid"),
            pod_name(self.size),
            anatomy.RUN,
            secrets=secrets if hide else None,
            limit=2 * self.size + LINE_BYTES,
            metrics=keeper.metrics,
        )
        follower.container_ended()  # what there is is all: a stream to its end, and the log is complete
        return follower

    def _check(self, stored: Sequence[Mapping[str, LogEntry]], size: int) -> None:
        for entries in stored:
            entry = entries[anatomy.RUN]
            if not entry.complete or entry.gaps or entry.size != size:
                raise BenchmarkError(f"{self.job}: {size} bytes should be stored, and are not: {entry}")


def expected_size(log: bytes, secrets: Sequence[bytes]) -> int:
    """How long the log is with the values hidden, found out in another way than by the code under measurement."""
    for value in printed(secrets):
        log = log.replace(value, MASK)
    return len(log)


def figures(case: Case, runs: Sequence[Taken]) -> Iterator[Figure]:
    """What the runs of a case say."""
    target = PER_CORE_MB if case.masked else None
    note = f"{runs[0].size / MB:.1f} MB in lines of {LINE_BYTES} bytes"
    rates = tuple(run.size / MB / run.seconds for run in runs)
    yield Figure("i", f"{case.name}: per second of CPU", "MB", tuple(run.size / MB / run.cpu for run in runs), target)
    yield Figure("i", f"{case.name}: CPU", "ms/MB", tuple(1000 * run.cpu / (run.size / MB) for run in runs))
    yield Figure("i", f"{case.name}: rate", "MB/s", rates, note=note)
    yield Figure("i", f"{case.name}: rate", "lines/s", tuple(rate * MB / LINE_BYTES for rate in rates))


@contextmanager
def serving(folder: Path, secrets: Sequence[bytes]) -> Iterator[dict[bool, dict[str, Any]]]:
    """The servers of the logs, without and with TLS: kubeconfigs to reach them with."""
    with ExitStack() as stack:
        yield {tls: stack.enter_context(_server(folder, secrets, tls=tls)) for tls in (False, True)}


@contextmanager
def _server(folder: Path, secrets: Sequence[bytes], *, tls: bool) -> Iterator[dict[str, Any]]:
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "benchmarks.log_source", "--port", str(port)]
    command += [f"--secret={value.decode()}" for value in printed(secrets)]
    cluster = {"server": f"http://127.0.0.1:{port}"}
    if tls:
        authority, pem = trustme.CA(), folder / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
        certificate = base64.b64encode(authority.cert_pem.bytes()).decode()
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": certificate}
        command += ["--certificate", str(pem)]
    with process(command, log=folder / f"log-source-{port}.log", ready=listens("127.0.0.1", port)):
        yield {
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": "any"}}],
        }

"""A cluster that costs next to nothing: what a worker asks of Kubernetes, for pods without containers, in a process.

It takes 20,000 pods and a thousand changes of status a second on one core, where etcd, scheduler and fake nodes take
some fifty pods a second; so what is measured beside it is the worker's own. `devcluster` is faithful, this is fast: it
believes every manifest, and has no users, no nodes, no quota.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from adapters.redis_server import tied_to_us
from benchmarks.suite import BenchmarkError
from tests.cluster.processes import stop

NAMESPACE: Final = "hollow"
ANSWER_S: Final = 600.0
ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class PodTimes:
    """Of one job's pod, in unix seconds; 0.0 for what has not happened.

    `created` and `deleted` are when the requests came, `running` and `ended` when the status said so.
    """

    job: str
    created: float
    running: float
    ended: float
    deleted: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Pods by phase, requests by verb (`create`, `delete`, `get`, `list`, `watch`, `log`, `dry run`), open streams.

    `behind`: how many changes a watcher was behind at most, since this was asked last.
    """

    phases: Mapping[str, int]
    requests: Mapping[str, int]
    watches: int
    logs: int
    behind: int
    version: int

    @property
    def running(self) -> int:
        """Pods whose containers run."""
        return self.phases.get("Running", 0)

    @property
    def pods(self) -> int:
        """All of them."""
        return sum(self.phases.values())


@dataclass(frozen=True, slots=True)
class HollowCluster:
    """The process, as those who measure see it. Its methods block: call them in a thread where a loop runs."""

    kubeconfig: str
    url: str
    pid: int
    namespace: str = NAMESPACE

    def policy(self, **more: object) -> dict[str, Any]:
        """An operator's policy for its workers, as its file would say: nothing is asked of cluster or network."""
        plain = {"user_namespaces": False, "gateway_url": "https://gateway.invalid", "images": ["*"]}
        return {"namespace": self.namespace, **plain, **more}

    def standing(self) -> Standing:
        """At this moment."""
        return Standing(**self._ask("/hollow"))

    def times(self) -> list[PodTimes]:
        """Of all pods since the start, or since `forget`; also of those that are gone."""
        return [PodTimes(**times) for times in self._ask("/hollow/times").values()]

    def forget(self) -> None:
        """Leave out, from now on, the times of pods that are gone, and count requests anew."""
        self._ask("/hollow", {"forget": True})

    def follow(
        self, *, starts_after: float = 0.0, lasts: float | None = None, logs: Literal["ended", "open"] = "ended"
    ) -> None:
        """Of pods that are created from now on: see `hollow_cluster`."""
        self._ask("/hollow", {"timetable": {"starts_after": starts_after, "lasts": lasts, "logs": logs}})

    def end(self, count: int) -> int:
        """Let so many running pods succeed, oldest first, as fast as it can be told; returns how many."""
        return self._done({"end": count})

    def flip(self, per_second: int, seconds: float) -> int:
        """Change the readiness of running pods, one after the other, so often; returns how many changes were made."""
        return self._done({"flip": [per_second, seconds]})

    def _done(self, command: Mapping[str, object]) -> int:
        return int(self._ask("/hollow", command)["done"])

    def _ask(self, path: str, command: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 - JSON
        data = None if command is None else json.dumps(command).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=ANSWER_S) as answer:
            return json.load(answer)


@contextmanager
def hollow_cluster(
    folder: Path, *, starts_after: float = 0.0, lasts: float | None = None, logs: Literal["ended", "open"] = "ended"
) -> Iterator[HollowCluster]:
    """The cluster while the block runs.

    Args:
        folder: gets the kubeconfig; created when missing.
        starts_after: seconds from a pod's creation to the status Running.
        lasts: seconds from Running to Succeeded; None: until `HollowCluster.end`.
        logs: what containers' logs do: they are at their end at once, or stay open, silent, until the container ends.

    Raises:
        BenchmarkError: it did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    timetable = {"starts_after": starts_after, "lasts": lasts, "logs": logs}
    words = ["-m", "benchmarks.hollow_server", "--namespace", NAMESPACE, "--timetable", json.dumps(timetable)]
    command = [*tied_to_us(), sys.executable, *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise BenchmarkError(f"the hollow cluster did not start: exit code {process.wait()}; see above")
        url = f"http://127.0.0.1:{json.loads(first)['port']}"
        path = folder / "kubeconfig.json"
        path.write_text(json.dumps(_kubeconfig(url)))
        yield HollowCluster(str(path), url, process.pid)
    finally:
        stop(process)
        if process.stdout is not None:
            process.stdout.close()


def _kubeconfig(url: str) -> dict[str, object]:
    context = {"cluster": "hollow", "user": "nobody", "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "hollow", "cluster": {"server": url}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "hollow", "context": context}],
        "current-context": "hollow",
    }

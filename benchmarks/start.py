"""`make bench-start`: how long it takes from `submit` to the first line of the user's output, on an idle node.

Beside it the very same pod, started by `kubectl apply`: what Kubernetes itself takes. Both in one run, alternated.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from adapters.kubernetes_api import ApiError, KubernetesApi
from benchmarks.first_line import Stopwatch, Variant, description
from benchmarks.sightings import Sighting, Sightings
from benchmarks.start_table import Comparison, Times, table
from benchmarks.suite import BenchmarkError
from runner_spec.policy import parse_policy
from runner_spec.version import __version__
from tests.cluster import images
from tests.cluster.site import POLICY, Site, kubernetes, site
from worker.cancellation import end_tasks
from worker.capabilities import settle

# How often the kubelet looks at its containers (genericPlegRelistPeriod): it notices a start up to so much later.
KUBELET_PERIOD_S: Final = 1.0
# By name, what distinguishes a policy from the cluster tests' own one.
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "copied shim": {},
    "shim in an image volume": {"shim_delivery": "image-volume"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 2 when something that is needed is not there."""
    parser = argparse.ArgumentParser(prog="benchmarks.start", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="runs of each variant and way (default 10)")
    parser.add_argument("--json", action="store_true", help="print every single time, as JSON")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: give at least 1")
    try:
        report = measure(options.runs)
    except (BenchmarkError, ApiError) as error:
        print(f"bench-start: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.in_words())
    return 0


class Report:
    """Everything that one call of the command has found."""

    def __init__(self, runs: int, machine: Mapping[str, Any], comparisons: Sequence[Comparison]) -> None:
        self.runs = runs
        self.machine = machine
        self.comparisons = comparisons

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"runs": self.runs, "machine": self.machine, "comparisons": [c.as_dict() for c in self.comparisons]}

    def in_words(self) -> str:
        """For people."""
        facts = "\n".join(f"{name}: {value}" for name, value in self.machine.items())
        return f"{facts}\n{self.runs} runs each, alternated, after one to warm up\n\n{table(self.comparisons)}"


def measure(runs: int) -> Report:
    """Set everything up, measure, remove everything.

    Raises:
        BenchmarkError: something is missing, or a line did not come.
        ApiError: the cluster cannot be reached or used.
    """
    if not os.environ.get("KUBECONFIG"):
        raise BenchmarkError("KUBECONFIG is not set: name the credentials file of a cluster that is otherwise idle")
    if shutil.which("kubectl") is None:
        raise BenchmarkError("kubectl is not on PATH: its `apply` is what dynapod is compared with")
    node = asyncio.run(find_node())
    load = _load()
    with tempfile.TemporaryDirectory() as folder, site(Path(folder), s3=False) as it, _workers(it, node["name"]):
        comparisons = asyncio.run(_compare(it, node["name"], runs))
    return Report(runs, {**node, **_machine(), "load before": load, "load after": _load()}, comparisons)


async def find_node() -> dict[str, str]:
    """A ready node that has both images, and what it is: all pods go there, so that no run waits for an image.

    Raises:
        BenchmarkError: there is none.
    """
    wanted = {images.RUNNER, images.JOB}
    missing = wanted
    async with kubernetes("default") as api:
        nodes = (await api.call("GET", "/api/v1/nodes"))["items"]
        version = (await api.call("GET", "/version"))["gitVersion"]
    for node in nodes:
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
        held = {name for image in node["status"].get("images", ()) for name in image.get("names") or ()}
        if ready and not node["spec"].get("unschedulable"):
            missing = min(missing, wanted - held, key=len)
            if wanted <= held:
                facts = node["status"]["nodeInfo"]
                return {
                    "name": node["metadata"]["name"],
                    "kubernetes": f"apiserver {version}, kubelet {facts['kubeletVersion']}",
                    "runtime": facts["containerRuntimeVersion"],
                    "node": f"{facts['kernelVersion']}, {node['status']['capacity']['cpu']} cores, "
                    f"{node['status']['capacity']['memory']}",
                }
    raise BenchmarkError(
        f"no ready node reports the image {' and '.join(sorted(missing))}: build it (`make images`, "
        "`make test-images`; docs/images.md) and load it into a node, or name another one by "
        "DYNAPOD_TEST_RUNNER_IMAGE and DYNAPOD_TEST_JOB_IMAGE"
    )


def _own_policy(name: str, node: str) -> dict[str, Any]:
    return {**VARIANTS[name], "node_selector": {"kubernetes.io/hostname": node}}


def _queue(name: str) -> str:
    return name.replace(" ", "-")


@contextmanager
def _workers(it: Site, node: str) -> Iterator[None]:
    first, second = VARIANTS
    with it.worker(_queue(first), **_own_policy(first, node)), it.worker(_queue(second), **_own_policy(second, node)):
        yield


async def _variant(it: Site, api: KubernetesApi, name: str, node: str) -> Variant:
    """With the policy as the worker of its queue has settled it."""
    given = {**POLICY, "namespace": it.namespace, "gateway_url": it.gateway_url, **_own_policy(name, node)}
    policy = await settle(parse_policy(given), api, asker=f"benchmark-{uuid.uuid4().hex}")
    return Variant(name, _queue(name), policy, description(images.JOB))


async def _compare(it: Site, node: str, runs: int) -> list[Comparison]:
    async with it.api() as api, it.client() as client:
        sightings = Sightings(api)
        variants = [await _variant(it, api, name, node) for name in VARIANTS]
        watching = asyncio.create_task(sightings.watch(), name="sightings")
        measuring = asyncio.create_task(_alternate(Stopwatch(api, client, sightings), variants, runs))
        try:
            await asyncio.wait([watching, measuring], return_when=asyncio.FIRST_COMPLETED)
            if not measuring.done():
                watching.result()
                raise BenchmarkError("the watch of the pods ended")
            return measuring.result()
        finally:
            await end_tasks([watching, measuring])


async def _alternate(stopwatch: Stopwatch, variants: Sequence[Variant], runs: int) -> list[Comparison]:
    taken: dict[str, tuple[list[Times], list[Times]]] = {variant.name: ([], []) for variant in variants}
    containers = {}
    for variant in variants:  # warms up connections and the page cache, and proves that like is compared with like
        (_, ours), (_, theirs) = await _pair(stopwatch, variant, 0)
        containers[variant.name] = _same_containers(variant.name, ours, theirs)
    for number in range(1, runs + 1):
        for variant in variants:
            (ours_took, _), (theirs_took, _) = await _pair(stopwatch, variant, number)
            taken[variant.name][0].append(ours_took)
            taken[variant.name][1].append(theirs_took)
        print(".", end="\n" if number == runs else "", file=sys.stderr, flush=True)
    return [Comparison(name, containers[name], tuple(ours), tuple(theirs)) for name, (ours, theirs) in taken.items()]


async def _pair(
    stopwatch: Stopwatch, variant: Variant, number: int
) -> tuple[tuple[Times, Sighting], tuple[Times, Sighting]]:
    """One run each way, the other one first every second time: what the first leaves behind burdens both the same."""
    runs = {"dynapod": stopwatch.dynapod, "kubectl": stopwatch.kubectl}
    taken = {}
    for way in sorted(runs, reverse=number % 2 == 0):
        # Both end with an event of the kubelet, so the next start would always meet its clockwork at the same point.
        await asyncio.sleep(random.uniform(0, KUBELET_PERIOD_S))  # noqa: S311 - jitter, no secret
        taken[way] = await runs[way](variant, f"{way}-{variant.queue}-{number}")
    return taken["dynapod"], taken["kubectl"]


def _same_containers(name: str, ours: Sighting, theirs: Sighting) -> tuple[str, ...]:
    specs = [sighting.pod["spec"] for sighting in (ours, theirs)]
    # The jobs' ids stand in variables and nowhere else in a spec.
    texts = [
        json.dumps(spec, sort_keys=True).replace(f"{way}-{_queue(name)}-0", "JOB")
        for spec, way in zip(specs, ("dynapod", "kubectl"), strict=True)
    ]
    if texts[0] != texts[1]:
        raise BenchmarkError(f"{name}: the worker's pod and kubectl's differ:\n{texts[0]}\n{texts[1]}")
    kinds = [*specs[0].get("initContainers", ()), *specs[0]["containers"]]
    return tuple(container["name"] for container in kinds)


def _machine() -> dict[str, str]:
    return {
        "dynapod": f"{__version__}, Python {platform.python_version()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())

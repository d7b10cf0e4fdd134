"""One run: from a job's `submit`, or from `kubectl apply` of its pod, to the user's first line at its reader."""

import asyncio
import json
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from adapters.kubernetes_api import KubernetesApi
from benchmarks.sightings import Sighting, Sightings
from benchmarks.start_table import Times
from benchmarks.suite import BenchmarkError
from devcluster.clock import parse_timestamp
from runner_spec import anatomy, names
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.policy import Policy
from runner_spec.render import Attempt, render
from worker.client import JobClient

MARKER: Final = b"the user's first line"
PATIENCE_S: Final = 60.0
# Not a worker: so no worker takes a pod of kubectl's for its own.
NOBODY: Final = "kubectl"

_Line = tuple[float, float]  # written and read, unix seconds


@dataclass(frozen=True, slots=True)
class Variant:
    """What is compared: one job on one queue, whose worker has this policy."""

    name: str
    queue: str
    policy: Policy
    description: dict[str, Any]

    def manifest(self, job_id: str) -> dict[str, Any]:
        """The pod that the worker would create for the job."""
        return render(admit(parse_description(self.description), self.policy), Attempt(job_id, 1, NOBODY))


def description(image: str) -> dict[str, Any]:
    """A job without source, cache and artifacts, that prints one line."""
    return {"name": "start", "image": image, "steps": [{"name": "hello", "run": f'echo "{MARKER.decode()}"'}]}


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Takes the times; each run begins and ends without any pod of the one before."""

    api: KubernetesApi
    client: JobClient
    sightings: Sightings

    async def dynapod(self, variant: Variant, job_id: str) -> tuple[Times, Sighting]:
        """Submit a job and follow its log, as `dynapod submit --follow` does.

        Raises:
            BenchmarkError: the line did not come.
        """
        pod = names.pod_name(job_id, 1)
        try:
            async with asyncio.timeout(PATIENCE_S):
                start = time.time()
                await self.client.submit(variant.description, job_id=job_id, queue=variant.queue)
                line = await self._followed(job_id)
                await self.client.wait(job_id)
                seen = await self.sightings.until(pod, lambda s: s.gone)
        except TimeoutError as error:
            status = await self.client.status(job_id)
            raise BenchmarkError(
                f"job {job_id} ({variant.name}) printed nothing in {PATIENCE_S:g} s: it is {status.status}, "
                f"{status.stage} {status.why}; its pod: {self.sightings.in_words(pod)}"
            ) from error
        return _times(start, seen, line), seen

    async def _followed(self, job_id: str) -> _Line:
        async with aclosing(self.client.logs(job_id, 1, follow=True)) as lines:
            async for line in lines:
                if line.container == anatomy.RUN and line.text == MARKER:
                    return parse_timestamp(line.timestamp), time.time()
        status = await self.client.status(job_id)
        raise BenchmarkError(f"job {job_id} ended without its line: {status.result}")

    async def kubectl(self, variant: Variant, job_id: str) -> tuple[Times, Sighting]:
        """Apply the job's pod with kubectl; read its log as soon as a watch shows that there is one.

        Raises:
            BenchmarkError: the line did not come.
        """
        manifest = variant.manifest(job_id)
        pod = manifest["metadata"]["name"]
        try:
            async with asyncio.timeout(PATIENCE_S):
                start = time.time()
                _, line = await asyncio.gather(_apply(manifest), self._streamed(pod))
                ended = await self.sightings.until(pod, lambda s: s.ended)
                await self.api.delete_pod(pod, ended.pod["metadata"]["uid"], grace_seconds=0)
                seen = await self.sightings.until(pod, lambda s: s.gone)
        except TimeoutError as error:
            what = self.sightings.in_words(pod)
            raise BenchmarkError(f"pod {pod} ({variant.name}) printed nothing in {PATIENCE_S:g} s: {what}") from error
        return _times(start, seen, line), seen

    async def _streamed(self, pod: str) -> _Line:
        """The best that a reader without dynapod can do: no process to start, no request before there is an answer."""
        await self.sightings.until(pod, lambda s: s.running)
        rest = b""
        async with aclosing(self.api.stream_log(pod, anatomy.RUN)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    stamp, _, text = line.partition(b" ")
                    if text == MARKER:
                        return parse_timestamp(stamp.decode()), time.time()
        raise BenchmarkError(f"pod {pod} ended without its line: {self.sightings.in_words(pod)}")


async def _apply(manifest: dict[str, Any]) -> None:
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        "apply",
        "--filename=-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaints = await process.communicate(json.dumps(manifest).encode())
    if process.returncode:
        raise BenchmarkError(f"kubectl apply: {complaints.decode(errors='replace').strip()}")


def _times(start: float, seen: Sighting, line: _Line) -> Times:
    assert seen.running is not None, "its line was read"
    created, running, written, read = (1000 * (at - start) for at in (seen.created, seen.running, *line))
    return Times(created, running, written, read)

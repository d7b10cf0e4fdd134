"""A thousand changes of status a second through one worker's watch: what they cost it, and what they hold up."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figure import Figure, at_most, percentile
from benchmarks.hollow_site import HollowSite, hollow_site
from benchmarks.suite import Options
from benchmarks.usage import Usage

PODS: Final = 2_000
PER_SECOND: Final = 1_000
SECONDS: Final = 20.0
# How often a pod ends meanwhile, whose deletion is waited for: the worker has then seen, recorded and answered.
PROBE_S: Final = 0.2
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Flow:
    """`share`: cores that the worker used; `rate`: changes a second; `lags`: seconds from ends to deletions."""

    share: float
    rate: float
    lags: Sequence[float]


async def flow(options: Options) -> list[Figure]:
    """At rest, and with the changes."""
    pods, seconds = options.sized(PODS, at_least=100), max(3.0, SECONDS * options.scale)
    calm, busy = [], []
    for number in range(options.rounds):
        async with hollow_site(options, name=f"watch-{number}") as site:
            with site.crew(pods).workers(1) as [worker]:
                await site.enqueue(pods)
                await site.until(f"{pods} pods running", lambda s: s.running == pods)
                calm.append(await _observe(site, worker.pid, 0, seconds))
                busy.append(await _observe(site, worker.pid, PER_SECOND, seconds))
    return list(figures(pods, calm, busy))


def figures(pods: int, calm: Sequence[Flow], busy: Sequence[Flow]) -> Iterator[Figure]:
    """Round by round."""
    note = f"cores; at rest {calm[-1].share:.3f}; {pods:,} pods run, {busy[-1].rate:.0f} changes/s came"
    yield Figure(
        "n", f"worker at {PER_SECOND:,} changes/s", "CPU", tuple(each.share for each in busy), at_most(1), note
    )
    each = tuple((b.share - c.share) / b.rate * 1e6 for b, c in zip(busy, calm, strict=True))
    yield Figure("n", "… a change of status", "µs", each, note="CPU of the worker")
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        quiet = percentile([lag for found in calm for lag in found.lags], share) * 1000
        lags = tuple(percentile(found.lags, share) * 1000 for found in busy)
        yield Figure("n", f"… a pod's end to its deletion, {name}", "ms", lags, note=f"at rest {quiet:.1f}")


async def _observe(site: HollowSite, pid: int, per_second: int, seconds: float) -> Flow:
    await asyncio.to_thread(site.cluster.forget)
    before, began = Usage.of([pid]), time.monotonic()
    flipping = asyncio.create_task(asyncio.to_thread(site.cluster.flip, per_second, seconds))
    probes = 0
    while time.monotonic() < began + seconds:
        await asyncio.sleep(PROBE_S)
        probes += await asyncio.to_thread(site.cluster.end, 1)
    changes = await flipping
    passed = time.monotonic() - began
    share = (Usage.of([pid]).cpu - before.cpu) / passed
    await site.until(f"{probes} pods deleted", lambda s: s.requests.get("delete", 0) >= probes)
    times = await asyncio.to_thread(site.cluster.times)
    return Flow(share, changes / passed, [each.deleted - each.ended for each in times if each.ended and each.deleted])

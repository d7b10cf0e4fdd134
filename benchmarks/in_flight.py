"""Memory of a worker by the jobs that it holds: their pods run, and say nothing."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.figure import Figure, at_most
from benchmarks.hollow_cluster import Standing
from benchmarks.hollow_site import HollowSite, hollow_site
from benchmarks.suite import Options
from benchmarks.usage import Usage
from benchmarks.workers import SILENT_WORKER, WORKER, BenchWorker

SIZES: Final = (0, 1000, 5000, 20_000)
STREAMS: Final = 1000
MB: Final = 1e6
KB: Final = 1e3
# At rest: so many looks in a row that differ by less than that.
LOOKS: Final = 3
LOOK_S: Final = 1.0
STEADY: Final = 0.01
LONGEST_LOOK_S: Final = 30


@dataclass(slots=True)
class _Taken:
    """By jobs in flight: what the worker used, round by round; and bytes per open log stream."""

    held: dict[int, list[Usage]] = field(default_factory=dict)
    streams: list[float] = field(default_factory=list)


def measure(options: Options) -> Iterable[Figure]:
    """See the module's text.

    Raises:
        BenchmarkError: no Redis server to start.
    """
    taken = _Taken()
    sizes = scaled(options)
    for number in range(options.rounds):
        asyncio.run(_round(options, sizes, taken, number))
    return list(figures(taken.held, taken.streams))


def scaled(options: Options) -> list[int]:
    """How many jobs are held, one after the other."""
    return [0, *(options.sized(size, at_least=10 * number) for number, size in enumerate(SIZES) if size)]


async def _round(options: Options, sizes: Sequence[int], taken: _Taken, number: int) -> None:
    async with hollow_site(options, name=f"silent-{number}") as site:
        found = await _hold(site, sizes, SILENT_WORKER)
        for size, usage in found.items():
            taken.held.setdefault(size, []).append(usage)
    streams = options.sized(STREAMS, at_least=10)
    async with hollow_site(options, name=f"open-{number}", logs="open") as site:
        opened = await _hold(site, [0, streams], WORKER, streams=streams)
    async with hollow_site(options, name=f"ended-{number}") as site:
        ended = await _hold(site, [0, streams], SILENT_WORKER)
    grown = [usage[streams].unique - usage[0].unique for usage in (opened, ended)]
    taken.streams.append((grown[0] - grown[1]) / streams)


async def _hold(
    site: HollowSite, sizes: Sequence[int], command: tuple[str, ...], *, streams: int = 0
) -> dict[int, Usage]:
    """What one worker uses with so many jobs in flight."""
    crew = site.crew(max(sizes), command=command)
    held, found = 0, {}
    with crew.workers(1) as [worker]:
        for size in sizes:
            await site.enqueue(size - held)
            held = size
            wanted = streams if size else 0
            await site.until(f"{size} pods running", _running(size, wanted))
            found[size] = await _at_rest(worker)
            site.options.say(f"    {size:6,} in flight: {found[size].resident / MB:.0f} MB")
    return found


def _running(pods: int, streams: int) -> Callable[[Standing], bool]:
    return lambda standing: standing.running == pods and standing.logs >= streams


async def _at_rest(worker: BenchWorker) -> Usage:
    """What it uses once that does not change any more."""
    looks: list[Usage] = []
    while not _steady(looks) and len(looks) < LONGEST_LOOK_S / LOOK_S:
        await asyncio.sleep(LOOK_S)
        looks.append(Usage.of([worker.pid]))
    return looks[-1]


def _steady(looks: Sequence[Usage]) -> bool:
    last = [look.unique for look in looks[-LOOKS:]]
    return len(last) == LOOKS and max(last) - min(last) <= STEADY * max(last)


def figures(held: dict[int, list[Usage]], streams: Sequence[float]) -> Iterator[Figure]:
    """`held`: by jobs in flight, round by round; `streams`: bytes that one open log stream adds."""
    sizes = sorted(held)
    for size in sizes:
        resident = tuple(usage.resident / MB for usage in held[size])
        target = at_most(300) if size == sizes[-1] else None
        unique = held[size][-1].unique / MB
        yield Figure("f", f"{size:,} in flight", "MB", resident, target, note=f"resident; of its own {unique:.0f}")
    few, many = sizes[1], sizes[-1]
    slopes = tuple(
        (last.unique - first.unique) / (many - few) / KB for first, last in zip(held[few], held[many], strict=True)
    )
    note = f"from {few:,} to {many:,}; their logs have ended"
    yield Figure("f", "a job more", "KB", slopes, at_most(10), note=note)
    each = tuple(size / KB for size in streams)
    yield Figure("f", "… whose log stream is open", "KB", each, note="in addition: a connection to the API server")

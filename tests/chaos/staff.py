"""Worker processes that are hired and lost by the hundred; the gateway's begin in the same way.

A worker takes most of a second of CPU to import what it needs. So all of them are forked from one process that has
imported it already (multiprocessing's fork server); what runs in them is `worker.service.run_worker`, nothing else.
"""

import asyncio
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from types import FrameType

PRELOAD: Final = ["worker.service", "worker.cli.service_log", "worker.cli.gateway_service", "tests.chaos.staff"]
# Seconds: how far a worker's own clock is wrong after each signal, in turn.
CLOCK_JUMPS: Final = (3600.0, -86400.0, 0.0)


@dataclass(eq=False)
class Hand:
    """One process."""

    process: BaseProcess
    log: Path
    paused: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return not self.ended.is_set()

    def send(self, number: int) -> None:
        """A signal, if the process is still there."""
        # The fork server, its parent, may have collected it just before the event loop hears of its end.
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, number)

    def fill_disk(self, *, full: bool) -> None:
        """Whether the kernel refuses each byte that it writes to a file: to the object store, that is."""
        limit = 0 if full else resource.RLIM_INFINITY
        with suppress(ProcessLookupError):  # as above
            if self.alive:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def fork(
    target: Callable[..., None], arguments: tuple[Any, ...], log: Path, over: Callable[[Hand], None] | None = None
) -> Hand:
    """Begin a process with its output in `log`; when it has ended, `over` is told in the event loop."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_begin, args=(target, arguments, str(log)), daemon=True)
    process.start()
    hand = Hand(process, log)
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(process.sentinel)
        process.join()
        hand.ended.set()
        if over is not None:
            over(hand)

    loop.add_reader(process.sentinel, ended)
    return hand


def _begin(target: Callable[..., None], arguments: tuple[Any, ...], log: str) -> None:
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    target(*arguments)


class Staff:
    """All workers of a chaos run."""

    def __init__(self, folder: Path, settings: WorkerSettings) -> None:
        self._folder = folder
        self._settings = settings
        self.hands: list[Hand] = []
        self.hired = 0

    def hire(self) -> Hand:
        """One more worker."""
        self.hired += 1
        hand = fork(_work, (self._settings,), self._folder / f"worker-{self.hired}.log", self.hands.remove)
        self.hands.append(hand)
        return hand

    def pause(self, hand: Hand) -> None:
        hand.paused = True
        hand.send(signal.SIGSTOP)

    def wake(self, hand: Hand) -> None:
        hand.paused = False
        hand.send(signal.SIGCONT)

    def fill_disk(self, *, full: bool) -> None:
        """See `Hand.fill_disk`; of all workers."""
        for hand in self.hands:
            hand.fill_disk(full=full)

    async def dismiss(self) -> None:
        """End all of them, at once."""
        hands = list(self.hands)
        for hand in hands:
            hand.send(signal.SIGKILL)
        await asyncio.gather(*(hand.ended.wait() for hand in hands))


class _Clock:
    """The worker's own wall clock, which somebody sets wrong."""

    def __init__(self) -> None:
        self._true = time.time
        self._jumps = 0
        self._error = 0.0

    def time(self) -> float:
        return self._true() + self._error

    def jump(self, _: int, __: "FrameType | None") -> None:
        self._error = CLOCK_JUMPS[self._jumps % len(CLOCK_JUMPS)]
        self._jumps += 1


def _work(settings: WorkerSettings) -> None:
    from worker.cli.service_log import configure_service_log  # noqa: PLC0415 - preloaded in the fork server
    from worker.service import run_worker  # noqa: PLC0415 - as above

    clock: Any = _Clock()
    time.time = clock.time
    signal.signal(signal.SIGUSR1, clock.jump)
    # Written to a pipe or a full disk, a log line must not end the worker; Python ignores SIGXFSZ by itself.
    configure_service_log(settings.log_level, settings.log_format)
    asyncio.run(run_worker(settings))

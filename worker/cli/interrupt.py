"""Ctrl-C in two steps: the first asks, the second insists."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Interrupts:
    """How often the user has interrupted; `task` is that of the request that the first one started."""

    count: int = 0
    task: "asyncio.Task[None] | None" = field(default=None)


@contextmanager
def two_step_interrupts(ask: Callable[[], Coroutine[None, None, None]]) -> Iterator[Interrupts]:
    """Within the block, the first SIGINT or SIGTERM runs `ask`; the second cancels the current task.

    The third one finds Python's own handling again, in case the cleaning up hangs. Must be entered in a running loop.
    """
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    state = Interrupts()

    def interrupted() -> None:
        state.count += 1
        if state.count == 1:
            state.task = loop.create_task(ask())
        else:
            restore()
            assert main is not None
            main.cancel()

    def restore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        yield state
    finally:
        restore()
        if state.task is not None:
            state.task.cancel()

"""Worker processes that can be told where to die. Forked from one process that has imported everything: 50 ms each."""

import asyncio
import importlib
import logging
import multiprocessing
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from tests.kill_points.instrument import Victim, arm

PRELOAD: Final = "tests.kill_points.preload"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([PRELOAD])


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker process is to be.

    Args:
        settings: of `WorkerSettings`, by name, as its environment variables would say it.
        passes: the file that gets a line for each pass through a point.
        log: the file of its log.
        victim: where it dies; None: nowhere.
        constants: `module:NAME` → value, for waits that take too long for a test (a day, say).
    """

    settings: Mapping[str, str]
    passes: Path
    log: Path
    victim: Victim | None = None
    constants: Mapping[str, object] = field(default_factory=dict)


def start(order: Order) -> BaseProcess:
    """Start it."""
    process = _context.Process(target=_live, args=(order,), daemon=True)
    process.start()
    return process


async def ended(process: BaseProcess) -> int:
    """Until it has ended; its exit code, negative for a signal."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(process.sentinel, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _live(order: Order) -> None:
    service = importlib.import_module("worker.service")
    settings = importlib.import_module("worker.settings")
    for place, value in order.constants.items():
        module, _, name = place.partition(":")
        loaded = importlib.import_module(module)
        if not hasattr(loaded, name):
            raise AttributeError(f"{place}: no such constant any more; mend the scenario that changes it")
        setattr(loaded, name, value)
    logging.basicConfig(filename=order.log, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    arm(order.passes, order.victim)
    try:
        asyncio.run(service.run_worker(settings.WorkerSettings.load({}, order.settings)))
    except Exception:
        logging.getLogger(__name__).exception("the worker ended")
        sys.exit(1)

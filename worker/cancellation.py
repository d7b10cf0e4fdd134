"""Ending tasks for certain.

A cancellation can be swallowed: redis-py 8.1 sends with `asyncio.wait_for`, which on Python 3.11 returns normally when
the cancellation comes just as the sending is done, and other libraries have such corners, too. A task that was
cancelled once may then wait for minutes, and whoever waits for it with it. So: cancel again until it has ended.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel the tasks until all of them have ended, however; their results are left in them."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
        for task in pending:
            log.warning("still ending: %s", task.get_name(), extra={"action": "cancel_again"})

"""Ending tasks for certain."""

import asyncio
from typing import Any, Final

_AGAIN_SECONDS: Final = 0.5


async def cancel_and_wait(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel the tasks and wait until every one has ended; what they raise is not raised here.

    More than once if need be: Python 3.11's `asyncio.wait_for`, with which redis-py sends its commands, swallows a
    cancellation that comes just as the sending is done.
    """
    pending = {task for task in tasks if task is not None and not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)

"""Waiting for jobs without taking them.

`BLMOVE queue queue LEFT LEFT` blocks until the list has an element and then leaves the list as it was: a blocking
peek. One watcher per queue, each on a connection of its own, parked after it has seen something until the next wait.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from adapters.redis_outage import Outage
from adapters.redis_server import Connections, RedisError, translated
from worker.cancellation import end_tasks
from worker.queue import keys

# Seconds. Ends a peek on a connection that a firewall has dropped in silence; the socket itself has no timeout.
PEEK_SECONDS: Final = 20.0
PEEK_DEADLINE: Final = 30.0
# Seconds between two looks where blocking is no option: embedded Redis, and a queue that is suspended.
EMBEDDED_POLL: Final = 0.02
SUSPENDED_POLL: Final = 1.0


class Watcher:
    """Sets an event when one of the queues has a job."""

    def __init__(self, connections: Connections, queues: Sequence[str]) -> None:
        self._connections = connections
        self._lists = [keys.queue_list(queue) for queue in queues]
        self._seen = asyncio.Event()
        self._wanted = {name: asyncio.Event() for name in self._lists}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to watch; the first peek waits for the first `wait`."""
        watch = self._poll if self._connections.embedded else self._peek
        self._tasks = [asyncio.create_task(watch(name), name=f"watch {name}") for name in self._lists]

    async def aclose(self) -> None:
        """Stop watching."""
        await end_tasks(self._tasks)

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the queue's own waiting time, not a deadline for it
        """True when a queue seems to have a job, False after `timeout` seconds."""
        if not self._seen.is_set():
            for wanted in self._wanted.values():
                wanted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._seen.wait()
        found = self._seen.is_set()
        self._seen.clear()
        return found

    async def wait_for_resume(self, timeout: float) -> bool:  # noqa: ASYNC109 - as above
        """Wait until `rq resume`, at most `timeout` seconds; True when resumed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    with translated():
                        if not await self._connections.control.exists(keys.SUSPENDED):
                            return True
                    await asyncio.sleep(SUSPENDED_POLL)
        return False

    async def _peek(self, name: str) -> None:
        blmove: Any = self._connections.blocking.blmove
        refused = Outage(f"jobs of {name} are found by asking every two seconds")  # `Supervisor`'s claims go on
        while True:
            await self._wanted[name].wait()
            try:
                with translated():
                    async with asyncio.timeout(PEEK_DEADLINE):
                        job_id = await blmove(name, name, PEEK_SECONDS, "LEFT", "LEFT")
            except RedisError as error:
                await (self._connections.outage if error.temporary else refused).pause(error)
                continue
            refused.over()
            if job_id is not None:
                self._report(name)

    async def _poll(self, name: str) -> None:
        length: Any = self._connections.control.llen
        while True:
            await self._wanted[name].wait()
            with translated():
                waiting = await length(name)
            if waiting:
                self._report(name)
            else:
                await asyncio.sleep(EMBEDDED_POLL)

    def _report(self, name: str) -> None:
        self._wanted[name].clear()
        self._seen.set()

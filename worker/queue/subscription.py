"""rq's command channel of one worker, subscribed for as long as the worker lives."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, NoReturn

from adapters.redis_outage import Outage
from adapters.redis_server import Connections, RedisError, RedisUnavailable, translated
from worker.cancellation import end_tasks
from worker.queue import keys
from worker.queue.command import Message, parse_message

logger = logging.getLogger(__name__)

# Seconds without a message after which the connection is proved alive by a PING; as long again without any answer, and
# it is taken for dropped by something on the way: a socket alone would never notice.
IDLE_SECONDS: Final = 15.0


class Subscription:
    """Calls `receive` for each message of the worker's channel.

    Publishing is fire and forget: what is sent while the connection is down is lost. dynapod's own requests therefore
    leave a durable flag too (`wire.stop_key`), which `JobQueue` looks for.
    """

    def __init__(self, connections: Connections, worker: str, receive: Callable[[Message], None]) -> None:
        self._connections = connections
        self._channel = keys.command_channel(worker)
        self._receive = receive
        self._subscribed = asyncio.Event()
        self._refused = Outage("the command channel is not heard; requests to stop are found in Redis, seconds later")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe, and return once the server has confirmed it or the first try has failed."""
        self._task = asyncio.create_task(self._run(), name="commands")
        await self._subscribed.wait()

    async def aclose(self) -> None:
        """Unsubscribe."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        while True:
            pubsub: Any = self._connections.blocking.pubsub()
            try:
                with translated():
                    await self._listen(pubsub)
            except RedisError as error:
                failure = error
            finally:
                self._subscribed.set()
                await pubsub.aclose()
            await (self._connections.outage if failure.temporary else self._refused).pause(failure)

    async def _listen(self, pubsub: Any) -> NoReturn:  # noqa: ANN401 - redis-py's PubSub is untyped
        await pubsub.subscribe(self._channel)
        asked = False
        while True:
            message = await pubsub.get_message(timeout=IDLE_SECONDS)
            if message is None:
                if asked:
                    raise RedisUnavailable(f"no answer to a PING on the command channel for {IDLE_SECONDS:g} s")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "subscribe":
                self._refused.over()
                self._connections.outage.over()
                self._subscribed.set()
            elif message["type"] == "message":
                self._deliver(message["data"])

    def _deliver(self, data: object) -> None:
        message = parse_message(data)
        if message is None:
            logger.warning("ignored on the command channel: %.200r", data, extra={"action": "command-ignored"})
        else:
            self._receive(message)

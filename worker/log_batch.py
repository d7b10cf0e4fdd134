"""Redis commands of all log writers of a worker, many to a round trip.

Thousands of containers write their logs at the same time. With a connection each they would exhaust the pool, and the
lease could not be renewed behind them. So their commands gather while a batch is under way, and for `GATHER_S` after
it was sent, and go out together as the next one: no added latency when there is little to do, one connection in all.
"""

import asyncio
from typing import Any, Final

from adapters.redis_server import AsyncClient, RedisUnavailable, translate, translated
from worker.pace import Pace

# Bytes of one round trip at most, so that a log of megabytes does not hold up a line.
BATCH_BYTES: Final = 4 * 1024 * 1024
# Between two round trips: at 40 jobs a second, each of them is one of three jobs.
GATHER_S: Final = 0.025

Word = str | bytes | int


class LogBatch:
    """Executes commands in the order in which they are asked for; each answers its own caller."""

    def __init__(self, connection: AsyncClient) -> None:
        self._redis = connection
        self.backlog = 0  # bytes that all writers hold: stored in Redis, not in the object store yet
        self._waiting: list[tuple[tuple[Word, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._pace = Pace(GATHER_S)

    async def execute(self, *command: Word) -> Any:  # noqa: ANN401 - whatever Redis answers
        """One command.

        Raises:
            RedisUnavailable: no answer; the command may have taken effect, or not.
            RedisRefused: Redis refused this command; others of its batch are not affected.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="log batch")
        return await answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                await self._pace.keep()
                await self._send_batch(self._take())
        finally:
            self._sender = None
            for _, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()

    def _take(self) -> list[tuple[tuple[Word, ...], asyncio.Future[Any]]]:
        size = count = 0
        for command, _ in self._waiting:
            size += sum(len(word) for word in command if isinstance(word, str | bytes))
            if count and size > BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _send_batch(self, batch: list[tuple[tuple[Word, ...], asyncio.Future[Any]]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for command, _ in batch:
            pipeline.execute_command(*command)
        try:
            with translated():
                results: list[Any] = await pipeline.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001 - whatever it was, the callers must not wait for ever
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(RedisUnavailable(f"{type(error).__name__}: {error}"))
            return
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(translate(result))  # type: ignore[arg-type]  # as in `Committer`: redis-py's only
            else:
                answer.set_result(result)

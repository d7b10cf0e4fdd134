"""Follows one container's log from its beginning, or from where another worker left it, to its very end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from adapters.kubernetes_api import ApiError
from adapters.redis_server import RedisUnavailable
from runner_spec.log_cursor import LogResumer
from worker.earlier_logs import ROTATED, EarlierLogs, LogSource, Restarts
from worker.log_intake import LogIntake, LogTooLongError, LogUnavailableError
from worker.log_writer import LogFencedError, LogWriter
from worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

Secrets = Callable[[], Awaitable[list[bytes] | None]]

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ReadLog:
    """What is remembered of a log that was complete: it has to be read anew where Redis has forgotten that it was.

    `size` bytes of it were stored; `ended_cleanly` and `restarts` as its follower knew them at the end.
    """

    size: int
    ended_cleanly: bool
    restarts: Restarts


class LogFollower:
    """Streams a container's log into its writer.

    A stream that ends proves nothing: it may have been cut. The log is complete when a stream that was opened after
    the container's end (`container_ended`) has reached its own end.

    A sidecar that crashes is started again, with a new log: the kubelet then serves that one, and the one before it as
    its `previous`. What was not read of the earlier log is read, or declared missing, before the new one goes on: see
    `EarlierLogs`.

    Args:
        source: where the log comes from.
        writer: where it goes.
        pod: the pod's name.
        container: the container's name.
        secrets: asks for the values to hide; None when there is nothing to hide. An answer of None means that they
            are not known: then nothing is stored, and that is declared.
        limit: bytes to store at most; the rest is declared missing.
        metrics: where bytes and gaps are counted.
        may_restart: whether the kubelet starts the container again when it ends.
        before: what another follower of this worker has known of the log.
    """

    # A worker holds as many as containers run: 20,000 and more.
    __slots__ = (
        "_ask_secrets",
        "_backoff",
        "_earlier",
        "_ended",
        "_ended_cleanly",
        "_has_news",
        "_intake",
        "_is_open",
        "_pod",
        "_restarts",
        "_sleep",
        "_source",
        "_stored",
        "_writer",
        "container",
        "waits_for_redis",
    )

    def __init__(
        self,
        source: LogSource,
        writer: LogWriter,
        pod: str,
        container: str,
        *,
        secrets: Secrets | None,
        limit: int,
        metrics: WorkerMetrics,
        may_restart: bool = False,
        before: ReadLog | None = None,
    ) -> None:
        self._source = source
        self._writer = writer
        self._pod = pod
        self.container = container
        self._ask_secrets = secrets
        self._intake = LogIntake(writer, limit, metrics)
        self._earlier = EarlierLogs(source, self._intake, pod, container) if may_restart else None
        self._restarts = Restarts()
        self._is_open = False  # the writer, and what to hide is known
        self._stored = 0  # bytes that were stored before this follower came
        self._ended = False
        self._has_news = False  # the container's status has changed: do not wait longer
        self._sleep: asyncio.Future[None] | None = None
        self._backoff = BACKOFF_FIRST_S
        # The last followed stream ended by itself, unbroken, and nothing is known of another start since. The kubelet
        # ends a stream only after the container's end.
        self._ended_cleanly = False
        self.waits_for_redis = False
        if before is not None:
            self._stored, self._ended_cleanly, self._restarts = before.size, before.ended_cleanly, before.restarts

    @property
    def bytes_read(self) -> int:
        """Of the log, by this follower."""
        return self._intake.bytes_read

    @property
    def read_log(self) -> ReadLog:
        """What to remember of it once it is complete."""
        return ReadLog(self._writer.entry.size, self._ended_cleanly, self._restarts)

    @property
    def store_trouble(self) -> str:
        """Why the object store takes nothing more of this log; nothing when it does."""
        return self._writer.store_trouble

    def container_ended(self) -> None:
        """The container's status says that it has terminated: what the log holds now is all."""
        self._ended = True
        self._tell()

    def container_restarted(self, times: int, *, waits: bool = False) -> None:
        """The container's status says that it was started again, this often so far; and `waits` for the next time."""
        last = self._restarts
        # The first restart follows the crash at once: a stream may be of either start, and `_copy` looks at both.
        read = last.times if self._ended_cleanly and last.times else last.read
        self._restarts = Restarts(max(times, last.times), waits, read)
        if times > last.times:
            self._ended_cleanly = False
            # At once: when it is started again once more, the kubelet forgets the log before this one.
            self._backoff = BACKOFF_FIRST_S
            self._tell()

    async def run(self) -> None:
        """Until the log is complete, whoever completed it.

        Cancel it to give up; then say so with `abandon`.
        """
        self._is_open = False
        try:
            while not await self._advance():
                await self._pause()
        finally:
            self._writer.let_go()

    async def _advance(self) -> bool:
        """One stream, or what stands in its way; true when the log is complete."""
        try:
            return await self._follow()
        except LogFencedError as error:
            # Another worker, or an own write that had been given up for lost and took effect after all. Either way
            # the place to go on from is known again, and nothing can be stored twice. If the job is another
            # worker's now, the queue says so and this follower is cancelled.
            log.info("log was written to", extra={"action": "log_fenced", "log": str(error)})
        except RedisUnavailable as error:
            # Once per outage: a worker may have a thousand logs, and the heartbeat goes on telling.
            level = logging.DEBUG if self.waits_for_redis else logging.WARNING
            log.log(level, "log waits for Redis: %s", error, extra={"action": "redis_away", "pod": self._pod})
            self.waits_for_redis = True
        self._is_open = False
        return False

    async def _follow(self) -> bool:
        if not self._is_open:
            await self._open()
            if self._writer.entry.complete:
                return True
            self._is_open = await self._know_secrets()
        if self._is_open and not await self._once():
            return False
        await self._writer.close()
        return True

    async def _open(self) -> None:
        before = max(self._writer.entry.size, self._stored)
        await self._writer.open()
        self._stored = 0
        if self._writer.entry.size < before:
            self._ended_cleanly = False  # Redis has forgotten what was read: it must be read again, or declared missing
        self.waits_for_redis = False

    async def abandon(self, why: str) -> None:
        """Declare what could not be read as missing, and close the log; waits for Redis as long as it takes."""
        try:
            await self._abandon(why)
        finally:
            self._writer.let_go()

    async def _abandon(self, why: str) -> None:
        while True:
            try:
                await self._writer.open()
                if not self._writer.entry.complete:
                    await self._intake.gap(why)
                    await self._writer.close()
            except LogFencedError as error:
                log.info("log was written to", extra={"action": "log_fenced", "log": str(error)})
            except RedisUnavailable as error:
                log.warning("log waits for Redis: %s", error, extra={"action": "redis_away", "pod": self._pod})
            else:
                return
            await self._pause()

    async def _know_secrets(self) -> bool:
        if self._ask_secrets is None:
            return True
        values = await self._ask_secrets()
        if values is None:
            await self._intake.gap("this log is withheld: the secrets to hide in it are not known")
            return False
        self._intake.secrets = values
        return True

    async def _once(self) -> bool:
        """One stream to its end; true when the log is complete."""
        ended, restarts, read = self._ended, self._restarts, self._intake.bytes_read
        self._has_news = False
        try:
            await self._copy(restarts, last=ended)
        except ApiError as error:
            gone = error.missing or isinstance(error, LogUnavailableError)
            if gone and ended:
                if not self._was_read_to_its_end():  # else it was removed right after its end, by a cancellation say
                    what = "the pod was gone" if error.missing else "the node had removed the container"
                    await self._intake.gap(f"{what} before the end of this log could be confirmed")
                return True
            self._ended_cleanly = False
            log.warning(
                "log stream broke: %s", error, extra={"action": "log_broken", "pod": self._pod, "status": error.status}
            )
        except LogTooLongError:
            await self._intake.gap(
                f"this log is longer than the limit of {self._intake.limit} bytes: the rest is not stored"
            )
            return True
        else:
            self._ended_cleanly = restarts.times == self._restarts.times
            if ended:
                return True
            # The kubelet ends the stream when the container ends, often before the status says so.
        if self._intake.bytes_read > read:
            self._backoff = BACKOFF_FIRST_S
        return False

    def _was_read_to_its_end(self) -> bool:
        """Whether a stream of the last start's log that is known of ended by itself, as it does when all was sent."""
        starts = self._writer.entry.starts
        in_last = starts is not None and starts.at >= max(self._restarts.times, starts.caught_up)
        return self._ended_cleanly or (in_last and starts is not None and starts.ended)

    async def _copy(self, restarts: Restarts, *, last: bool) -> None:
        """A stream to its end; `last`: all of the log is there, and what is not will not come.

        Raises:
            ApiError, LogTooLongError: see `LogIntake.take`.
        """
        if self._earlier is not None:
            await self._earlier.catch_up(restarts)
        cursor = self._writer.entry.cursor

        async def begin(resumer: LogResumer, fresh: bytes) -> bool:
            if resumer.gap or not cursor.time:
                await self._cross(restarts, fresh, rotated=resumer.gap)
            return True

        stream = self._source.stream_log(self._pod, self.container, since_time=cursor.since_time, follow=not last)
        resumer = await self._intake.take(stream, begin)
        if last and resumer.missing:
            await self._cross(restarts, b"", rotated=True)
        elif self._earlier is not None and not last:
            await self._earlier.look_behind(restarts)
        starts = self._writer.entry.starts
        if starts is not None and self._writer.entry.cursor.time and not resumer.missing and not last:
            await self._writer.mark(replace(starts, ended=True))

    async def _cross(self, restarts: Restarts, fresh: bytes, *, rotated: bool) -> None:
        """The stream does not contain the place where the stored log ends: find or declare what is missing.

        `restarts` is what was known of them when the stream was opened: it may be an older start's than those since.
        """
        if self._earlier is not None:
            await self._earlier.cross(restarts, fresh)
        elif rotated:
            await self._intake.end_line()
            await self._intake.gap(ROTATED)

    async def _pause(self) -> None:
        """Wait a little, less when the container's status changes meanwhile."""
        delay, self._backoff = self._backoff, min(self._backoff * 2, BACKOFF_MAX_S)
        if self._ended:
            await asyncio.sleep(delay)
            return
        if not self._has_news:
            loop = asyncio.get_running_loop()
            # Thousands wait so: `asyncio.Event` and `wait_for` would take a task and 2 KB for each.
            self._sleep = loop.create_future()
            timer = loop.call_later(delay, self._wake)
            try:
                await self._sleep
            finally:
                timer.cancel()
                self._sleep = None
        self._has_news = False

    def _tell(self) -> None:
        self._has_news = True
        self._wake()

    def _wake(self) -> None:
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

"""Follows one container's log from its beginning, or from where another worker left it, to its very end."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, Protocol

from adapters.kubernetes_api import ApiError
from adapters.redis_server import RedisUnavailable
from runner_spec.log_cursor import LogCursor, LogResumer
from runner_spec.masking import Masker
from worker.log_writer import LogFencedError, LogWriter
from worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

Secrets = Callable[[], Awaitable[list[bytes] | None]]

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_ROTATED: Final = "lines are missing here: Kubernetes had rotated the log before it was read"


class LogUnavailableError(ApiError):
    """The kubelet answered with a remark of its own instead of the log: a container that it has removed, say."""


class LogSource(Protocol):
    """What the Kubernetes adapter offers."""

    def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """See `adapters.kubernetes_api.KubernetesApi.stream_log`."""


class LogFollower:
    """Streams a container's log into its writer.

    A stream that ends proves nothing: it may have been cut. The log is complete when a stream that was opened after
    the container's end (`container_ended`) has reached its own end.

    A sidecar that crashes is started again, with a new log: the kubelet then serves that one, and the one before it as
    its `previous`. What was not read of the earlier log is read, or declared missing, before the new one goes on.

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
    """

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
    ) -> None:
        self._source = source
        self._writer = writer
        self._pod = pod
        self.container = container
        self._ask_secrets = secrets
        self._secrets: list[bytes] = []
        self._limit = limit
        self._metrics = metrics
        self._may_restart = may_restart
        self._restarts = 0
        self._ended = asyncio.Event()
        self._backoff = BACKOFF_FIRST_S
        # The last followed stream ended by itself, unbroken. The kubelet does that only after the container's end.
        self._ended_cleanly = False
        self.bytes_read = 0
        self.waits_for_redis = False

    def container_ended(self) -> None:
        """The container's status says that it has terminated: what the log holds now is all."""
        self._ended.set()

    def container_restarted(self, times: int) -> None:
        """The container's status says that it was started again, this often so far."""
        self._restarts = times

    async def run(self) -> None:
        """Until the log is complete, whoever completed it.

        Cancel it to give up; then say so with `abandon`.
        """
        while True:
            try:
                await self._follow()
            except LogFencedError as error:
                # Another worker, or an own write that had been given up for lost and took effect after all. Either way
                # the place to go on from is known again, and nothing can be stored twice. If the job is another
                # worker's now, the queue says so and this follower is cancelled.
                log.info("log was written to", extra={"action": "log_fenced", "log": str(error)})
                await self._pause()
            except RedisUnavailable as error:
                log.warning("log waits for Redis: %s", error, extra={"action": "redis_away", "pod": self._pod})
                self.waits_for_redis = True
                await self._pause()
            else:
                return

    async def _follow(self) -> None:
        await self._writer.open()
        self.waits_for_redis = False
        if self._writer.entry.complete:
            return
        if await self._know_secrets():
            while not await self._once():
                pass
        await self._writer.close()

    async def abandon(self, why: str) -> None:
        """Declare what could not be read as missing, and close the log; waits for Redis as long as it takes."""
        while True:
            try:
                await self._writer.open()
                if not self._writer.entry.complete:
                    await self._gap(why)
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
            await self._gap("this log is withheld: the secrets to hide in it are not known")
            return False
        self._secrets = values
        return True

    async def _gap(self, why: str) -> None:
        self._metrics.log_gaps.inc()
        await self._writer.gap(why)

    async def _once(self) -> bool:
        """One stream to its end; true when the log is complete."""
        ended = self._ended.is_set()
        try:
            within_limit = await self._copy(follow=not ended)
        except ApiError as error:
            gone = error.missing or isinstance(error, LogUnavailableError)
            if gone and ended:
                if not self._ended_cleanly:  # else it was deleted right after its end, by a cancellation for instance
                    what = "the pod was gone" if error.missing else "the node had removed the container"
                    await self._gap(f"{what} before the end of this log could be confirmed")
                return True
            self._ended_cleanly = False
            log.warning(
                "log stream broke: %s", error, extra={"action": "log_broken", "pod": self._pod, "status": error.status}
            )
            await self._pause()
            return False
        if not within_limit:
            await self._gap(f"this log is longer than the limit of {self._limit} bytes: the rest is not stored")
            return True
        self._ended_cleanly = True
        if not ended:
            # The kubelet ends the stream when the container ends, often before the status says so.
            await self._pause()
        return ended

    async def _copy(self, *, follow: bool) -> bool:
        """Copy a stream into the writer; false when the limit was reached."""
        if self._restarts and not self._writer.entry.cursor.time:
            await self._catch_up()
        cursor = self._writer.entry.cursor
        resumer, masker = LogResumer(cursor), Masker(self._secrets)
        declared = False
        stream = self._source.stream_log(self._pod, self.container, since_time=cursor.since_time, follow=follow)
        async with aclosing(stream):
            async for chunk in stream:
                fresh = resumer.feed(chunk)
                if resumer.gap and not declared:
                    declared = True
                    if not self._may_restart:
                        await self._gap(_ROTATED)
                    elif await self._read_previous(cursor):
                        # The line that was cut is complete now: what came first of this log was its newline.
                        fresh = fresh.removeprefix(b"\n") if cursor.partial >= 0 else fresh
                if fresh := masker.feed(fresh):
                    await self._append(fresh, resumer.cursor.behind(masker.held))
                if self._writer.entry.size > self._limit:
                    return False
        if rest := masker.feed(resumer.finish()) + masker.finish():
            await self._writer.append(rest, resumer.cursor)
        if resumer.remark:
            raise LogUnavailableError(0, "LogUnavailable", resumer.remark)
        return True

    async def _append(self, fresh: bytes, cursor: LogCursor) -> None:
        self._backoff = BACKOFF_FIRST_S
        self.bytes_read += len(fresh)
        self._metrics.log_bytes.inc(len(fresh))
        await self._writer.append(fresh, cursor)

    async def _catch_up(self) -> None:
        """Nothing was read of this log before the container was started again: begin with what is left of it."""
        if self._restarts > 1:
            await self._gap(f"the logs of the first {self._restarts - 1} starts of this container are lost")
        await self._read_previous(LogCursor())

    async def _read_previous(self, cursor: LogCursor) -> bool:
        """From the cursor to the end of the log before the container's last start; false when it is not there."""
        resumer, masker = LogResumer(cursor), Masker(self._secrets)
        stream = self._source.stream_log(
            self._pod, self.container, since_time=cursor.since_time, follow=False, previous=True
        )
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    fresh = masker.feed(resumer.feed(chunk))
                    if resumer.gap:
                        await self._gap(_ROTATED)
                        resumer.gap = False
                    if fresh:
                        await self._append(fresh, resumer.cursor.behind(masker.held))
            if rest := masker.feed(resumer.finish()) + masker.finish():
                await self._append(rest, resumer.cursor)
            if resumer.remark:
                raise LogUnavailableError(_NOT_FOUND, "LogUnavailable", resumer.remark)
        except ApiError as error:
            if error.status not in (_BAD_REQUEST, _NOT_FOUND):
                raise
            await self._gap("the container was started again, and the end of its log before that is lost")
            return False
        return True

    async def _pause(self) -> None:
        """Wait a little, less when the container's end is reported meanwhile."""
        delay, self._backoff = self._backoff, min(self._backoff * 2, BACKOFF_MAX_S)
        if self._ended.is_set():
            await asyncio.sleep(delay)
            return
        try:
            await asyncio.wait_for(self._ended.wait(), delay)
        except TimeoutError:
            return

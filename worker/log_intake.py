"""The way of a container's log from Kubernetes' streams into its writer: nothing twice, masked, counted, limited."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from adapters.kubernetes_api import ApiError
from runner_spec.log_cursor import LogCursor, LogResumer
from runner_spec.masking import Masker
from worker.log_store import LogEntry, LogStarts
from worker.log_writer import LogWriter
from worker.metrics import WorkerMetrics

# Told of the first new bytes of a stream, before they are stored; false: leave them, and the rest of the stream.
Begin = Callable[[LogResumer, bytes], Awaitable[bool]]


class LogUnavailableError(ApiError):
    """The kubelet answered with a remark of its own instead of the log: a container that it has removed, say."""


class LogTooLongError(Exception):
    """More than the limit is stored."""


class LogIntake:
    """Takes in one stream after the other, each resumed at the place where the last one was left.

    Args:
        writer: where the bytes go.
        limit: bytes to store at most.
        metrics: where bytes and gaps are counted.
    """

    __slots__ = ("_metrics", "bytes_read", "limit", "reading", "secrets", "writer")

    def __init__(self, writer: LogWriter, limit: int, metrics: WorkerMetrics) -> None:
        self.writer = writer
        self.limit = limit
        self._metrics = metrics
        self.secrets: Sequence[bytes] = ()  # the values to hide
        self.reading: int | None = None  # which start's log is taken in (0: the first); None: there is only one
        self.bytes_read = 0

    @property
    def entry(self) -> LogEntry:
        """What is stored by now."""
        return self.writer.entry

    async def take(self, stream: AsyncGenerator[bytes, None], begin: Begin) -> LogResumer:
        """A stream that was opened at the entry's cursor, to its end.

        Raises:
            ApiError: the stream broke.
            LogUnavailableError: the kubelet did not have the log.
            LogTooLongError: the limit is exceeded.
        """
        resumer, masker = LogResumer(self.entry.cursor), Masker(self.secrets)
        begun = False
        async with aclosing(stream):
            async for chunk in stream:
                fresh = resumer.feed(chunk)
                if fresh and not begun and not await begin(resumer, fresh):
                    return resumer
                begun = begun or bool(fresh)
                if masked := masker.feed(fresh):
                    await self._append(masked, resumer.cursor.behind(masker.held))
        rest = resumer.finish()
        if rest and not begun and not await begin(resumer, rest):
            return resumer
        if masked := masker.feed(rest) + masker.finish():
            await self._append(masked, resumer.cursor)
        if resumer.remark:
            raise LogUnavailableError(0, "LogUnavailable", resumer.remark)
        return resumer

    async def gap(self, why: str) -> None:
        """Declare that something is missing here; once, however often it is found out."""
        if await self.writer.gap(why):
            self._metrics.log_gaps.inc()

    async def end_line(self) -> None:
        """End the line that was left in its middle: what comes next is another one, or what is said of a gap."""
        cursor, starts = self.entry.cursor, self.entry.starts
        if cursor.partial >= 0:
            await self.writer.append(b"\n", LogCursor(cursor.time, cursor.repeats + 1), starts)

    async def _append(self, fresh: bytes, cursor: LogCursor) -> None:
        self.bytes_read += len(fresh)
        self._metrics.log_bytes.inc(len(fresh))
        await self.writer.append(fresh, cursor, None if self.reading is None else self._within(self.reading))
        if self.entry.size > self.limit:
            raise LogTooLongError

    def _within(self, start: int) -> LogStarts:
        return replace(self.entry.starts or LogStarts(), at=start, ended=False)

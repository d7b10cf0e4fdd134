"""What a container that was started again had printed before: read from what the kubelet still has, or declared lost.

Each start of a container has a log of its own. The kubelet serves two: that of the last start, and as `previous` that
of the one before it (of the last one once more, while the container waits to be started again). It does not say which
start a log is of, and the container's status lags behind. So logs are told apart by their content: the place where the
stored log ends is in one of them, or in none that is left.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from adapters.kubernetes_api import ApiError
from runner_spec.log_cursor import LogCursor, LogResumer, time_key
from worker.log_intake import LogIntake, LogUnavailableError
from worker.log_store import LogStarts

log = logging.getLogger(__name__)

# So often `previous` may be answered with a temporary error before what it holds is declared lost: with the pauses
# between them some six seconds, longer than a kubelet's connection takes to come back.
PREVIOUS_TRIES: Final = 6
_BAD_REQUEST: Final = 400
ROTATED: Final = "lines are missing here: Kubernetes had rotated the log before it was read"
_CUT: Final = "lines are missing here: the log was rotated, or its container started again, before they were read"
_AGAIN: Final = "the container was started again, and the end of its log before that is lost"


class LogSource(Protocol):
    """What the Kubernetes adapter offers."""

    def stream_log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = True, previous: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """See `adapters.kubernetes_api.KubernetesApi.stream_log`."""


class Previous(Enum):
    """What the `previous` log turned out to be."""

    CONTAINS = "the place where the stored log ends"
    LATER = "all of it comes after that place"
    CURRENT = "it is the log of the last start"
    SILENT = "nothing in it comes after that place"
    ABSENT = "the kubelet does not have it"


@dataclass(frozen=True, slots=True)
class Restarts:
    """What the container's status says: how often it was started again, and whether it `waits` for the next time.

    `read` is the last start of which a stream ended by itself while the status told of no later one: also a log that
    holds nothing was read then (-1: none).
    """

    times: int = 0
    waits: bool = False
    read: int = -1


@dataclass(frozen=True, slots=True)
class Crossing:
    """From the start that the stored log ends in to the one that the kubelet serves now.

    `begun`: something of an earlier start, or of this one, is stored.
    """

    starts: LogStarts
    begun: bool
    known: Restarts

    @property
    def _next(self) -> int:
        """The first start of which nothing is stored yet."""
        return self.starts.at + (self.begun or self.starts.ended)

    def current(self, previous: Previous) -> int:
        """Which start the kubelet serves now, at least."""
        if previous is Previous.LATER or (previous is Previous.SILENT and not self._may_be_silent):
            return max(self._next + 1, self.known.times)
        if previous in (Previous.CONTAINS, Previous.SILENT):
            return max(self.starts.at + 1, self.known.times)
        return max(self._next, self.known.times)

    @property
    def _may_be_silent(self) -> bool:
        """Whether the start `starts.at` may be one that printed nothing: then a silent log can be its own."""
        return not self.begun or self.starts.at < self.starts.caught_up

    def loss(self, previous: Previous) -> str | None:
        """What cannot be read any more, as a sentence; None when nothing is lost."""
        if previous is Previous.CONTAINS:
            return None
        read = self.current(previous) - (previous in (Previous.LATER, Previous.SILENT))
        skipped = read - max(self._next, self.known.read + 1)
        if not self.begun or self.starts.ended:
            return lost_starts(skipped) if skipped > 0 else None
        if skipped > 0:
            return f"{_AGAIN}, with {_logs(skipped)} after it"
        return _AGAIN if self.known.times > self.starts.at else _CUT


def lost_starts(count: int) -> str:
    """Nothing is known of the logs of this many starts."""
    return f"the container was started again before {_logs(count)} could be read"


def _logs(count: int) -> str:
    return "the log of one of its starts" if count == 1 else f"the logs of {count} of its starts"


class EarlierLogs:
    """Brings the stored log of one container from one start to the next.

    Args:
        source: where logs come from.
        intake: where they go.
        pod: the pod's name.
        container: the container's name.
    """

    def __init__(self, source: LogSource, intake: LogIntake, pod: str, container: str) -> None:
        self._source = source
        self._intake = intake
        self._pod, self._container = pod, container
        self._failures = 0  # of `previous`, in a row
        self._failed_at = 0  # the restarts known then

    def _starts(self, restarts: int) -> LogStarts:
        """As recorded. A worker of an earlier version did not: then the last start that may have come before."""
        entry = self._intake.entry
        if entry.starts is not None:
            return entry.starts
        return LogStarts(at=max(0, restarts - 1)) if entry.cursor.time else LogStarts()

    async def catch_up(self, known: Restarts) -> None:
        """Nothing of the starts before the last one is left to be read or declared; looked at once for each restart.

        Raises:
            ApiError: not now; another try may succeed.
        """
        restarts = known.times
        starts, entry = self._starts(restarts), self._intake.entry
        self._intake.reading = starts.at
        if restarts <= starts.caught_up:
            return
        within, before = await self._peek()
        if within:
            # The stored log ran ahead of the container's status, and as it turns out missed a start meanwhile.
            if entry.starts is not None and (missed := restarts - max(starts.at, known.read + 1)) > 0:
                await self._intake.gap(f"{lost_starts(missed)}: it would stand before this")
            await self._intake.writer.mark(replace(starts, at=max(starts.at, restarts), caught_up=restarts))
        else:
            start = await self._bridge(starts, known, before)
            await self._intake.writer.mark(LogStarts(start - 1, ended=True, caught_up=start))

    async def cross(self, known: Restarts, before: bytes) -> None:
        """The kubelet serves a log without the place where the stored one ends: what was between, and on to that one.

        `before` is the first line of it that is not stored yet, or nothing.

        Raises:
            ApiError: not now; another try may succeed.
        """
        intake, starts = self._intake, self._starts(known.times)
        self._intake.reading = await self._bridge(starts, known, before, rotated=True)
        await intake.end_line()
        if not before:
            await intake.writer.mark(replace(intake.entry.starts or starts, ended=True))

    async def look_behind(self, known: Restarts) -> None:
        """The first log that was read holds nothing: was it that of the first start?

        The kubelet starts a container again at once when it crashes for the first time, before the status says so.

        Raises:
            ApiError: not now; another try may succeed.
        """
        if self._intake.entry.cursor.time or self._intake.entry.starts is not None:
            return
        try:
            await self.cross(known, b"")
        except ApiError as error:
            if not error.missing:  # with the pod, the stream had come to its end: nothing was started after it
                raise

    async def _peek(self) -> tuple[bool, bytes]:
        """Whether the stored log ends within the last start's one; if not, the first new bytes of that, if any."""
        cursor = self._intake.entry.cursor
        resumer, fresh = LogResumer(cursor), b""
        async with aclosing(self._open(cursor, previous=False)) as stream:
            async for chunk in stream:
                if fresh := resumer.feed(chunk):
                    break
            else:
                fresh = resumer.finish()
        if cursor.time and not resumer.gap and not resumer.missing:
            return True, b""
        return False, fresh

    async def _bridge(self, starts: LogStarts, known: Restarts, before: bytes, *, rotated: bool = False) -> int:
        """Take in `previous`; returns which start the kubelet serves now.

        `rotated`: the last start's log was seen to go on without the place where the stored one ends.
        """
        cursor = self._intake.entry.cursor
        crossing = Crossing(starts, bool(cursor.time), known)
        found = await self._read(cursor, before, crossing)
        if found is Previous.SILENT and known.waits and not before:
            found = Previous.CURRENT  # both logs are the last start's, and it printed nothing
        if found is Previous.SILENT and rotated and cursor.time and await self._precedes(cursor):
            await self._declare(ROTATED)
            return starts.at
        if found is not Previous.LATER:  # else it is declared already, before the lines that came after it
            await self._declare(crossing.loss(found))
        return crossing.current(found)

    async def _read(self, cursor: LogCursor, before: bytes, crossing: Crossing) -> Previous:
        found = Previous.SILENT

        async def begin(resumer: LogResumer, fresh: bytes) -> bool:
            nonlocal found
            if cursor.time and not resumer.gap:
                self._intake.reading = crossing.current(Previous.CONTAINS) - 1
                return True
            found = Previous.CURRENT if before and _time(fresh) >= _time(before) else Previous.LATER
            if found is Previous.LATER:
                await self._declare(crossing.loss(found))
                self._intake.reading = crossing.current(found) - 1
            return found is Previous.LATER

        try:
            resumer = await self._intake.take(self._open(cursor, previous=True), begin)
        except ApiError as error:
            self._raise_unless_final(error, crossing.known.times)
            return Previous.ABSENT
        self._failures = 0
        contains = bool(cursor.time) and not resumer.missing and not resumer.gap
        return Previous.CONTAINS if contains else found

    async def _precedes(self, cursor: LogCursor) -> bool:
        """Whether `previous` has lines, and the first of them comes before the cursor: so the cursor is behind it."""
        resumer, fresh = LogResumer(), b""
        async with aclosing(self._open(LogCursor(), previous=True)) as stream:
            async for chunk in stream:
                if fresh := resumer.feed(chunk):
                    break
            else:
                fresh = resumer.finish()
        return bool(fresh) and _time(fresh) < time_key(cursor.time)

    async def _declare(self, why: str | None) -> None:
        if why is not None:
            await self._intake.end_line()
            await self._intake.gap(why)

    def _raise_unless_final(self, error: ApiError, restarts: int) -> None:
        """A temporary error is raised, so that it is tried again, but not for ever."""
        if error.status == _BAD_REQUEST or isinstance(error, LogUnavailableError):
            # The second: of a container that ends at once, the status still names the one before it as `previous` when
            # the kubelet has removed that already. Soon `previous` will be the last start's own log.
            return
        if error.missing:  # the whole pod: whoever reads the current log learns of it, too
            raise error
        if restarts > self._failed_at:
            self._failures, self._failed_at = 0, restarts
        self._failures += 1
        if self._failures < PREVIOUS_TRIES:
            raise error
        extra = {"action": "previous_log_lost", "pod": self._pod, "container": self._container}
        log.warning("previous log not read: %s", error, extra=extra)

    def _open(self, cursor: LogCursor, *, previous: bool) -> AsyncGenerator[bytes, None]:
        return self._source.stream_log(
            self._pod, self._container, since_time=cursor.since_time, follow=False, previous=previous
        )


def _time(line: bytes) -> str:
    return time_key(line.split(b" ", 1)[0].decode(errors="replace"))

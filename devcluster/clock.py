"""Times as the API writes them: RFC 3339 in UTC, whole seconds."""

import time
from datetime import UTC, datetime
from functools import lru_cache


def timestamp(unix_seconds: float | None = None) -> str:
    """`2026-01-01T00:00:00Z`; now when no time is given."""
    return _format(int(time.time() if unix_seconds is None else unix_seconds))


@lru_cache(maxsize=256)
def _format(seconds: int) -> str:
    # Cached: a status holds a dozen times, most of them of the same few seconds.
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_timestamp(text: str) -> float:
    """Unix seconds of an RFC 3339 time, fractions included.

    Raises:
        ValueError: when the text is no RFC 3339 time with a zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or "T" not in text.upper():
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": no time zone')
    return moment.astimezone(UTC).timestamp()

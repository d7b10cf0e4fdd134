"""WATCH: changes as JSON lines, from a resourceVersion on.

A watcher keeps no queue of its own: it remembers how far it has come in the collection's history, and is woken by
writes. A client that reads too slowly falls out of the history and gets 410 Expired, as from a real watch cache.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from devcluster.listing import ListOptions, boolean, integer, list_options
from devcluster.resources import Resource
from devcluster.status_error import Cause, StatusError, expired, invalid, refused, unsupported
from devcluster.store import Change, Collection, Version

# min-request-timeout: without timeoutSeconds the apiserver ends a watch after 30 to 60 minutes.
_MIN_TIMEOUT_SECONDS: Final = 1800
# The watch cache sends a bookmark about once a minute, and one 2 seconds before the timeout, but none to a watch of
# less than about 4 seconds (measured on 1.34).
BOOKMARK_SECONDS: Final = 60.0
_LAST_BOOKMARK_SECONDS: Final = 2.0
_SHORT_WATCH_SECONDS: Final = 4.0
_NOT_OLDER: Final = "NotOlderThan"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """A watch's query. `initial`: None (not asked), or whether to begin with the current state (WatchList)."""

    listing: ListOptions
    bookmarks: bool = False
    timeout: float = _MIN_TIMEOUT_SECONDS
    initial: bool | None = None


def watch_options(resource: Resource, namespace: str | None, query: Mapping[str, str]) -> WatchOptions:
    """Read a query.

    Raises:
        StatusError: 400 or 422 for a malformed one.
    """
    listing = list_options(resource, namespace, query)
    initial = boolean(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    _check(listing, initial)
    jittered = _MIN_TIMEOUT_SECONDS * (1 + random.random())  # noqa: S311 - spreads reconnections, no secret
    timeout = integer(query, "timeoutSeconds") or jittered
    return WatchOptions(listing, boolean(query, "allowWatchBookmarks"), timeout, initial)


def _check(listing: ListOptions, initial: bool | None) -> None:  # noqa: FBT001 - three-valued
    match, path = listing.version_match, "resourceVersionMatch"
    problems: list[Cause] = []
    if initial is not None and match != _NOT_OLDER:
        problems.append(refused(path, f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER}"))
    if match and initial is None:
        problems.append(
            refused(path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        )
    if match and match != _NOT_OLDER:
        problems.append(unsupported(path, match, [_NOT_OLDER]))
    if match and listing.token:
        problems.append(refused(path, "resourceVersionMatch is forbidden when continue is provided"))
    if problems:
        raise invalid("ListOptions", "", problems, group="meta.k8s.io")


class Watch:
    """One client's watch of one collection."""

    def __init__(self, collection: Collection, options: WatchOptions, closing: asyncio.Event) -> None:
        self._collection = collection
        self._options = options
        self._closing = closing
        self._selector = options.listing.selector
        self._namespace = options.listing.namespace
        self._position = collection.revision

    async def lines(self) -> AsyncIterator[bytes]:
        """Batches of whole lines, until the timeout, an error event, or the cluster's end."""
        loop = asyncio.get_running_loop()
        options = self._options
        end = loop.time() + options.timeout
        asked = options.listing.resource_version
        if not asked or options.initial:
            yield b"".join(self._initial())
        elif asked < self._collection.oldest_watchable:
            yield _error(_too_old(asked, self._collection.oldest_watchable))
            return
        else:
            # A revision from the future is waited for, as by the watch cache.
            self._position = asked
        bookmark = loop.time() + BOOKMARK_SECONDS
        short = options.timeout < _SHORT_WATCH_SECONDS
        final_bookmark = float("inf") if short else end - _LAST_BOOKMARK_SECONDS
        while not self._closing.is_set():
            now = loop.time()
            if self._position < self._collection.oldest_followable:
                yield _error(_too_old(self._position, self._collection.oldest_followable))
                return
            if batch := self._batch():
                yield batch
                continue
            if now >= end:
                return
            due = min(bookmark, final_bookmark) if options.bookmarks else end
            if options.bookmarks and now >= due:
                yield self._bookmark()
                bookmark = now + BOOKMARK_SECONDS
                final_bookmark = final_bookmark if now < final_bookmark else float("inf")
                continue
            await self._collection.changed(min(due, end))

    def _initial(self) -> Iterator[bytes]:
        if self._options.initial is not False:
            for _, version in self._collection.sorted(self._namespace):
                if self._selector.matches(version.obj):
                    yield _line(b"ADDED", version)
        if self._options.initial and self._options.bookmarks:
            yield self._bookmark(end_of_initial=True)

    def _batch(self) -> bytes:
        lines = []
        for change in self._collection.since(self._position):
            self._position = change.revision
            if self._namespace in (None, change.key[0]) and (line := self._transition(change)):
                lines.append(line)
        return b"".join(lines)

    def _transition(self, change: Change) -> bytes | None:
        """What this watcher sees of a change: an object that no longer matches is gone for it, and vice versa."""
        new, old = change.new, change.old
        if self._selector.everything:
            return _line(change.type.encode(), new)
        before = old is not None and self._selector.matches(old.obj)
        after = change.type != "DELETED" and self._selector.matches(new.obj)
        if after:
            return _line(b"MODIFIED" if before else b"ADDED", new)
        if not before:
            return None
        if change.type == "DELETED":
            return _line(b"DELETED", new)
        assert old is not None
        metadata = {**old.obj["metadata"], "resourceVersion": str(change.revision)}
        return _line(b"DELETED", Version(old.resource, {**old.obj, "metadata": metadata}, old))

    def _bookmark(self, *, end_of_initial: bool = False) -> bytes:
        # Nothing was missed up to the store's newest revision, also if other resources wrote it.
        self._position = self._collection.revision
        metadata: dict[str, object] = {"resourceVersion": str(self._position)}
        if end_of_initial:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        kind = self._collection.resource.kind
        body: dict[str, object] = {"kind": kind, "apiVersion": "v1", "metadata": metadata}
        if kind == "Pod":
            body |= {"spec": {"containers": None}, "status": {}}
        return b'{"type":"BOOKMARK","object":%s}\n' % json.dumps(body, separators=(",", ":")).encode()


def _line(kind: bytes, version: Version) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind, version.json)


def _too_old(asked: int, oldest: int) -> StatusError:
    return expired(f"too old resource version: {asked} ({oldest})")


def _error(error: StatusError) -> bytes:
    return b'{"type":"ERROR","object":%s}\n' % json.dumps(error.as_status(), separators=(",", ":")).encode()

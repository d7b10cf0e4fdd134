"""What etcd and the watch cache are to the apiserver: objects, one resourceVersion counter, a bounded history.

Objects are immutable by convention: every write stores a new dictionary (parts may be shared with the old one), so a
reader may keep what it got and every version is serialised at most once, however many watchers there are.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from devcluster.resources import STORED, Object, Resource

Key = tuple[str, str]  # namespace (empty for cluster-scoped objects), name
EventType = Literal["ADDED", "MODIFIED", "DELETED"]
_Fragments = dict[tuple[int, str], tuple[Any, bytes]]
# Made once: json.dumps with arguments makes an encoder per call.
_to_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
DEFAULT_HISTORY: Final = 10_000  # events kept per resource; a watcher that is further behind gets 410 Expired


class Version:
    """One state of one object, serialised lazily and once.

    The JSON is kept in fragments (one per field, one per field of the metadata), and a fragment whose value is the very
    object that the previous state had is taken over. So a status write costs the encoding of the status, not of the
    spec, and a history full of versions of one pod holds its 200 KB plan annotation once.
    """

    __slots__ = ("_fragments", "_inherited", "obj", "resource")

    def __init__(self, resource: Resource, obj: Object, previous: "Version | None" = None) -> None:
        self.resource = resource
        self.obj = obj
        self._inherited: _Fragments = previous._fragments or {} if previous else {}  # noqa: SLF001 - its own class
        self._fragments: _Fragments | None = None

    @property
    def item(self) -> bytes:
        """JSON as in a list's `items`: without kind and apiVersion, as the apiserver writes typed lists."""
        if self._fragments is None:
            self._fragments = self._encode()
            self._inherited = {}
        metadata = b",".join(text for (level, _), (_, text) in self._fragments.items() if level)
        fields = [text for (level, _), (_, text) in self._fragments.items() if not level]
        return b'{"metadata":{%s}%s}' % (metadata, b"".join(b"," + text for text in fields))

    def _encode(self) -> "_Fragments":
        fragments: _Fragments = {}
        listed = [((1, name), value) for name, value in self.obj["metadata"].items()]
        listed += [((0, name), value) for name, value in self.obj.items() if name != "metadata"]
        for key, value in listed:
            known = self._inherited.get(key)
            if known is not None and known[0] is value:
                fragments[key] = known
            else:
                text = f'"{key[1]}":{_to_json(value)}'
                fragments[key] = (value, text.encode("utf-8", "surrogatepass"))
        return fragments

    @property
    def json(self) -> bytes:
        """JSON of the object on its own, with kind and apiVersion."""
        return b'{"kind":"%s","apiVersion":"v1",' % self.resource.kind.encode() + self.item[1:]


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `old` is None for a creation; for a deletion `new` is the last state under the deletion's version."""

    type: EventType
    revision: int
    key: Key
    new: Version
    old: Version | None


class Revisions:
    """The counter that all resources share, as etcd's revision.

    It starts at the clock's milliseconds: a resourceVersion remembered from an earlier life of this cluster is then
    old (410 Expired, clients list again) instead of in the future (clients would wait for it).
    """

    def __init__(self) -> None:
        self.current = time.time_ns() // 1_000_000

    def next(self) -> int:
        """The number of the next write."""
        self.current += 1
        return self.current


class Collection:
    """All objects of one resource and their recent history."""

    def __init__(self, resource: Resource, revisions: Revisions, history: int) -> None:
        self.resource = resource
        self._revisions = revisions
        self._objects: dict[Key, Version] = {}
        self._history: deque[Change] = deque(maxlen=history)
        self._forgotten = revisions.current  # newest revision of which no event is kept
        self._compacted = 0  # a watch may not start before this revision, whether or not it would miss anything
        self._waiters: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def oldest_watchable(self) -> int:
        """A watch may start after this revision or any later one."""
        return max(self._forgotten, self._compacted)

    @property
    def oldest_followable(self) -> int:
        """A watch that has come as far as this, or further, has missed nothing."""
        return self._forgotten

    @property
    def revision(self) -> int:
        """The newest revision of the whole store."""
        return self._revisions.current

    def get(self, key: Key) -> Version | None:
        """The current state, if the object exists."""
        return self._objects.get(key)

    def sorted(self, namespace: str | None) -> list[tuple[Key, Version]]:
        """Current objects in the order of etcd's keys; None means all namespaces."""
        return sorted((entry for entry in self._objects.items() if namespace in (None, entry[0][0])), key=_by_key)

    def sorted_at(self, namespace: str | None, revision: int) -> list[tuple[Key, Version]] | None:
        """Objects as they were at a past revision; None when that is no longer known."""
        if revision < self.oldest_watchable:
            return None
        past = dict(self._objects)
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            if change.old is None:
                past.pop(change.key, None)
            else:
                past[change.key] = change.old
        return sorted((entry for entry in past.items() if namespace in (None, entry[0][0])), key=_by_key)

    def create(self, key: Key, obj: Object) -> Version:
        """Store a new object; the caller has checked that the key is free."""
        assert key not in self._objects, key
        return self._write("ADDED", key, obj, None)

    def replace(self, key: Key, obj: Object) -> Version:
        """Store a new state of an existing object."""
        return self._write("MODIFIED", key, obj, self._objects[key])

    def remove(self, key: Key) -> Version:
        """Delete an object; its last state, under the deletion's revision."""
        old = self._objects[key]
        return self._write("DELETED", key, old.obj, old)

    def _write(self, kind: EventType, key: Key, obj: Object, old: Version | None) -> Version:
        revision = self._revisions.next()
        metadata = {**obj["metadata"], "resourceVersion": str(revision)}
        new = Version(self.resource, {**obj, "metadata": metadata}, old)
        if kind == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = new
        if len(self._history) == self._history.maxlen:
            self._forgotten = self._history[0].revision
        self._history.append(Change(kind, revision, key, new, old))
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return new

    def since(self, revision: int) -> Iterator[Change]:
        """Changes after a revision, oldest first; the caller has checked `oldest_watchable`."""
        # From the right: a watcher that keeps up costs as much as it has to see, not as much as is remembered.
        recent: list[Change] = []
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            recent.append(change)
        return reversed(recent)

    async def changed(self, deadline: float | None) -> None:
        """Return after the next write, or at the loop's time `deadline`."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        timer = None if deadline is None else loop.call_at(deadline, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def compact(self) -> None:
        """Forget the history. Watches that have kept up go on, as they do on the apiserver's watch cache."""
        self._compacted = self._revisions.current
        if self._history:
            self._forgotten = self._history[-1].revision
            self._history.clear()
        self.wake()  # who has not kept up is told at once

    def wake(self) -> None:
        """Let every waiter look again (at shutdown)."""
        for waiter in self._waiters:
            _wake(waiter)


class Store:
    """One collection per resource, under one counter."""

    def __init__(self, *, history: int = DEFAULT_HISTORY) -> None:
        if history < 1:
            raise ValueError(f"history={history}: keep at least 1 event per resource")
        self.revisions = Revisions()
        self._collections = {r.plural: Collection(r, self.revisions, history) for r in STORED}

    def __getitem__(self, resource: Resource) -> Collection:
        return self._collections[resource.plural]

    def compact(self) -> None:
        """Forget all history, as etcd's compaction does: no watch, page or list may begin at an older revision."""
        for collection in self._collections.values():
            collection.compact()

    def wake(self) -> None:
        """Let every watcher look again (at shutdown)."""
        for collection in self._collections.values():
            collection.wake()


def _by_key(entry: tuple[Key, Version]) -> Key:
    return entry[0]


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

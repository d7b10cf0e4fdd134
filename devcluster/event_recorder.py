"""Events: what the scheduler and the kubelet tell people about a pod."""

import itertools
import time
import uuid
from collections import OrderedDict
from typing import Final

from devcluster.clock import timestamp
from devcluster.resources import EVENTS, Object
from devcluster.store import Key, Store

KUBELET: Final = "kubelet"
SCHEDULER: Final = "default-scheduler"
# A real cluster forgets events after an hour; here the oldest go when there are more than this.
KEPT_EVENTS: Final = 5_000


class EventRecorder:
    """Writes v1 Events, counting repetitions instead of storing them."""

    def __init__(self, store: Store, node_name: str, *, kept: int = KEPT_EVENTS) -> None:
        self._events = store[EVENTS]
        self._node_name = node_name
        self._kept = kept
        self._numbers = itertools.count(time.time_ns())
        self._known: OrderedDict[tuple[str, str, str, str], Key] = OrderedDict()

    def record(
        self,
        pod: Object,
        reason: str,
        message: str,
        *,
        container: str = "",
        warning: bool = False,
        source: str = KUBELET,
    ) -> None:
        """Tell something about a pod, or about one of its containers (`spec.containers{run}`)."""
        metadata = pod["metadata"]
        identity = (metadata["uid"], container, reason, message)
        now = timestamp()
        key = self._known.get(identity)
        if key is not None and (known := self._events.get(key)) is not None:
            self._events.replace(key, {**known.obj, "count": known.obj["count"] + 1, "lastTimestamp": now})
            return
        involved = {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "apiVersion": "v1",
            "resourceVersion": metadata["resourceVersion"],
        }
        if container:
            involved["fieldPath"] = container
        name = f"{metadata['name']}.{next(self._numbers):x}"
        key = (metadata["namespace"], name)
        self._known[identity] = key
        event = {
            "metadata": {"name": name, "namespace": key[0], "uid": str(uuid.uuid4()), "creationTimestamp": now},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "source": {"component": source} | ({"host": self._node_name} if source == KUBELET else {}),
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "type": "Warning" if warning else "Normal",
            "eventTime": None,
            "reportingComponent": source,
            "reportingInstance": self._node_name if source == KUBELET else "",
        }
        self._events.create(key, event)
        while len(self._known) > self._kept:
            _, oldest = self._known.popitem(last=False)
            if self._events.get(oldest) is not None:
                self._events.remove(oldest)

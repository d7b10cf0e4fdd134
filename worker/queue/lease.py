"""The lease of one worker incarnation: its birth, heartbeat and end, and the server's clock that comes with them."""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rq.version import VERSION as RQ_VERSION

from adapters.redis_server import Connections, translated
from runner_spec import wire
from worker.queue import keys
from worker.queue.errors import LeaseLost
from worker.queue.script import load

logger = logging.getLogger(__name__)

# Seconds after which `rq info` no longer lists a worker that has stopped to beat; rq's own is 480.
WORKER_TTL: Final = 120
# Seconds that a worker that left stays visible, as with rq (BaseWorker.register_death).
DEATH_TTL: Final = 60
# Seconds. The score of an execution in rq's started registry: `rq info` and rq's maintenance fail jobs whose score has
# passed, and must never come first. Prolonged daily, so the longest job may last longer.
EXECUTION_TTL: Final = 7 * 86400
# As rq formats dates (rq.utils.utcformat).
DATE_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"

# More fields of the worker's hash, as they are now.
Announce = Callable[[], Mapping[str, str | int]]


class Lease:
    """`busy` tells how many executions the worker holds, for `rq info`; `announce` what else its hash is to say.

    A lease is a score in a zset: the server's time at which it ends, or the negative of when it was released or taken.
    A lapsed lease may be renewed as long as nobody has taken anything from it: a short outage of Redis costs nothing.
    """

    def __init__(
        self, connections: Connections, worker: str, queues: Sequence[str], seconds: float, busy: Callable[[], int]
    ) -> None:
        self._connections = connections
        self._worker = worker
        self._queues = tuple(queues)
        self._seconds = seconds
        self._busy = busy
        self.announce: Announce = dict
        self._offset = time.time() - time.monotonic()  # until the server has told its time
        self._ends = 0.0  # on the monotonic clock
        self._settled_at = 0.0  # on the monotonic clock: when others have had the time to renew, too

    @property
    def remaining(self) -> float:
        """Seconds for which nobody else can take over, at least; create nothing that takes longer. Never negative."""
        return max(self._ends - time.monotonic(), 0.0)

    @property
    def may_adopt(self) -> bool:
        """False shortly after the own lease had lapsed: Redis was away, and the others' leases have lapsed as well.

        Taking their executions the moment before they renew would be safe, and a stampede.
        """
        return time.monotonic() >= self._settled_at

    def now(self) -> float:
        """The server's time in Unix seconds, as of the last heartbeat."""
        return time.monotonic() + self._offset

    def date(self) -> str:
        """The server's time as rq writes it."""
        return datetime.fromtimestamp(self.now(), UTC).strftime(DATE_FORMAT)

    async def begin(self) -> None:
        """Take the lease and appear in `rq info`."""
        sent = time.monotonic()
        with translated():
            clock: Any = await self._connections.control.time()
            self._set_clock(float(clock[0]) + float(clock[1]) / 1e6)
            pipeline = self._connections.control.pipeline(transaction=True)
            pipeline.zadd(wire.LEASES_KEY, {self._worker: self.now() + self._seconds})
            self._register(pipeline)
            await pipeline.execute()
        self._ends = sent + self._seconds

    async def renew(self) -> None:
        """Prolong the lease: one round trip of constant cost.

        Raises:
            LeaseLost: others have taken over, or the lease was released.
            RedisUnavailable: no answer; the lease runs on.
        """
        sent = time.monotonic()
        names = [wire.LEASES_KEY, keys.worker_hash(self._worker), keys.worker_executions(self._worker)]
        state = "busy" if self._busy() else "idle"
        arguments: list[str | bytes | int | float] = [self._worker, self._seconds, self.date(), WORKER_TTL, state]
        for field in self.announce().items():
            arguments += field
        reply: Any = await load("renew").run(self._connections.control, names, arguments)
        self._set_clock(float(reply[2]))
        if reply[0] == b"lost":
            self._ends = 0.0
            raise LeaseLost(f"Worker {self._worker}: the lease is gone; its executions belong to others now.")
        if reply[0] == b"lapsed":
            logger.warning("the lease had lapsed and is renewed", extra={"action": "lease-lapsed"})
            self._settled_at = sent + self._seconds
        self._ends = sent + self._seconds
        if not reply[1]:
            # The hash has expired during an outage; without it, stock tools do not list the worker.
            with translated():
                pipeline = self._connections.control.pipeline(transaction=True)
                self._register(pipeline)
                await pipeline.execute()

    async def lapsed(self) -> set[str]:
        """Other incarnations whose lease has ended, by the server's clock as of the last heartbeat."""
        with translated():
            now = self.now()
            pipeline = self._connections.control.pipeline(transaction=False)
            pipeline.zrangebyscore(wire.LEASES_KEY, "-inf", now)
            pipeline.zrangebyscore(wire.LEASES_KEY, now + wire.LONGEST_LEASE_S, "+inf")
            past, impossible = await pipeline.execute()
        return {name.decode("utf-8", "surrogateescape") for name in [*past, *impossible]} - {self._worker}

    async def next_lapse(self, within: float) -> float:
        """Seconds until another incarnation's lease ends, unless it is renewed; `within` when none does before."""
        now = self.now()
        with translated():
            ends: Any = await self._connections.control.zrangebyscore(
                wire.LEASES_KEY, now, now + within, start=0, num=2, withscores=True
            )
        return min((end - now for name, end in ends if name != self._worker.encode()), default=within)

    async def release(self) -> None:
        """Give the lease up; executions stay registered, for others to adopt at once."""
        self._ends = 0.0
        rq_hash = keys.worker_hash(self._worker)
        with translated():
            pipeline = self._connections.control.pipeline(transaction=True)
            pipeline.zadd(wire.LEASES_KEY, {self._worker: -self.now()}, xx=True)
            pipeline.srem(keys.WORKERS, rq_hash)
            for queue in self._queues:
                pipeline.srem(keys.queue_workers(queue), rq_hash)
            pipeline.hset(rq_hash, "death", self.date())
            pipeline.expire(rq_hash, DEATH_TTL)
            await pipeline.execute()

    def _set_clock(self, server_time: float) -> None:
        self._offset = server_time - time.monotonic()

    def _register(self, pipeline: Any) -> None:  # noqa: ANN401 - redis-py's pipelines are typed by their results
        """As rq's BaseWorker.register_birth."""
        rq_hash = keys.worker_hash(self._worker)
        born = {
            "birth": self.date(),
            "last_heartbeat": self.date(),
            "queues": ",".join(self._queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": "unknown",
            "version": RQ_VERSION,
            "python_version": sys.version,
            "state": "busy" if self._busy() else "idle",
            **self.announce(),
        }
        pipeline.hset(rq_hash, mapping=born)
        pipeline.expire(rq_hash, WORKER_TTL)
        pipeline.sadd(keys.WORKERS, rq_hash)
        for queue in self._queues:
            pipeline.sadd(keys.queue_workers(queue), rq_hash)

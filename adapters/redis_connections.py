"""How connections to Redis are made: one server, or the primary that sentinels name, with or without TLS.

Three separate pools, because each has to fail differently (measured with redis-py 8.1):

- `control` never re-sends. redis-py retries ten times by default, also commands that are not idempotent: a claim whose
  reply is lost would be executed twice, and the first batch of jobs lost.
- `blocking` has no socket timeout: a blocking command that outlives the timeout would be re-sent or torn down.
- `sync` is for rq's own synchronous code, which runs in threads.

All of them return bytes and carry ids that are not UTF-8 unharmed (`surrogateescape`), so that a hostile id cannot
break a whole batch. With redis_server and redis_errors, the only module that imports redis-py and fakeredis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from adapters.redis_errors import BadRedisURL
from adapters.redis_outage import Outage
from adapters.redis_url import Address, read_url

AsyncClient: TypeAlias = "redis.asyncio.Redis"
SyncClient: TypeAlias = "redis.Redis"
SyncPipeline: TypeAlias = Pipeline

# Seconds. Longer than any script or batch of ours takes, shorter than a lease.
CONTROL_TIMEOUT: Final = 5.0
# Seconds for one sentinel's answer: the others are asked after it, and all of that within a lease.
SENTINEL_TIMEOUT: Final = 1.0
CONTROL_CONNECTIONS: Final = 16
SYNC_CONNECTIONS: Final = 8
# A watcher per queue and one subscription; the pool waits rather than fails beyond.
BLOCKING_CONNECTIONS: Final = 64
# Seconds to wait for a free connection of a pool: longer means that something holds them all.
POOL_TIMEOUT: Final = 20.0


class _AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Waits for a free connection as our other pools do; connects to the primary that the sentinels name."""


class _SentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """As above."""


@dataclass(frozen=True, slots=True)
class Connections:
    """The pools of one process; see the module's text. `embedded` is True for Redis inside this process.

    `outage` is what everybody who finds Redis away reports to.
    """

    control: AsyncClient
    blocking: AsyncClient
    sync: SyncClient
    embedded: bool = False
    sentinels: tuple[redis.asyncio.sentinel.Sentinel | redis.sentinel.Sentinel, ...] = ()
    outage: Outage = field(default_factory=Outage, compare=False)

    async def aclose(self) -> None:
        """Close every connection; the pools cannot be used afterwards."""
        for client in (self.control, self.blocking):
            await client.aclose(close_connection_pool=True)
        self.sync.close()
        self.sync.connection_pool.disconnect()
        for sentinel in self.sentinels:
            for asked in sentinel.sentinels:
                if isinstance(asked, redis.Redis):
                    asked.connection_pool.disconnect()
                else:
                    await asked.aclose(close_connection_pool=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def connect(url: str, *, control_timeout: float = CONTROL_TIMEOUT) -> Connections:
    """Pools for a server; no connection is opened yet.

    Args:
        url: see `redis_url`.
        control_timeout: seconds that a command on `control` may take, and opening any connection.

    Raises:
        BadRedisURL: when the URL has another scheme, cannot be parsed, or names what cannot be used.
    """
    address = read_url(url)
    # Also without a timeout for commands, a host that drops packets must not hold up the connecting for minutes.
    limits = {"socket_connect_timeout": control_timeout}
    patient, quick = {**limits, "socket_timeout": None}, {**limits, "socket_timeout": control_timeout}
    async_sentinel = _async_sentinel(address) if address.sentinels else None
    sentinel = _sentinel(address) if address.sentinels else None
    try:
        return Connections(
            control=_async_client(address, async_sentinel, quick, CONTROL_CONNECTIONS),
            blocking=_async_client(address, async_sentinel, patient, BLOCKING_CONNECTIONS),
            sync=_sync_client(address, sentinel, quick),
            sentinels=tuple(found for found in (async_sentinel, sentinel) if found is not None),
        )
    except TypeError as error:  # redis-py's constructors: an option that they do not know
        raise BadRedisURL(f"Redis URL: {error}. Correct or remove that parameter after the `?`.") from error


def embed() -> Connections:
    """Redis inside this process (fakeredis, Lua included), with nothing to install and nothing kept afterwards.

    Not a proof of anything about crashes: its blocking commands return at once and `INFO` is missing.
    """
    import fakeredis  # noqa: PLC0415 - 3 MB and 0.05 s in every command and service, which only this function needs
    from fakeredis import aioredis as async_fakeredis  # noqa: PLC0415 - as above

    server = fakeredis.FakeServer()
    options: dict[str, Any] = {"server": server, "encoding_errors": "surrogateescape"}
    return Connections(
        control=async_fakeredis.FakeRedis(**options),
        blocking=async_fakeredis.FakeRedis(**options),
        sync=fakeredis.FakeRedis(**options),
        embedded=True,
    )


def _async_client(
    address: Address,
    sentinel: redis.asyncio.sentinel.Sentinel | None,
    limits: Mapping[str, float | None],
    connections: int,
) -> AsyncClient:
    options = {
        **address.options(asynchronous=True),
        **limits,
        "retry": AsyncRetry(NoBackoff(), 0),
        "max_connections": connections,
        "timeout": POOL_TIMEOUT,
    }
    if sentinel is not None:
        make: Any = _AsyncSentinelPool  # redis-py leaves it untyped
        pool: Any = make(address.service, sentinel, ssl=address.tls, **options)
    else:
        pool = redis.asyncio.BlockingConnectionPool(**options)
        # Now rather than at the first command: the URL's mistakes belong to the start.
        pool.connection_class(**pool.connection_kwargs)
    return redis.asyncio.Redis(connection_pool=pool)


def _sync_client(
    address: Address, sentinel: redis.sentinel.Sentinel | None, limits: Mapping[str, float | None]
) -> SyncClient:
    options = {
        **address.options(asynchronous=False),
        **limits,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": SYNC_CONNECTIONS,
        "timeout": POOL_TIMEOUT,
    }
    if sentinel is not None:
        make_sentinel_pool: Any = _SentinelPool
        return redis.Redis(connection_pool=make_sentinel_pool(address.service, sentinel, ssl=address.tls, **options))
    make_pool: Any = redis.BlockingConnectionPool
    return redis.Redis(connection_pool=make_pool(**options))


def _asking(address: Address) -> dict[str, Any]:
    """How sentinels are asked: briefly, so that one that is away does not use up the others' time."""
    return {
        **address.sentinel_options,
        "ssl": address.tls,
        "socket_timeout": SENTINEL_TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        "protocol": 2,
    }


def _async_sentinel(address: Address) -> redis.asyncio.sentinel.Sentinel:
    options = {**_asking(address), "retry": AsyncRetry(NoBackoff(), 0)}
    make: Any = redis.asyncio.sentinel.Sentinel
    sentinel: redis.asyncio.sentinel.Sentinel = make(address.sentinels, sentinel_kwargs=options)
    return sentinel


def _sentinel(address: Address) -> redis.sentinel.Sentinel:
    options = {**_asking(address), "retry": Retry(NoBackoff(), 0)}
    make: Any = redis.sentinel.Sentinel
    sentinel: redis.sentinel.Sentinel = make(address.sentinels, sentinel_kwargs=options)
    return sentinel

"""Each fault does exactly what it says, between real clients and real servers; without a plan nothing happens."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from adapters.redis_server import RedisUnavailable, connect, start_server, translated
from tests.chaos.faults import (
    DelayReply,
    DelayRequest,
    DropReply,
    DropRequest,
    HalfOpen,
    RedisFault,
    Reset,
    Stall,
)
from tests.chaos.redis_proxy import Address, RedisPlan, RedisProxy
from tests.chaos.request_reader import RequestReader

pytestmark = pytest.mark.redis

PATIENCE_S = 20.0


@dataclass
class Place:
    proxy: RedisProxy
    url: str
    client: Any  # through the proxy, nothing retried
    blocking: Any
    direct: Any


def address(url: str) -> Address:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@asynccontextmanager
async def place(upstream: str, plan: RedisPlan | None = None) -> AsyncIterator[Place]:
    async with RedisProxy(address(upstream), plan) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with connect(url) as pools, connect(upstream) as straight:
            yield Place(proxy, url, pools.control, pools.blocking, straight.control)


def once(command: str, fault: RedisFault) -> RedisPlan:
    """The fault happens to the first piece that holds this command."""
    left = [fault]

    def plan(commands: Sequence[str]) -> RedisFault | None:
        return left.pop() if left and command in commands else None

    return plan


def run(url: str, test: Callable[[Place], Any], plan: RedisPlan | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), place(url, plan) as here:
            await test(here)

    asyncio.run(main())


async def lost(call: Any) -> None:
    with pytest.raises(RedisUnavailable), translated():
        await call


def transaction(client: Any) -> Any:
    pipeline = client.pipeline(transaction=True)
    for number in range(50):
        pipeline.rpush("list", str(number) * 1000)
    return pipeline.execute()


def test_requests_are_found_wherever_the_bytes_are_split() -> None:
    requests = b"*1\r\n$5\r\nmulti\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6\r\n*1\r\n$9\r\nPING\r\n\n*1\r\n$4\r\nEXEC\r\n"
    for split in range(1, len(requests)):
        reader = RequestReader()
        found = [reader.feed(piece) for piece in (requests[:split], requests[split:])]
        pieces = [piece for piece in found if piece is not None]
        assert b"".join(data for data, _ in pieces) == requests
        assert [name for _, names in pieces for name in names] == ["MULTI", "SET", "PING", "EXEC"]


def test_without_a_plan_all_kinds_of_traffic_pass(redis_url: str) -> None:
    async def test(here: Place) -> None:
        value = os.urandom(3_000_000)
        await here.client.set("large", value)
        assert await here.client.get("large") == await here.direct.get("large") == value
        assert await here.client.eval("return {KEYS[1], ARGV[1]}", 1, "a", "b\r\n*1\r\n") == [b"a", b"b\r\n*1\r\n"]
        assert (await transaction(here.client))[-1] == 50
        moved = asyncio.create_task(here.blocking.blmove("from", "to", PATIENCE_S))
        subscription = here.blocking.pubsub()
        await subscription.subscribe("news")
        await here.direct.lpush("from", "job")
        assert await moved == b"job"
        for number in range(3):
            await here.direct.publish("news", str(number))
        heard: list[bytes] = []
        async for message in subscription.listen():
            if message["type"] == "message":
                heard.append(message["data"])
            if len(heard) == 3:
                break
        await subscription.aclose()
        assert heard == [b"0", b"1", b"2"]
        counts = await asyncio.gather(*(here.client.incr("counter") for _ in range(500)))
        assert sorted(counts) == list(range(1, 501))
        assert not here.proxy.counts

    run(redis_url, test)


def test_a_dropped_request_has_no_effect(redis_url: str) -> None:
    async def test(here: Place) -> None:
        await lost(here.client.incr("counter"))
        assert await here.direct.get("counter") is None
        assert await here.client.incr("counter") == 1
        assert here.proxy.counts == {"DropRequest": 1}

    run(redis_url, test, once("INCRBY", DropRequest()))


def test_a_dropped_reply_is_an_error_to_the_client_after_all_of_a_transaction_took_effect(redis_url: str) -> None:
    async def test(here: Place) -> None:
        await lost(transaction(here.client))
        assert await here.direct.llen("list") == 50
        assert await here.direct.get("counter") is None

    run(redis_url, test, once("MULTI", DropReply()))


def test_a_dropped_reply_waits_for_the_last_of_many_commands(redis_url: str) -> None:
    async def test(here: Place) -> None:
        pipeline = here.client.pipeline(transaction=False)
        for _ in range(2000):
            pipeline.rpush("list", "x" * 5000)  # far more than a server reads at once
        await lost(pipeline.execute())
        assert await here.direct.llen("list") == 2000

    run(redis_url, test, once("RPUSH", DropReply()))


def test_a_dropped_reply_of_a_blocking_command_is_dropped_when_there_is_one(redis_url: str) -> None:
    async def test(here: Place) -> None:
        move = asyncio.create_task(here.blocking.blmove("from", "to", PATIENCE_S))
        while here.proxy.counts["DropReply"] == 0:  # noqa: ASYNC110 - a state without an event
            await asyncio.sleep(0.01)
        assert not move.done()
        await here.direct.lpush("from", "job")
        await lost(move)
        assert await here.direct.lrange("to", 0, -1) == [b"job"]

    run(redis_url, test, once("BLMOVE", DropReply()))


def test_a_dropped_reply_within_an_open_transaction_leaves_nothing_behind(redis_url: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), place(redis_url, once("SET", DropReply())) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.proxy.port)
            writer.write(b"MULTI\r\n")
            assert await reader.readline() == b"+OK\r\n"
            writer.write(b"SET key value\r\n")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert await here.direct.get("key") is None
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(("fault", "received"), [(Reset(1000), b"$6\r\nab"), (Reset(1), b"$")])
def test_a_reply_is_reset_in_its_middle(redis_url: str, fault: RedisFault, received: bytes) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), place(redis_url, once("ECHO", fault)) as here:
            loop, text = asyncio.get_running_loop(), b""
            with socket.create_connection(("127.0.0.1", here.proxy.port)) as client:
                client.setblocking(False)
                client.sendall(b"*2\r\n$4\r\nECHO\r\n$6\r\nabcdef\r\n")
                try:
                    while piece := await loop.sock_recv(client, 100):
                        text += piece
                except ConnectionResetError:
                    assert text == received
                else:
                    pytest.fail(f"closed, not reset, after {text!r}")

    asyncio.run(main())


def test_a_delayed_request_takes_effect_although_its_client_has_gone(redis_url: str) -> None:
    async def test(here: Place) -> None:
        call = asyncio.create_task(here.client.lpush("list", "late"))
        while here.proxy.counts["DelayRequest"] == 0:  # noqa: ASYNC110 - a state without an event
            await asyncio.sleep(0.01)
        assert await here.direct.llen("list") == 0
        call.cancel()
        await asyncio.wait([call])
        await here.client.connection_pool.disconnect()
        assert await here.direct.blmove("list", "seen", 4) == b"late"

    run(redis_url, test, once("LPUSH", DelayRequest(0.5)))


def test_a_delayed_reply_comes_after_the_effect(redis_url: str) -> None:
    async def test(here: Place) -> None:
        call = asyncio.create_task(here.client.lpush("list", "one"))
        assert await here.direct.blmove("list", "seen", 4) == b"one"
        assert not call.done()
        assert await call == 1

    run(redis_url, test, once("LPUSH", DelayReply(0.5)))


def test_a_half_open_connection_is_silent_and_then_breaks(redis_url: str) -> None:
    async def test(here: Place) -> None:
        call = asyncio.create_task(here.client.incr("counter"))
        while here.proxy.counts["HalfOpen"] == 0:  # noqa: ASYNC110 - a state without an event
            await asyncio.sleep(0.01)
        assert await here.client.get("counter") is None  # other connections live
        assert not call.done()
        await lost(call)
        assert await here.direct.get("counter") is None

    run(redis_url, test, once("INCRBY", HalfOpen(0.5)))


def test_a_stall_holds_everybody_up_and_loses_nothing(redis_url: str) -> None:
    async def test(here: Place) -> None:
        await here.client.ping()
        calls = [asyncio.create_task(here.client.incr("counter")) for _ in range(5)]
        while here.proxy.counts["Stall"] == 0:  # noqa: ASYNC110 - a state without an event
            await asyncio.sleep(0.01)
        assert await here.direct.get("counter") in {None, b"1", b"2", b"3", b"4"}
        assert sorted(await asyncio.gather(*calls)) == [1, 2, 3, 4, 5]

    run(redis_url, test, once("INCRBY", Stall(0.5)))


def test_a_server_that_is_away_resets_all_and_comes_back_on_the_same_port(redis_url: str) -> None:
    async def test(here: Place) -> None:
        wait = asyncio.create_task(here.blocking.blmove("from", "to", PATIENCE_S))
        await here.client.ping()
        here.proxy.freeze()
        stuck = asyncio.create_task(here.client.ping())
        await asyncio.sleep(0)
        await here.proxy.down()
        for call in (wait, stuck, here.client.ping()):
            await lost(call)
        await here.proxy.up()
        assert await here.client.ping()

    run(redis_url, test)


def test_a_plan_that_fails_is_told_at_the_end(redis_url: str) -> None:
    def plan(_: Sequence[str]) -> None:
        raise KeyError("no dice")

    async def test(here: Place) -> None:
        assert await here.client.incr("counter") == 1

    with pytest.raises(ExceptionGroup) as caught:
        run(redis_url, test, plan)
    assert "no dice" in str(caught.value.exceptions[0])


def test_a_server_that_is_not_there_is_a_lost_connection(redis_url: str) -> None:
    async def test(here: Place) -> None:
        await here.proxy.switch(("127.0.0.1", 1))
        await lost(here.client.ping())

    run(redis_url, test)


def test_a_replica_behind_a_frozen_link_lacks_the_last_writes_when_it_takes_over(tmp_path: Path) -> None:
    async def main(primary: Any, replica: Any) -> None:
        async with (
            asyncio.timeout(60),
            RedisProxy(address(primary.url)) as link,
            place(primary.url) as here,
            connect(replica.url) as other,
        ):
            # Otherwise the first synchronisation waits 5 s for more replicas.
            await here.direct.config_set("repl-diskless-sync-delay", 0)
            replica_client: Any = other.control
            await replica_client.execute_command("REPLICAOF", "127.0.0.1", link.port)
            await here.client.set("early", "1")
            await until(replica_client, "early")
            assert await here.client.wait(1, 4000) == 1
            link.freeze()
            await here.client.set("late", "1")
            assert await here.client.wait(1, 300) == 0
            os.kill(primary.pid, signal.SIGKILL)
            await link.down()
            await replica_client.execute_command("REPLICAOF", "NO", "ONE")
            await here.proxy.switch(address(replica.url))
            async with connect(here.url) as again:
                assert await again.control.get("early") == b"1"
                assert await again.control.get("late") is None
                assert await again.control.set("after", "1")

    with ExitStack() as stack:
        servers = [stack.enter_context(start_server(tmp_path / name)) for name in ("primary", "replica")]
        asyncio.run(main(*servers))


def test_a_replica_whose_link_thaws_catches_up(tmp_path: Path) -> None:
    async def main(primary: Any, replica: Any) -> None:
        async with (
            asyncio.timeout(60),
            RedisProxy(address(primary.url)) as link,
            connect(primary.url) as first,
            connect(replica.url) as second,
        ):
            leader: Any = first.control
            follower: Any = second.control
            await leader.config_set("repl-diskless-sync-delay", 0)
            await follower.execute_command("REPLICAOF", "127.0.0.1", link.port)
            await leader.set("early", "1")
            await until(follower, "early")
            link.freeze(0.5)
            await leader.set("late", "1")
            assert await follower.get("late") is None
            await until(follower, "late")

    with ExitStack() as stack:
        servers = [stack.enter_context(start_server(tmp_path / name)) for name in ("primary", "replica")]
        asyncio.run(main(*servers))


async def until(client: Any, key: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if await client.exists(key):
                    return
            except redis.exceptions.RedisError:
                pass  # a replica that is loading
            await asyncio.sleep(0.02)

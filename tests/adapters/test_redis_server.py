import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from adapters.redis_server import (
    BadRedisURL,
    Connections,
    RedisRefused,
    RedisUnavailable,
    ServerNotStarted,
    connect,
    embed,
    find_server,
    start_server,
    translated,
)
from tests.worker.queue.lossy_proxy import LossyProxy


def test_a_server_is_found_on_path_before_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server() == program


@pytest.mark.redis
def test_a_started_server_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    with start_server(tmp_path) as server:
        client = connect(server.url).sync
        assert client.ping()
        client.connection_pool.disconnect()

    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


@pytest.mark.redis
def test_a_durable_server_keeps_its_data_over_a_kill(tmp_path: Path) -> None:
    with start_server(tmp_path, durable=True) as server:
        client = connect(server.url).sync
        client.set("kept", "1")
        client.wait(0, 0)
        client.connection_pool.disconnect()
        os.kill(server.pid, signal.SIGTERM)
    with start_server(tmp_path, durable=True) as server:
        client = connect(server.url).sync
        assert client.get("kept") == b"1"
        client.connection_pool.disconnect()


@pytest.mark.redis
def test_a_taken_port_is_reported_with_the_servers_own_words(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerNotStarted, match="in use"), start_server(tmp_path, port=port):
            pytest.fail("the server started on a taken port")


@pytest.mark.redis
def test_two_servers_never_share_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.redis_server.LOCK_TIMEOUT", 0.1)
    with start_server(tmp_path, durable=True) as server:
        in_use = rf"process {server.pid}\) keeps its data in .*choose another folder"
        with pytest.raises(ServerNotStarted, match=in_use), start_server(tmp_path, durable=True):
            pytest.fail("a second server started on the same log")


@pytest.mark.redis
@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell a child of its parent's death")
def test_a_server_ends_with_the_process_that_started_it_and_frees_its_log(tmp_path: Path) -> None:
    owner = (
        "import os, pathlib, signal, sys; from adapters.redis_server import start_server\n"
        "with start_server(pathlib.Path(sys.argv[1]), durable=True):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", owner, str(tmp_path)], check=False)

    assert killed.returncode == -signal.SIGKILL
    with start_server(tmp_path, durable=True) as server:  # it waits for the other's end
        client = connect(server.url).sync
        assert client.ping()
        client.connection_pool.disconnect()


def test_a_program_that_is_no_server_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ServerNotStarted, match="did not start"), start_server(tmp_path, executable=Path("/bin/false")):
        pytest.fail("/bin/false started")


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://h:port/0"])
def test_a_bad_url_is_refused_with_a_remedy_and_without_its_password(url: str) -> None:
    with pytest.raises(BadRedisURL, match="redis://"):
        connect(url)
    with pytest.raises(BadRedisURL) as refused:
        connect("http://user:secret@localhost")
    assert "secret" not in str(refused.value)


def test_a_url_cannot_bring_retries_or_timeouts_back() -> None:
    connections = connect("redis://localhost:1/0?socket_timeout=1&decode_responses=True")

    assert connections.blocking.connection_pool.connection_kwargs["socket_timeout"] is None
    assert connections.control.connection_pool.connection_kwargs["decode_responses"] is False


@pytest.mark.redis
def test_a_command_whose_reply_is_lost_is_not_sent_again(redis_url: str) -> None:
    async def scenario() -> None:
        async with LossyProxy(redis_url) as proxy, connect(proxy.url) as connections:
            await connections.control.rpush("list", "a", "b")
            proxy.lose_reply_of(b"LPOP")
            with pytest.raises(RedisUnavailable), translated():
                await connections.control.lpop("list")
            assert await connections.control.lrange("list", 0, -1) == [b"b"]

    asyncio.run(scenario())


@pytest.mark.redis
def test_permanent_and_temporary_failures_are_told_apart(redis_url: str) -> None:
    async def scenario() -> None:
        async with connect(redis_url) as connections:
            await connections.control.set("text", "x")
            with pytest.raises(RedisRefused, match="WRONGTYPE"), translated():
                await connections.control.lpop("text")
        async with connect("redis://127.0.0.1:1/0") as nobody:
            with pytest.raises(RedisUnavailable), translated():
                await nobody.control.ping()

    asyncio.run(scenario())


def check_shared_store(connections: Connections) -> None:
    async def scenario() -> None:
        async with connections:
            await connections.control.set("key", b"\xff")
            assert await asyncio.to_thread(connections.sync.get, "key") == b"\xff"
            assert await connections.blocking.eval("return redis.call('GET', 'key')", 0) == b"\xff"

    asyncio.run(scenario())


def test_the_embedded_clients_share_one_store() -> None:
    check_shared_store(embed())


@pytest.mark.redis
def test_the_pools_of_a_server_share_one_store(redis_url: str) -> None:
    check_shared_store(connect(redis_url))

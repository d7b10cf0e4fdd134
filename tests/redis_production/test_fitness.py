"""The checks at the start: what is refused, what is waited for, what is merely said."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapters.redis_fitness import UnfitRedis, judge, until_fit
from adapters.redis_server import RedisRefused, RedisUnavailable, connect, translate, translated
from tests.redis_production.servers import RedisProcess, client, eventually, within
from worker.cli.main import cli

GOOD: dict[str, Any] = {
    "redis_version": "6.2.0",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}


def test_a_good_server_gives_no_cause_for_words() -> None:
    found = judge(GOOD)

    assert (found.refusals, found.wait, found.warnings) == ((), "", ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"redis_version": "6.0.16"}, ["redis_version is '6.0.16'", "6.2", "Upgrade"]),
        ({"redis_version": "5.0"}, ["redis_version is '5.0'"]),
        ({"redis_mode": "cluster"}, ["redis_mode is 'cluster'", "one primary"]),
        ({"cluster_enabled": 1}, ["redis_mode is 'cluster'"]),
        (
            {"maxmemory": 1000, "maxmemory_policy": "allkeys-lru"},
            ["maxmemory is 1000", "'allkeys-lru'", "maxmemory-policy noeviction"],
        ),
    ],
)
def test_a_server_that_loses_jobs_is_refused_with_what_was_found_and_the_remedy(
    fields: dict[str, Any], words: list[str]
) -> None:
    (refusal,) = judge(GOOD | fields).refusals

    for word in words:
        assert word in refusal


@pytest.mark.parametrize(
    "fields",
    [
        {"redis_version": "10.1.3"},
        {"redis_version": "7"},
        {"maxmemory": 0, "maxmemory_policy": "allkeys-lru"},
        {"maxmemory": 1000, "maxmemory_policy": "noeviction"},
    ],
)
def test_what_does_no_harm_is_not_refused(fields: dict[str, Any]) -> None:
    assert judge(GOOD | fields).refusals == ()


def test_every_fault_is_named_at_once() -> None:
    assert (
        len(judge({"redis_version": "5", "redis_mode": "cluster", "maxmemory": 1, "maxmemory_policy": "x"}).refusals)
        == 3
    )


def test_a_server_that_hides_its_settings_is_warned_of_not_refused() -> None:
    found = judge({})

    assert found.refusals == ()
    assert "noeviction" in found.warnings[0]


def test_without_an_append_only_file_it_is_said_what_would_be_lost() -> None:
    (warning,) = judge(GOOD | {"aof_enabled": 0}).warnings

    assert "since its last snapshot are lost" in warning
    assert "appendonly yes" in warning


@pytest.mark.redis
@pytest.mark.parametrize("command", ["worker", "gateway"])
def test_a_service_refuses_a_server_that_evicts_with_the_exit_status_of_a_configuration_error(
    tmp_path: Path, command: str
) -> None:
    cluster = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n"
    (tmp_path / "kubeconfig").write_text(cluster + "contexts: [{name: a, context: {cluster: a, user: a}}]\nusers: []\n")
    (tmp_path / "policy.yaml").write_text("gateway_url: http://127.0.0.1:9\nuser_namespaces: false\n")
    with RedisProcess(tmp_path / "redis", "maxmemory 100mb", "maxmemory-policy allkeys-lru") as server:
        words = [command, "--redis-url", server.url, "--store", str(tmp_path / "store")]
        words += ["--kubeconfig", str(tmp_path / "kubeconfig")]
        words += (
            ["--policy", str(tmp_path / "policy.yaml"), "--health-port", "0"]
            if command == "worker"
            else ["--port", "0"]
        )
        done = CliRunner().invoke(cli, words)

    assert done.exit_code == 2, done.output
    assert "maxmemory_policy is 'allkeys-lru'" in done.output
    assert "noeviction" in done.output


@pytest.mark.redis
def test_a_replica_is_waited_for_until_it_is_the_primary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        async with connect(replica.url) as connections:
            waiting = asyncio.create_task(until_fit(connections))
            async with within(10, "it is said"):
                while "is a replica" not in connections.outage.why:  # noqa: ASYNC110 - an attribute has no event
                    await asyncio.sleep(0.05)
            assert not waiting.done()
            with client(replica.port) as own:
                own.execute_command("REPLICAOF", "NO", "ONE")
            async with within(10, "the new primary is taken"):
                await waiting

    with (
        RedisProcess(tmp_path / "a") as primary,
        RedisProcess(tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}") as replica,
    ):
        asyncio.run(scenario())
    assert any(f"127.0.0.1:{primary.port}" in record.getMessage() for record in caplog.records)


@pytest.mark.redis
def test_a_wrong_password_ends_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with within(10, "a refusal"), connect(f"redis://:wrong@127.0.0.1:{server.port}/0") as connections:
            with pytest.raises(UnfitRedis, match=r"WRONGPASS|invalid username-password.*password right"):
                await until_fit(connections)

    with RedisProcess(tmp_path / "redis", "requirepass right") as server:
        asyncio.run(scenario())


@pytest.mark.redis
def test_a_script_at_a_replica_or_a_full_server_may_be_tried_again(tmp_path: Path) -> None:
    """Redis 6.2 says so at the end of a long message, Redis 7 at its beginning; both come from a real server."""

    async def scenario() -> None:
        async with connect(server.url) as connections:
            for wound, heal in (
                (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
                (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
            ):
                with client(server.port) as own:
                    own.execute_command(*wound)
                with pytest.raises(RedisUnavailable), translated():
                    await connections.control.eval("return redis.call('SET', KEYS[1], '1')", 1, "key")
                with client(server.port) as own:
                    own.execute_command(*heal)
            with pytest.raises(RedisRefused), translated():
                await connections.control.eval("return redis.call('LPOP', KEYS[1])", 1, "key")

    with RedisProcess(tmp_path / "redis") as server:
        with client(server.port) as own:
            own.set("key", "1")
        eventually(server.answers, "it answers")
        asyncio.run(scenario())


def test_a_62_servers_words_about_a_script_are_read_to_their_end() -> None:
    import redis  # noqa: PLC0415 - its error alone

    start = "Error running script (call to f_0): @user_script:1: @user_script: 1: "
    readonly = redis.ResponseError(f"{start}-READONLY You can't write against a read only replica.")
    wrong = redis.ResponseError(f"{start}WRONGTYPE Operation against a key holding the wrong kind of value")

    assert translate(readonly).temporary
    assert not translate(wrong).temporary

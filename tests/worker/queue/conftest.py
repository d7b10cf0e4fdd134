"""`place`: the core of the protocol is tested on a real server and on the embedded one alike."""

from typing import cast

import pytest

from tests.worker.queue.scene import Place


@pytest.fixture(params=[pytest.param("server", marks=pytest.mark.redis), "embedded"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(None if request.param == "embedded" else cast("str", request.getfixturevalue("redis_url")))


@pytest.fixture
def server(redis_url: str) -> Place:
    """A real server, for what the embedded one cannot do: other processes, blocking, lost replies."""
    return Place(redis_url)

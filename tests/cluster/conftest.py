"""One site for all tests of a process; they skip where KUBECONFIG names no cluster."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.site import Site
from tests.cluster.site import site as make_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    with make_site(tmp_path_factory.mktemp("site")) as it:
        yield it

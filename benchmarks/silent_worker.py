"""`dynapod worker` where containers print nothing: fake nodes have no kubelet that could be asked for logs.

All the bookkeeping of a log remains: each is opened, found to be empty, closed as complete, and demanded by the commit.
"""

import sys
from collections.abc import AsyncGenerator

from adapters.kubernetes_api import KubernetesApi
from worker.cli.main import main


async def _nothing(*_: object, **__: object) -> AsyncGenerator[bytes, None]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


if __name__ == "__main__":
    KubernetesApi.stream_log = _nothing  # type: ignore[method-assign]
    sys.exit(main(["worker", *sys.argv[1:]]))

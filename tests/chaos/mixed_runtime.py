"""Scripted containers, and real processes for pods without a script: checkout, run and upload as they really are."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devcluster.process_runtime import Image, ProcessRuntime
from devcluster.resources import Object
from devcluster.runtime import Container, ContainerExit, ContainerRequest
from runner_spec.policy import DEFAULT_POLICY
from tests.chaos.ledger import LedgerWriter, Start
from tests.chaos.runtime import ScriptedRuntime, is_scripted, start_of
from worker.cli.embedded import host_path, runner_image

if TYPE_CHECKING:
    import asyncio

# A record of a container's log file: time, stream, `F` or `P` (its line goes on in the next record), content.
_FIELDS: Final = 3


class MixedRuntime:
    """Sends each pod to one of two runtimes, and writes down what real `run` containers did."""

    def __init__(self, ledger: LedgerWriter) -> None:
        self._ledger = ledger
        self.scripted = ScriptedRuntime(ledger)
        self._real = ProcessRuntime({DEFAULT_POLICY.runner_image: runner_image()}, default=Image(path=host_path()))

    def uses_files(self, pod: Object) -> bool:
        """See `devcluster.runtime.Runtime`."""
        return not is_scripted(pod)

    async def start(self, request: ContainerRequest) -> Container:
        """See `devcluster.runtime.Runtime`."""
        if is_scripted(request.pod):
            return await self.scripted.start(request)
        container = await self._real.start(request)
        start = start_of(request)
        if start is not None:
            self._ledger.started(start, container.started_at)
            container.exited.add_done_callback(partial(self._ended, start, container))
        return container

    def _ended(self, start: Start, container: Container, exited: "asyncio.Future[ContainerExit]") -> None:
        found = exited.result()
        assert container.log is not None
        written = read_records(container.log.path)
        self._ledger.ended_with(start.uid, start.container, found.code, written, found.finished_at)

    async def close(self) -> None:
        """Kill whatever still runs."""
        await self.scripted.close()
        await self._real.close()


def read_records(path: Path) -> bytes:
    """What a container wrote, from its log file."""
    content = bytearray()
    for record in path.read_bytes().split(b"\n")[:-1]:
        *_, flag, text = record.split(b" ", _FIELDS)
        content += text + b"\n" * (flag == b"F")
    return bytes(content)

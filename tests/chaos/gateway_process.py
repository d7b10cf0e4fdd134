"""The gateway of a chaos run, in a process of its own that is killed, paused, and short of disk.

What runs in it is `worker.cli.gateway_service.run_gateway`, nothing else; it is forked as the workers are.
"""

import asyncio
import signal
from pathlib import Path
from typing import Final

from gateway.settings import GatewaySettings
from tests.chaos.listener import HOST, Listener
from tests.chaos.staff import Hand, fork

# Seconds that running transfers have when the gateway is told to leave.
DRAIN_S: Final = 1.0


class GatewayProcess:
    """One gateway at a time, always at the same port, which stays taken while there is none."""

    def __init__(self, folder: Path, *, redis_url: str, kubeconfig: Path, store: Path, namespace: str) -> None:
        self._folder = folder
        self._kubeconfig = str(kubeconfig)
        self._listener = Listener()
        self._settings = GatewaySettings(
            host=HOST,
            port=self._listener.port,
            store=str(store),
            redis_url=redis_url,
            namespaces=(namespace,),
            drain_seconds=DRAIN_S,
            log_format="json",
        )
        self._hand: Hand | None = None
        self.url = f"http://{HOST}:{self._listener.port}"
        self.started = 0

    @property
    def alive(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._hand is not None and self._hand.alive

    def start(self) -> None:
        """Start it; nothing happens if it is there."""
        if not self.alive:
            self.started += 1
            log = self._folder / f"gateway-{self.started}.log"
            self._hand = fork(_serve, (self._settings, self._kubeconfig), log)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Have it end, and wait until it has: two cannot listen at one port."""
        if self._hand is not None:
            self._hand.send(number)
            await self._hand.ended.wait()

    def pause(self) -> None:
        """Connections are accepted by the kernel, and nobody answers."""
        if self._hand is not None:
            self._hand.send(signal.SIGSTOP)

    def wake(self) -> None:
        """Go on."""
        if self._hand is not None:
            self._hand.send(signal.SIGCONT)

    def fill_disk(self, *, full: bool) -> None:
        """Whether the kernel refuses each byte that it writes to a file: to the object store, that is."""
        if self._hand is not None:
            self._hand.fill_disk(full=full)

    async def close(self) -> None:
        """End it, and give the port back."""
        await self.end()
        self._listener.release()


def _serve(settings: GatewaySettings, kubeconfig: str) -> None:
    from worker.cli.gateway_service import run_gateway  # noqa: PLC0415 - preloaded in the fork server
    from worker.cli.service_log import configure_service_log  # noqa: PLC0415 - as above

    configure_service_log(settings.log_level, settings.log_format)
    asyncio.run(run_gateway(settings, kubeconfig))

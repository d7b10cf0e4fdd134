"""The outside ledger of real pods: a small server that they report to; dynapod knows nothing of it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.chaos.ledger import LedgerWriter, Start


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of life: when (Unix seconds, of this machine), and how many bytes of log were written before it.

    `lines` is how many there will be.
    """

    at: float
    written: int
    lines: int


class Collector:
    """Listens on `host` while its block runs; writes starts and ends to `path`, and keeps the last sign of each."""

    def __init__(self, host: str, path: Path) -> None:
        self.path = path
        self.signs: dict[str, Sign] = {}
        self.address = ""
        self._host = host
        self._ledger = LedgerWriter(path)
        self._told: set[tuple[str, str]] = set()
        application = web.Application()
        application.router.add_post("/", self._take)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        self.address = f"{self._host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._ledger.close()

    async def _take(self, request: web.Request) -> web.Response:
        told: dict[str, Any] = json.loads(await request.read())
        event, uid, now = told["event"], told["uid"], time.time()
        self.signs[uid] = Sign(now, told.get("written", 0), told["lines"])
        # A program repeats what was not acknowledged.
        if event != "alive" and (event, uid) not in self._told:
            self._told.add((event, uid))
            if event == "started":
                self._ledger.started(Start(told["job"], told["attempt"], told["pod"], uid, "run", told["lines"]), now)
            else:
                self._ledger.ended(uid, "run", told["exit_code"], told["written"], now)
        return web.Response()

"""`benchmarks.silent_worker` with a clock: when the creation of each pod left it, and when it heard of each pod's end.

The first argument names the file to which it writes, when it ends, what it has noted in memory until then, as JSON:
`{"sent": {job: moment}, "ended": {job: moment}}`. Moments are `time.monotonic()`, which on Linux is one clock for all
processes of a machine, and which nobody sets.
"""

import json
import runpy
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from adapters.kubernetes_api import KubernetesApi, WatchEvent
from runner_spec.anatomy import LABEL_JOB

ENDS: Final = frozenset({"Succeeded", "Failed"})


class Notes:
    """What every `KubernetesApi` of this process does from `attach` on, and when."""

    def __init__(self) -> None:
        self._sent: list[tuple[float, bytes]] = []
        self._ended: dict[str, float] = {}

    def attach(self) -> None:
        """Listen."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_chunk_sent.append(self._sending)
        connect, watch_pods = KubernetesApi.__init__, KubernetesApi.watch_pods

        def traced(api: KubernetesApi, *given: Any, **options: Any) -> None:  # noqa: ANN401 - handed on
            connect(api, *given, **options)
            # Looked at when the first request opens the session, which is later.
            api._calls.trace_configs = [tracing]  # noqa: SLF001 - nothing else is so near the socket

        async def noted(api: KubernetesApi, *given: Any, **options: Any) -> AsyncGenerator[WatchEvent, None]:  # noqa: ANN401 - handed on
            async with aclosing(watch_pods(api, *given, **options)) as events:
                async for event in events:
                    if event.object.get("status", {}).get("phase") in ENDS:
                        self._ended.setdefault(event.object["metadata"]["labels"][LABEL_JOB], time.monotonic())
                    yield event

        KubernetesApi.__init__ = traced  # type: ignore[method-assign,assignment]
        KubernetesApi.watch_pods = noted  # type: ignore[method-assign,assignment]

    async def _sending(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestChunkSentParams
    ) -> None:
        """A body is written to its connection: to wait for one, and for its TLS, was part of the way."""
        if params.method == "POST" and params.url.path.endswith("/pods"):
            self._sent.append((time.monotonic(), params.chunk))  # whose it is, is read at the end: that takes time

    def as_dict(self) -> dict[str, dict[str, float]]:
        """For JSON; a creation that was sent again counts from the first time."""
        sent: dict[str, float] = {}
        for moment, body in self._sent:
            sent.setdefault(json.loads(body)["metadata"]["labels"][LABEL_JOB], moment)
        return {"sent": sent, "ended": self._ended}


if __name__ == "__main__":
    path, notes = Path(sys.argv.pop(1)), Notes()
    notes.attach()
    try:
        runpy.run_module("benchmarks.silent_worker", run_name="__main__")
    finally:
        path.write_text(json.dumps(notes.as_dict()), encoding="utf-8")

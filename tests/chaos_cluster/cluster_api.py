"""A stranger's own client of the Kubernetes API: none of dynapod's code, no proxy between."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import yaml

from tests.chaos.kubeconfig import client_tls, current

Json = dict[str, Any]
USER_AGENT: Final = "kubectl/chaos"
CALL_S: Final = 20.0
_WATCH_LINE_BYTES: Final = 16 * 1024 * 1024


class RefusedError(Exception):
    """The server said no; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class ClusterApi:
    """With the rights of a kubeconfig, in a block."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig: Json = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        cluster, user = current(self.kubeconfig)
        self._server = str(cluster["server"]).rstrip("/")
        self._headers = {"User-Agent": USER_AGENT}
        if "token" in user:
            self._headers["Authorization"] = f"Bearer {user['token']}"

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, ssl=client_tls(self.kubeconfig) or True)
        self._session = aiohttp.ClientSession(
            self._server, connector=connector, headers=self._headers, read_bufsize=_WATCH_LINE_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """One request, sent once.

        Raises:
            RefusedError: by the server.
            aiohttp.ClientError, TimeoutError: no answer.
        """
        patch = method == "PATCH"
        headers = {"Content-Type": "application/merge-patch+json" if patch else "application/json"}
        data = None if body is None else json.dumps(body)
        timeout = aiohttp.ClientTimeout(total=CALL_S)
        request = self._session.request(method, path, data=data, params=query, headers=headers, timeout=timeout)
        async with request as answer:
            if answer.status >= 300:
                raise RefusedError(answer.status, await answer.text())
            found: Json = await answer.json(content_type=None)
            return found

    async def text(self, path: str) -> str:
        """What is not JSON: metrics.

        Raises:
            RefusedError: by the server.
        """
        async with self._session.get(path, timeout=aiohttp.ClientTimeout(total=CALL_S)) as answer:
            if answer.status >= 300:
                raise RefusedError(answer.status, await answer.text())
            return await answer.text()

    async def watch(self, path: str, version: str, seconds: float) -> AsyncIterator[Json]:
        """The events after a resourceVersion, for so long; bookmarks too."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(seconds)),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=seconds + CALL_S)
        async with self._session.get(path, params=query, timeout=timeout) as answer:
            if answer.status >= 300:
                raise RefusedError(answer.status, await answer.text())
            async for line in answer.content:
                event: Json = json.loads(line)
                yield event

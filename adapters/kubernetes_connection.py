"""HTTP to one Kubernetes API server, with the address, TLS and credentials that the official client has read.

The client's own way of sending costs more than the request itself: it copies each body member by member, and lets
aiohttp ask the environment for a proxy and ~/.netrc for a password before every request, each in a thread
(docs/decisions/0002-raw-json.md has the figures). Here the proxy is looked up once, and no password is sent but the
kubeconfig's.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from adapters.kubernetes_package import ApiClient, Configuration
from runner_spec.version import __version__

JSON: Final = "application/json"
# A chunk of a watch: its events are larger than aiohttp's default.
READ_BUFFER_BYTES: Final = 2 * 1024 * 1024


class KubernetesConnection:
    """A pool of connections; opened by the first request.

    Args:
        configuration: as the official client loaded it; it also refreshes the credentials.
        limit: upper limit of parallel requests; 0 for none.
    """

    def __init__(self, configuration: Configuration, *, limit: int) -> None:
        self._configuration = configuration
        self._limit = limit
        self._host = str(configuration.host)
        self._ssl = ApiClient(configuration).rest_client.ssl_context
        self._options = _options(configuration)
        self._session: aiohttp.ClientSession | None = None
        self.trace_configs: list[aiohttp.TraceConfig] = []  # of aiohttp; looked at when the pool is opened

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: bytes | None,
        accept: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own structure: connect, read and total differ
    ) -> aiohttp.ClientResponse:
        """One request; the answer's body is not read yet.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: there is no answer.
        """
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._limit, ssl=self._ssl)
            self._session = aiohttp.ClientSession(
                connector=connector, read_bufsize=READ_BUFFER_BYTES, trace_configs=self.trace_configs
            )
        # Encoded here, once: a selector is not to be normalised by anybody.
        url = URL(f"{self._host}{path}?{urlencode(query)}" if query else f"{self._host}{path}", encoded=True)
        headers = await self.headers(accept)
        return await self._session.request(method, url, data=body, headers=headers, timeout=timeout, **self._options)

    async def headers(self, accept: str) -> dict[str, str]:
        """Of a request sent now: a token may have been replaced."""
        headers = {"Accept": accept, "Content-Type": JSON, "User-Agent": f"dynapod/{__version__}"}
        for setting in (await self._configuration.auth_settings()).values():
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


def _options(configuration: Configuration) -> dict[str, Any]:
    """What is the same for all requests."""
    options: dict[str, Any] = {}
    if configuration.tls_server_name:
        options["server_hostname"] = configuration.tls_server_name
    if proxy := configuration.proxy or _environment_proxy(URL(configuration.host)):
        # As the official client sends it; aiohttp itself takes user and password out of the URL.
        options |= {"proxy": proxy, "proxy_headers": configuration.proxy_headers}
    return options


def _environment_proxy(url: URL) -> str | None:
    """As HTTPS_PROXY and NO_PROXY say."""
    return None if url.host is None or proxy_bypass(url.host) else getproxies().get(url.scheme)

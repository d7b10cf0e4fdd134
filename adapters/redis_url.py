"""The URL of a Redis: what it may say, and what is refused before a connection is tried.

    redis://[[user]:password@]host[:port][/db]                                  one server
    redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db]  the primary that sentinels name
    unix://[[user]:password@]/path[?db=0]                                       a socket

With `rediss://` and `rediss+sentinel://` over TLS. After `?`, redis-py's own parameters, of which these matter:
`ssl_ca_certs` (file: who signed the server's certificate; else the system's authorities), `ssl_certfile` and
`ssl_keyfile` (our own certificate), `ssl_check_hostname` (yes unless `false`). With sentinels, user and password are
the servers'; the sentinels' own are `sentinel_username` and `sentinel_password`. TLS covers both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio.connection import parse_url as parse_async_url
from redis.connection import parse_url as parse_sync_url

from adapters.redis_errors import BadRedisURL

SENTINEL: Final = "+sentinel"
SCHEMES: Final = ("redis", "rediss", "unix", "redis" + SENTINEL, "rediss" + SENTINEL)
SENTINEL_PORT: Final = 26379
FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SENTINEL_LOGIN: Final = {"sentinel_username": "username", "sentinel_password": "password"}
# Ours: a URL cannot bring retries, timeouts or other pools back. RESP2: rq 3.0 is written for its replies.
OWN_OPTIONS: Final[Mapping[str, Any]] = {
    "encoding_errors": "surrogateescape",
    "decode_responses": False,
    "protocol": 2,
}
EXAMPLES: Final = (
    "redis://host:6379/0, unix:///path/redis.sock?db=0 or redis+sentinel://host:26379,other:26379/service/0"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is. `url` is in a form that redis-py reads; with `sentinels`, its host means nothing."""

    url: str = field(repr=False)  # it may hold a password
    tls: bool
    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def options(self, *, asynchronous: bool) -> dict[str, Any]:
        """Keyword arguments of redis-py's connection pools."""
        parse: Any = parse_async_url if asynchronous else parse_sync_url  # redis-py leaves one of them untyped
        parsed: dict[str, Any] = dict(parse(self.url))
        if self.sentinels:
            for name in ("host", "port", "connection_class"):
                parsed.pop(name, None)  # the sentinels' pool has its own
        return {**parsed, **OWN_OPTIONS}


def read_url(url: str) -> Address:
    """Where the URL points to.

    Raises:
        BadRedisURL: naming what is wrong, and never the password.
    """
    try:
        parts = urlsplit(url)
        scheme = parts.scheme
    except ValueError as error:
        raise _unreadable() from error
    if scheme not in SCHEMES:
        raise BadRedisURL(
            f"Redis URL: its scheme is {scheme!r}, and must be one of {', '.join(SCHEMES)}. Write {EXAMPLES}."
        )
    _require_files(parts)
    address = _read_sentinels(parts) if scheme.endswith(SENTINEL) else Address(url, tls=scheme == "rediss")
    try:
        address.options(asynchronous=True)
    except ValueError as error:
        raise _unreadable() from error
    return address


def _unreadable() -> BadRedisURL:
    """Nothing of the URL is shown: what a parser takes for a port may be half of a password."""
    return BadRedisURL(
        f"Redis URL: it cannot be read. Write {EXAMPLES}; in user and password, write %2F for /, %3F for ?, %23 for #, "
        "%40 for @ and %3A for a colon."
    )


def _require_files(parts: SplitResult) -> None:
    """A file that is missing looks like a server that is away, and would be waited for."""
    for name, value in parse_qsl(parts.query):
        if name in FILES and not Path(value).is_file():
            raise BadRedisURL(f"Redis URL: {name} is {value!r}, which is no file here. Name a PEM file, or mount it.")


def _read_sentinels(parts: SplitResult) -> Address:
    login, _, hosts = parts.netloc.rpartition("@")
    sentinels = tuple(_read_host(host) for host in hosts.split(","))
    service, _, database = parts.path.strip("/").partition("/")
    if not service or (database and not database.isdecimal()):
        raise BadRedisURL(
            "Redis URL: after the sentinels come the service's name, as in their `sentinel monitor`, and the database, "
            f"a number. Write {EXAMPLES}."
        )
    query = parse_qsl(parts.query)
    own = {SENTINEL_LOGIN[name]: value for name, value in query if name in SENTINEL_LOGIN}
    others = [(name, value) for name, value in query if name not in SENTINEL_LOGIN]
    scheme = parts.scheme.removesuffix(SENTINEL)
    url = SplitResult(scheme, f"{login}@sentinel", f"/{database or 0}", urlencode(others), "").geturl()
    try:
        tls = {name: value for name, value in parse_async_url(url).items() if name.startswith("ssl_")}
    except ValueError as error:
        raise _unreadable() from error
    return Address(url, scheme == "rediss", unquote(service), sentinels, {**own, **tls})


def _read_host(text: str) -> tuple[str, int]:
    try:
        one = urlsplit(f"//{text}")
        host, port = one.hostname, one.port
    except ValueError:
        host, port = None, None
    if not host:
        raise _unreadable()
    return host, port or SENTINEL_PORT

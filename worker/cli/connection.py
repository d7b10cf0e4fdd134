"""The connection to the queue that the commands share: options, one client, and errors in people's words."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from worker.cli.exit_status import InvalidInputError, PlatformError

if TYPE_CHECKING:
    from worker.client import JobClient

DEFAULT_REDIS_URL: Final = "redis://localhost:6379/0"
Result = TypeVar("Result")

redis_option = click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    envvar="DYNAPOD_REDIS_URL",
    default=DEFAULT_REDIS_URL,
    show_default=True,
    show_envvar=True,
    help="The queue's Redis.",
)
store_option = click.option(
    "--store",
    "store_url",
    metavar="URL",
    envvar="DYNAPOD_STORE",
    show_envvar=True,
    help="The object store with the older part of logs: a folder, s3://, gs:// or az://.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@asynccontextmanager
async def connect(redis_url: str, store_url: str | None = None) -> AsyncIterator["JobClient"]:
    """A client of the queue, closed at the end.

    Raises:
        InvalidInputError: for a URL that is none, and for what the client refuses.
        PlatformError: when Redis or the store fails underway.
    """
    from adapters import redis_server
    from adapters.object_store import StoreError
    from worker.client import ClientError, JobClient

    try:
        async with redis_server.connect(redis_url) as connections:
            with _redis_errors():
                yield JobClient(connections.control, open_store(store_url) if store_url else None)
    except redis_server.BadRedisURL as error:
        raise InvalidInputError(f"--redis: {error}") from error
    except ClientError as error:
        raise InvalidInputError(str(error)) from error
    except redis_server.RedisError as error:
        message = f"{str(error).rstrip('.')}. Is {without_password(redis_url)} right? Name another with --redis URL."
        raise PlatformError(message) from error
    except StoreError as error:
        raise PlatformError(f"the object store failed: {error}") from error


@contextmanager
def _redis_errors() -> Iterator[None]:
    """Name redis-py's errors, which the log's reader lets through."""
    from adapters.redis_server import translated

    try:
        yield
    except OSError:
        raise  # our own output's (a closed pipe): redis-py has its own classes for the network's
    except Exception:
        with translated():
            raise


def open_store(url: str) -> Any:  # noqa: ANN401 - an ObjectStore; naming it here would import the store's library
    """The object store of `--store`.

    Raises:
        InvalidInputError: when the URL cannot be used.
    """
    from adapters.object_store import ObjectStore, StoreConfigError

    try:
        return ObjectStore.from_url(url)
    except StoreConfigError as error:
        raise InvalidInputError(f"--store: {error}") from error


def with_client(
    work: "Callable[[JobClient], Awaitable[Result]]", redis_url: str, store_url: str | None = None
) -> Result:
    """Run `work` with a connected client in an event loop of its own."""

    async def session() -> Result:
        async with connect(redis_url, store_url) as client:
            return await work(client)

    return asyncio.run(session())


def without_password(url: str) -> str:
    """The URL fit for messages: passwords do not belong on screens and in CI logs."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()

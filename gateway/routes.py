"""The registry of handlers: a handler registers itself with `@route`, and the server turns the registry into routes.

    @route("PUT", ARTIFACTS_PATH + "/{artifact}/{path:.+}")
    async def put_artifact(request: web.Request) -> web.StreamResponse: ...

A module of handlers only has to be imported before `server.create_app` runs.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One handler; `path` in aiohttp's syntax. `identity`: only a verified pod gets in, found at `request[POD]`."""

    method: str
    path: str
    handler: Handler
    identity: bool


class Routes:
    """A set of routes, each method and path once."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Route] = {}

    def route(self, method: str, path: str, *, identity: bool = True) -> Callable[[Handler], Handler]:
        """Register the decorated handler.

        Raises:
            ValueError: when another handler has the method and path.
        """

        def register(handler: Handler) -> Handler:
            taken = self._routes.setdefault((method, path), Route(method, path, handler, identity))
            if taken.handler is not handler:
                raise ValueError(f"{method} {path} is already handled by {taken.handler}; choose another path")
            return handler

        return register

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())


ROUTES = Routes()
route = ROUTES.route

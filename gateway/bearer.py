"""The bearer token of a request: verified before its handler runs, and again before anything is stored.

Again, because a body may take hours and a pod may end meanwhile: what is recorded about an attempt must not change
after its pod was seen to have ended. `still_alive` and `while_alive` are the last thing that is asked before a store.
"""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from gateway.context import GATEWAY, POD, REFUSED
from gateway.identity import TOKEN_LIMIT_BYTES, VERDICT_TTL_S, WRITE_TTL_S, PodIdentity, Refused
from gateway.problem import Problem
from gateway.routes import Handler

_BEARER: Final = "bearer "


def verified(handler: Handler) -> Handler:
    """The handler, behind the verification of the bearer token; it finds the pod at `request[POD]`."""

    async def check(request: web.Request) -> web.StreamResponse:
        request[POD] = await _review(request, VERDICT_TTL_S)
        return await handler(request)

    return check


async def still_alive(request: web.Request) -> None:
    """Ask again whether the request's pod may talk here; call it when all that is left to do is to store.

    Raises:
        Problem: 401 or 403 when it may not, or not any more.
        ReviewUnavailableError: it cannot be told now.
    """
    request[POD] = await _review(request, WRITE_TTL_S)


async def while_alive(request: web.Request, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content unchanged.

    Raises:
        Problem, ReviewUnavailableError: as `still_alive`, instead of ending: who stores the stream must not keep it.
    """
    async for chunk in content:
        yield chunk
    await still_alive(request)


async def _review(request: web.Request, within: float) -> PodIdentity:
    verdict = await request.app[GATEWAY].reviewer.review(_token(request), within=within)
    if isinstance(verdict, Refused):
        request[REFUSED] = verdict
        status = 403 if verdict.known else 401
        remedy = "Only the checkout and upload containers of a running job's pod may talk here."
        raise Problem(status, verdict.reason, verdict.message, remedy)
    return verdict


def _token(request: web.Request) -> str:
    header = request.headers.get("Authorization", "")
    token = header[len(_BEARER) :].strip()
    if not header.lower().startswith(_BEARER) or not token:
        raise Problem(401, "no-token", "there is no bearer token", "Send Authorization: Bearer <projected token>.")
    if len(token) > TOKEN_LIMIT_BYTES:
        raise Problem(401, "token", f"the token has {len(token)} characters", "Send the pod's projected token.")
    return token

"""Reading a request's body: bounded in size, in memory and in the time it may stand still."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.context import GATEWAY, TRAFFIC
from gateway.problem import Problem, malformed, too_large, unavailable

# Pieces handed on: large enough that the cost of handing them on vanishes, small enough to hold in memory.
CHUNK_BYTES: Final = 1024 * 1024

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def answer_expectation_later(request: web.Request) -> None:
    """Say nothing yet: the expect handler of every route.

    A client that sent `Expect: 100-continue` learns of a refusal before it sends gigabytes; `read` tells it to go on.
    """
    expected = request.headers.get("Expect", "").lower()
    if expected != "100-continue":
        raise web.HTTPExpectationFailed(text=f"Expect: {expected[:100]}")


async def read(request: web.Request, *, what: str, limit: int, setting: str, seal: int = 0) -> AsyncIterator[bytes]:
    """The body in pieces of about `CHUNK_BYTES`.

    `what` names it for people, `limit` is its quota in bytes, `setting` where the operator sets that; `seal` bytes
    more are not counted.

    Raises:
        Problem: 413 over the limit (at once when Content-Length says so), 408 when the client stalls, 400 when it
            hangs up or the body is not valid HTTP, 415 when it is compressed by HTTP.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "encoding", "the body has a Content-Encoding", "Send the bytes as they are to be stored.")
    if request.content_length is not None and request.content_length > limit + seal:
        raise too_large(what, limit, setting)
    await _send_continue(request)
    traffic, stall = request[TRAFFIC], request.app[GATEWAY].limits.stall_seconds
    size, at_end = 0, False
    while not at_end:
        pieces, gathered = [], 0
        while gathered < CHUNK_BYTES:
            piece = await _next_piece(request, stall)
            if not piece:
                at_end = True
                break
            pieces.append(piece)
            gathered += len(piece)
        size += gathered
        traffic.received += gathered
        if size > limit + seal:
            raise too_large(what, limit, setting)
        if pieces:
            yield b"".join(pieces)


async def read_all(request: web.Request, *, what: str, limit: int, setting: str) -> bytes:
    """A small body whole; raises as `read` does."""
    return b"".join([chunk async for chunk in read(request, what=what, limit=limit, setting=setting)])


async def drain(request: web.Request, *, limit: int) -> None:
    """Read and forget the rest of a body, up to `limit` bytes.

    A client that sends its whole body before it reads must get to see the answer, not a broken connection.
    """
    left = limit
    stall = request.app[GATEWAY].limits.stall_seconds
    if request.headers.get("Expect"):
        return  # it waits for our word before it sends
    while left > 0 and (piece := await _next_piece(request, stall)):
        left -= len(piece)
        request[TRAFFIC].received += len(piece)


async def _next_piece(request: web.Request, stall: float) -> bytes:
    try:
        async with asyncio.timeout(stall):
            return await request.content.readany()
    except asyncio.CancelledError as error:
        # aiohttp puts a CancelledError into the bodies of requests that it cuts off when it stops; to pass it on would
        # cancel whoever reads, not whoever is to be stopped.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise unavailable("draining", "the gateway is stopping") from error
    except TimeoutError as error:
        message = f"nothing was received for {stall:g} s"
        raise Problem(408, "stalled", message, "Send it again.") from error
    except (OSError, ClientError, web.RequestPayloadError) as error:
        raise Problem(400, "disconnect", f"the body ended early: {error}", "Send it again.") from error
    except HttpProcessingError as error:
        raise malformed(f"the body is not valid HTTP: {error.message}", "Check what stands in between.") from error


async def _send_continue(request: web.Request) -> None:
    if request.headers.get("Expect") and not request.content.is_eof() and request.transport is not None:
        request.transport.write(_CONTINUE)
        await asyncio.sleep(0)

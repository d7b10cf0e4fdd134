"""Cache entries: saved once per key, restored by key or by the newest entry of a fallback prefix.

An entry is written once and never changed. Two gateways that save the same key at the same moment both write a whole,
sealed entry under one name, and the later one stays; within one gateway the second is told that the key is taken.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import quote

from aiohttp import web

from adapters.object_store import DOWNLOAD_CHUNK_BYTES, NotFound, ObjectMeta, StoreError
from gateway import body
from gateway.addressing import cache_key, cache_lookup
from gateway.bearer import while_alive
from gateway.context import GATEWAY, POD, REQUEST_ID, TRAFFIC, Gateway
from gateway.handlers.artifacts import seal_problem
from gateway.problem import Problem, malformed
from gateway.routes import route
from gateway.seal import SealError, Unsealing, verified
from runner_spec import storage
from runner_spec.transfer import ARCHIVE_FORMAT_HEADER, CACHE_KEY_HEADER, CACHES_PATH, SEALED_TYPE

LOG: Final = logging.getLogger("gateway.caches")

# The formats in which the runner packs; each has its own object name, so a key is looked up under both.
ARCHIVE_FORMATS: Final = ("tar.zst", "tar.gz")
# Visible ASCII but the percent sign: what a header can carry as it is, whatever else a key holds.
_HEADER_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class Entry(NamedTuple):
    """A stored entry."""

    meta: ObjectMeta
    key: str
    archive: str


@route("PUT", CACHES_PATH + "/{key:.+}")
async def put_cache(request: web.Request) -> web.StreamResponse:
    """Save an entry with its seal, unless the key has one already or is being saved right now."""
    gateway = request.app[GATEWAY]
    scope, key = _scope(request), cache_key(request.rel_url.raw_path)
    archive = request.headers.get(ARCHIVE_FORMAT_HEADER, "")
    if archive not in ARCHIVE_FORMATS:
        expected = " or ".join(ARCHIVE_FORMATS)
        raise malformed(f"{ARCHIVE_FORMAT_HEADER} is {archive[:100]!r}", f"Send {expected}.")
    taken = _entry_prefix(scope, key)
    stored = False
    if taken not in gateway.saving:
        gateway.saving.add(taken)
        try:
            if not await _exact(gateway, scope, key):
                await _save(request, storage.cache_entry_path(scope, key, archive))
                stored = True
        finally:
            gateway.saving.discard(taken)
    if not stored:
        return await _not_stored(request)
    return web.json_response({"stored": True}, status=201)


@route("HEAD", CACHES_PATH + "/{key:.+}")
async def head_cache(request: web.Request) -> web.StreamResponse:
    """Tell whether saving the key is needless."""
    scope, key = _scope(request), cache_key(request.rel_url.raw_path)
    found = await _exact(request.app[GATEWAY], scope, key)
    return web.Response(status=200, headers=_facts(found)) if found else _miss()


@route("GET", CACHES_PATH)
async def get_cache(request: web.Request) -> web.StreamResponse:
    """Send the entry of the key, else the newest one of the first fallback prefix that has any."""
    gateway, scope = request.app[GATEWAY], _scope(request)
    wanted = cache_lookup(request.rel_url.raw_query_string)
    found = await _exact(gateway, scope, wanted.key)
    for prefix in wanted.fallbacks:
        found = found or await _newest(gateway, scope, prefix)
    if not found:
        return _miss()
    async with gateway.transfer():
        try:
            opened = await gateway.store.open_file(found.meta.path)
            meta, content = opened or await gateway.store.open(found.meta.path)
        except NotFound:
            return _miss()  # expired between the look-up and now
        return await _send(request, found._replace(meta=meta), content)


async def _save(request: web.Request, name: str) -> None:
    gateway = request.app[GATEWAY]
    limit = gateway.limits.max_cache_bytes
    sealed = body.read(request, what="cache entry", limit=limit, setting="max_cache_bytes")
    async with gateway.transfer():
        try:
            await gateway.store.put_stream(name, while_alive(request, verified(sealed, Unsealing())))
        except SealError as error:
            raise seal_problem(error) from error


async def _not_stored(request: web.Request) -> web.StreamResponse:
    """Answer first, so that a sender who watches for it can stop; then let the others send to their end."""
    response = web.json_response({"stored": False})
    await response.prepare(request)
    await response.write_eof()
    with suppress(Problem):  # the answer is out: whoever hangs up now has got it, or does not care
        await body.drain(request, limit=request.app[GATEWAY].limits.max_cache_bytes)
    return response


async def _exact(gateway: Gateway, scope: str, key: str) -> Entry | None:
    _entry_prefix(scope, key)
    found = []
    for archive in ARCHIVE_FORMATS:
        try:
            meta = await gateway.store.head(storage.cache_entry_path(scope, key, archive))
        except NotFound:
            continue
        found.append(Entry(meta, key, archive))
    return _latest(found)


async def _newest(gateway: Gateway, scope: str, prefix: str) -> Entry | None:
    names = gateway.store.list(storage.cache_prefix(scope), starting_with=_entry_prefix(scope, prefix))
    newest: Entry | None = None
    async for meta in names:
        parsed = storage.parse_cache_entry(scope, meta.path)
        # The name's prefix is the key's, but for a prefix that ends inside a character: ask the key itself.
        if parsed and parsed[0].startswith(prefix) and parsed[1] in ARCHIVE_FORMATS:
            newest = _latest([Entry(meta, *parsed), *([newest] if newest else [])])
    return newest


def _latest(entries: list[Entry]) -> Entry | None:
    # The name breaks ties: object stores keep whole seconds, and equal look-ups must give equal answers.
    return max(entries, key=lambda entry: (entry.meta.last_modified, entry.meta.path), default=None)


async def _send(request: web.Request, entry: Entry, content: AsyncIterator[bytes] | BinaryIO) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": SEALED_TYPE, **_facts(entry)})
    response.content_length = entry.meta.size
    traffic = request[TRAFFIC]
    try:
        await response.prepare(request)
        if isinstance(content, AsyncIterator):
            await _send_chunks(request, response, content)
        else:
            await _send_file(request, content, entry.meta.size)
        await response.write_eof()
    except (StoreError, TimeoutError, OSError) as error:
        # The head is sent: the only way left to say that the rest will not come is to cut the connection.
        traffic.reason = "send-failed"
        LOG.warning(
            "Cache entry not sent whole: %s",
            error,
            extra={"action": "cache_send_failed", "request_id": request[REQUEST_ID], "sent": traffic.sent},
        )
        if request.transport is not None:
            request.transport.abort()
    finally:
        if not isinstance(content, AsyncIterator):
            content.close()
    return response


async def _send_chunks(request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes]) -> None:
    stall = request.app[GATEWAY].limits.stall_seconds
    async for chunk in chunks:
        async with asyncio.timeout(stall):
            await response.write(chunk)
        request[TRAFFIC].sent += len(chunk)


async def _send_file(request: web.Request, file: BinaryIO, size: int) -> None:
    """The file, by the system itself, past the response (whose head is out): a piece at a time, for `stall_seconds`.

    Raises:
        TimeoutError, OSError: the client takes nothing more, is gone, or the file has become shorter.
    """
    stall = request.app[GATEWAY].limits.stall_seconds
    loop, traffic = asyncio.get_running_loop(), request[TRAFFIC]
    while traffic.sent < size:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        async with asyncio.timeout(stall):
            count = min(DOWNLOAD_CHUNK_BYTES, size - traffic.sent)
            sent = await loop.sendfile(transport, file, traffic.sent, count)
        if not sent:
            raise OSError(f"the entry has {traffic.sent} bytes, not {size}")
        traffic.sent += sent


def _scope(request: web.Request) -> str:
    scope = request[POD].cache_scope
    if scope is None:
        message = "this job has no cache scope"
        raise Problem(403, "no-cache-scope", message, "Declare a cache in the job's description.")
    return scope


def _entry_prefix(scope: str, key: str) -> str:
    try:
        return storage.cache_path(scope, key)
    except storage.NameTooLongError as error:
        raise malformed(str(error), "Use a shorter cache key.") from error


def _facts(entry: Entry) -> dict[str, str]:
    key = quote(entry.key.encode("utf-8", "surrogateescape"), safe=_HEADER_SAFE)
    return {CACHE_KEY_HEADER: key, ARCHIVE_FORMAT_HEADER: entry.archive}


def _miss() -> web.Response:
    problem = Problem(404, "cache-miss", "no entry has this key or fallback", "None needed: save one afterwards.")
    return problem.response()

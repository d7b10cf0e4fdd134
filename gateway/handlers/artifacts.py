"""Artifacts and the manifest of an attempt: `PUT` only; people read them elsewhere.

The manifest comes last and closes the attempt: from then on its artifacts are what it says they are, and nobody who
got hold of the pod's token can change what success was recorded from.
"""

import json
from collections.abc import AsyncIterator

from aiohttp import web

from adapters.object_store import NotFound
from gateway import body
from gateway.addressing import artifact_address
from gateway.bearer import still_alive, while_alive
from gateway.context import GATEWAY, POD, Gateway
from gateway.identity import PodIdentity
from gateway.problem import Problem, malformed
from gateway.routes import route
from gateway.seal import SealError, Unsealing, content_of
from runner_spec import storage
from runner_spec.transfer import ARTIFACTS_PATH, MANIFEST_PATH, SEAL_BYTES


@route("PUT", ARTIFACTS_PATH + "/{artifact}/{path:.+}")
async def put_artifact(request: web.Request) -> web.StreamResponse:
    """Store one file without its seal; an earlier upload of it is replaced, because senders retry.

    Refused once the manifest is stored.
    """
    gateway, pod = request.app[GATEWAY], request[POD]
    address = artifact_address(request.rel_url.raw_path)
    name = storage.artifact_path(pod.job_id, pod.attempt, address.artifact, address.path)
    sealed = body.read(
        request,
        what=f"file {address.path!r}",
        limit=gateway.limits.max_artifact_bytes,
        setting="max_artifact_bytes",
        seal=SEAL_BYTES,
    )
    unsealing = Unsealing()
    async with gateway.transfer():
        try:
            content = while_alive(request, content_of(sealed, unsealing))
            await gateway.store.put_stream(name, _while_open(gateway, pod, content))
        except SealError as error:
            raise seal_problem(error) from error
    return web.json_response({"size": unsealing.size, "sha256": unsealing.finish()}, status=201)


@route("PUT", MANIFEST_PATH)
async def put_manifest(request: web.Request) -> web.StreamResponse:
    """Store the upload report as given, once it is known to be one JSON object; the first one stays."""
    gateway, pod = request.app[GATEWAY], request[POD]
    data = await body.read_all(
        request, what="manifest", limit=gateway.limits.max_manifest_bytes, setting="max_manifest_bytes"
    )
    parse_object(data, "manifest")
    await still_alive(request)
    stored = await _manifest(gateway, pod)
    if stored is None:
        await gateway.store.put(storage.manifest_path(pod.job_id, pod.attempt), data)
    elif stored != data:  # the same again is a sender whose answer was lost
        raise _closed(pod)
    return web.Response(status=204)


async def _while_open(gateway: Gateway, pod: PodIdentity, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in content:
        yield chunk
    if await _manifest(gateway, pod) is not None:
        raise _closed(pod)


async def _manifest(gateway: Gateway, pod: PodIdentity) -> bytes | None:
    try:
        return await gateway.store.get(storage.manifest_path(pod.job_id, pod.attempt))
    except NotFound:
        return None


def _closed(pod: PodIdentity) -> Problem:
    message = f"the manifest of attempt {pod.attempt} is stored: its artifacts are final"
    return Problem(409, "closed", message, "None: artifacts are uploaded before the manifest, once.")


def seal_problem(error: SealError) -> Problem:
    """422: what arrived is not what was sent."""
    return Problem(422, "seal", str(error), "Send it again; the file may have changed while it was read.")


def parse_object(data: bytes, what: str) -> dict[str, object]:
    """A JSON object from a body.

    Raises:
        Problem: 400 when it is anything else.
    """
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed(f"the {what} is not JSON: {error}", "Send one JSON object in UTF-8.") from error
    if not isinstance(parsed, dict):
        raise malformed(f"the {what} is not a JSON object", "Send one JSON object in UTF-8.")
    return parsed

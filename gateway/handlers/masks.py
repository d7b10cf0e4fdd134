"""The values that the worker must mask in an attempt's logs, as checkout knows them."""

import base64
import binascii

from aiohttp import web

from gateway import body
from gateway.bearer import still_alive
from gateway.context import GATEWAY, POD
from gateway.handlers.artifacts import parse_object
from gateway.problem import malformed, too_large
from gateway.routes import route
from runner_spec.transfer import MASKS_PATH


@route("PUT", MASKS_PATH)
async def put_masks(request: web.Request) -> web.StreamResponse:
    """Hand the values on to the worker; they replace those of an earlier request."""
    gateway, pod = request.app[GATEWAY], request[POD]
    limits = gateway.limits
    data = await body.read_all(
        request, what="list of values to mask", limit=limits.max_masks_bytes, setting="max_masks_bytes"
    )
    values = _decode(parse_object(data, "list of masks").get("values"))
    if len(values) > limits.max_masks:
        raise too_large(f"list of {len(values)} values to mask", limits.max_masks, "max_masks")
    await still_alive(request)
    await gateway.masks.put(pod.job_id, pod.attempt, values)
    return web.Response(status=204)


def _decode(values: object) -> list[bytes]:
    remedy = 'Send {"values": [base64, ...]}.'
    if not isinstance(values, list):
        raise malformed("values is not a list", remedy)
    decoded = []
    for index, value in enumerate(values):
        try:
            decoded.append(base64.b64decode(value, validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            # The value itself is a secret: it stays out of the message.
            raise malformed(f"values[{index}] is not base64", remedy) from error
    # An empty value masks nothing, and would match everywhere.
    return [value for value in decoded if value]

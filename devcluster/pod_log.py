"""`GET …/pods/{name}/log`: the query, the checks, the stream."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from aiohttp import web

from devcluster.clock import parse_timestamp
from devcluster.container_log import LogOptions, read_log
from devcluster.kubelet import Kubelet, LogUnavailableError
from devcluster.listing import boolean, integer
from devcluster.pod_fields import containers_by_role
from devcluster.resources import Object
from devcluster.status_error import Cause, bad_request, invalid, refused, wrong

_NOT_NEGATIVE: Final = "must be greater than or equal to 0"
_POSITIVE: Final = "must be greater than 0"


async def stream_log(request: web.Request, pod: Object, kubelet: Kubelet) -> web.StreamResponse:
    """Answer with a container's log.

    Raises:
        StatusError: 400 or 422, before the first byte.
    """
    options = log_options(request.query, pod["metadata"]["name"], time.time())
    container = select_container(pod, request.query.get("container", ""))
    if not pod["spec"].get("nodeName"):
        return web.Response(status=204)  # not scheduled: nothing, and no error, as the apiserver
    try:
        log = kubelet.log(pod, container, previous=boolean(request.query, "previous"))
    except LogUnavailableError as error:
        raise bad_request(str(error)) from error
    response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"})
    with suppress(ConnectionResetError):  # a follower may leave at any time: that is no error of this cluster
        await response.prepare(request)
        await response.write(b"")
        async for chunk in read_log(log, options):
            await response.write(chunk)
    return response


def log_options(query: Mapping[str, str], pod_name: str, now: float) -> LogOptions:
    """Read the query; `sinceTime` loses its fraction of a second on the way to the kubelet, as in a real cluster.

    Raises:
        StatusError: 400 for a malformed value, 422 for one that is out of range.
    """
    tail, limit, seconds = integer(query, "tailLines"), integer(query, "limitBytes"), integer(query, "sinceSeconds")
    since, problems = None, list[Cause]()
    if text := query.get("sinceTime"):
        try:
            since = float(int(parse_timestamp(text)))
        except ValueError as error:
            message = f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse'
            raise bad_request(message) from error
    if tail is not None and tail < 0:
        problems.append(wrong("tailLines", tail, _NOT_NEGATIVE))
    if limit is not None and limit < 1:
        problems.append(wrong("limitBytes", limit, _POSITIVE))
    if seconds is not None and since is not None:
        problems.append(refused("", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    elif seconds is not None and seconds < 1:
        problems.append(wrong("sinceSeconds", seconds, _POSITIVE))
    if problems:
        raise invalid("PodLogOptions", pod_name, problems)
    if seconds is not None:
        since = now - seconds
    follow, timestamps = boolean(query, "follow"), boolean(query, "timestamps")
    return LogOptions(follow=follow, timestamps=timestamps, since=since, tail=tail, limit=limit)


def select_container(pod: Object, name: str) -> str:
    """The container whose log is meant.

    Raises:
        StatusError: 400 when it is unknown, or not named where there are several.
    """
    pod_name, spec = pod["metadata"]["name"], pod["spec"]
    if name:
        if all(container["name"] != name for _, container in containers_by_role(spec)):
            raise bad_request(f"container {name} is not valid for pod {pod_name}")
        return name
    if len(spec["containers"]) == 1:
        return str(spec["containers"][0]["name"])
    listed = " ".join(container["name"] for _, container in containers_by_role(spec))
    raise bad_request(f"a container name must be specified for pod {pod_name}, choose one of: [{listed}]")

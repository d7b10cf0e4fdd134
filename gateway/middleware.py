"""Around every request: its id, one line in the log, the metrics, and errors as JSON with a remedy."""

import logging
import re
import time
import uuid
from typing import Final

from aiohttp import web

from adapters.object_store import (
    InvalidName,
    NameConflict,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from gateway.context import GATEWAY, POD, REFUSED, REQUEST_ID, TRAFFIC, Traffic
from gateway.identity import BoundPod, ReviewUnavailableError
from gateway.masks import MasksUnavailableError
from gateway.problem import RETRY_AFTER_S, Problem, malformed, unavailable
from gateway.routes import Handler

ACCESS_LOG: Final = logging.getLogger("gateway.access")
LOG: Final = logging.getLogger("gateway")

REQUEST_ID_HEADER: Final = "Dynapod-Request-Id"

_FOREIGN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNMATCHED: Final = "unmatched"
_LOGGED_PATH_CHARACTERS: Final = 500
_SERVER_ERROR: Final = 500
_NOT_FOUND: Final = 404


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every request, also one whose handler failed, then log and count it."""
    started = time.perf_counter()
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request[REQUEST_ID] = given if _FOREIGN_ID.fullmatch(given) else uuid.uuid4().hex
    traffic = request[TRAFFIC] = Traffic()
    with request.app[GATEWAY].request():
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the last place where a failure can still become an answer
            problem = _problem(error, request)
            traffic.reason = problem.reason
            response = problem.response()
    _record(request, response, time.perf_counter() - started)
    return response


async def name_request(request: web.Request, response: web.StreamResponse) -> None:
    """Put the id into the head of a response: people quote it when they ask what went wrong."""
    if request.app[GATEWAY].draining:
        response.force_close()  # the client's next request belongs to another gateway
    if REQUEST_ID in request:
        response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]


def _problem(error: Exception, request: web.Request) -> Problem:
    match error:
        case Problem():
            return error
        case StoreError():
            return _store_problem(error)
        case web.HTTPException():
            reason = "not-found" if error.status == _NOT_FOUND else "http"
            return Problem(error.status, reason, error.reason or "", "See runner_spec.transfer for the protocol.")
        case ReviewUnavailableError():
            return unavailable("review-unavailable", str(error))
        case MasksUnavailableError():
            return unavailable("masks-unavailable", str(error))
        case _:
            facts = {"action": "handler_failed", "request_id": request[REQUEST_ID]}
            LOG.error("Handler failed", exc_info=error, extra=facts)
            return Problem(500, "internal", "the gateway failed", f"Report request {request[REQUEST_ID]}.")


def _store_problem(error: StoreError) -> Problem:
    # The store's own words may name buckets and folders: they go to the log, not to the job.
    LOG.warning("Object store: %s", error, extra={"action": "store_failed", "temporary": error.temporary})
    match error:
        case StoreFull():
            remedy = "The operator has to make room in the object store."
            return Problem(507, "store-full", "the object store is full", remedy, retry_after=RETRY_AFTER_S)
        case StoreUnavailable():
            return unavailable("store-unavailable", "the object store does not answer")
        case NameConflict():
            message = "an uploaded file has the name of a folder in this path, or the other way round"
            return Problem(409, "name-conflict", message, "A name can be a file or a folder, not both.")
        case InvalidName():
            return malformed("the object store cannot take this name", "Use a shorter or plainer name.")
        case _:
            message = "the object store refuses the gateway"
            return Problem(500, "store-refused", message, "The operator has to check bucket, credentials and rights.")


def _record(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    metrics, traffic = request.app[GATEWAY].metrics, request[TRAFFIC]
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else _UNMATCHED
    # The method of an unknown route is the client's invention: as a label it would have no bound.
    method = request.method if resource is not None else _UNMATCHED
    metrics.requests.labels(route, method, str(response.status)).inc()
    metrics.seconds.labels(route, method).observe(seconds)
    metrics.received.labels(route).inc(traffic.received)
    metrics.sent.labels(route).inc(traffic.sent)
    if traffic.reason:
        metrics.refusals.labels(traffic.reason).inc()
    pod, refused = request.get(POD), request.get(REFUSED)
    # A genuine token that is refused: whose it is.
    bound = refused.bound if refused else BoundPod(pod.namespace, pod.pod, pod.uid) if pod else None
    facts = {
        "action": "request",
        "request_id": request[REQUEST_ID],
        "method": request.method,
        "path": request.rel_url.raw_path[:_LOGGED_PATH_CHARACTERS],
        "status": response.status,
        "reason": traffic.reason,
        "seconds": round(seconds, 6),
        "received": traffic.received,
        "sent": traffic.sent,
        "job": pod.job_id if pod else None,
        "attempt": pod.attempt if pod else None,
        "namespace": bound.namespace if bound else None,
        "pod": bound.name if bound else None,
        **({"detail": refused.detail} if refused and refused.detail else {}),
    }
    ACCESS_LOG.log(
        _level(request, response, traffic),
        "%s %s -> %d %s",
        request.method,
        facts["path"],
        response.status,
        traffic.reason,
        extra=facts,
    )


def _level(request: web.Request, response: web.StreamResponse, traffic: Traffic) -> int:
    if response.status >= _SERVER_ERROR:
        return logging.ERROR
    if traffic.reason:
        return logging.WARNING
    # Probes come every few seconds and say nothing.
    return logging.INFO if POD in request else logging.DEBUG

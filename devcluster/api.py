"""The HTTP side: routes, authentication, errors as Status objects, the audit log.

What a request means is decided elsewhere (registry, listing, watch, patch); here it is read and answered.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from io import BytesIO
from typing import Any, Final

from aiohttp import web

from devcluster import discovery
from devcluster.audit import MUTATING, AuditEntry, AuditLog, Fault, FaultPlan, RequestFacts
from devcluster.deletion import DeleteOptions
from devcluster.kubelet import Kubelet
from devcluster.listing import boolean, list_objects, list_options
from devcluster.patch import apply_patch
from devcluster.pod_log import stream_log
from devcluster.registry import Registry
from devcluster.resources import NAMESPACES, PODS, STORED, TOKEN_REVIEWS, Object, Resource
from devcluster.schema import decode
from devcluster.status_error import (
    StatusError,
    bad_request,
    internal_error,
    method_not_allowed,
    unauthorized,
    unsupported_media_type,
)
from devcluster.store import Key, Store, Version
from devcluster.tokens import TokenIssuer
from devcluster.update import updated
from devcluster.watch import Watch, watch_options

_LOG: Final = logging.getLogger(__name__)
# MaxRequestBodyBytes of the apiserver.
MAX_BODY_BYTES: Final = 3 * 1024 * 1024
_LARGE_BODY_BYTES: Final = 1024 * 1024
_JSON: Final = "application/json"
_OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz", "/version"})
_BY_PLURAL: Final[Mapping[str, Resource]] = {resource.plural: resource for resource in STORED}
_SUBRESOURCES: Final = frozenset({"status", "log", "eviction"})

# The name of the object that a POST creates, for the audit log: it is not in the path. One context per connection.
_object_name: ContextVar[str] = ContextVar("object_name", default="")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The API over one store."""

    def __init__(  # noqa: PLR0917 - what the API is made of; built in one place
        self,
        store: Store,
        registry: Registry,
        kubelet: Kubelet,
        tokens: TokenIssuer,
        admin_token: str,
        audit: AuditLog,
        faults: FaultPlan | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._kubelet = kubelet
        self._tokens = tokens
        self._authorization = f"Bearer {admin_token}".encode()
        self._prefix = token_prefix(admin_token)
        self._audit = audit
        self._faults = faults
        self._closing = asyncio.Event()

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._outer])
        for prefix in ("", self._prefix):
            self._add_routes(app, prefix)
        return app

    def _add_routes(self, app: web.Application, prefix: str) -> None:
        def add(method: str, path: str, handler: Handler) -> None:
            app.router.add_route(method, prefix + path, handler)

        group, objects = f"/apis/{TOKEN_REVIEWS.group}", "/api/v1/namespaces/{namespace}/{resource}"
        for path in ("/healthz", "/livez", "/readyz"):
            add("GET", path, _healthy)
        add("GET", "/version", _document(discovery.version))
        add("GET", "/api", self._core_versions)
        add("GET", "/apis", _document(discovery.groups))
        add("GET", "/api/v1", _document(discovery.core_resources))
        add("GET", group, _document(discovery.group))
        add("GET", f"{group}/v1", _document(discovery.group_resources))
        add("POST", f"{group}/v1/tokenreviews", self._review_token)
        add("*", objects + "/{name}/{subresource}", self._object)
        add("*", objects + "/{name}", self._object)
        add("*", objects, self._collection)
        add("*", "/api/v1/{resource:namespaces}/{name}", self._object)
        add("*", "/api/v1/{resource}", self._collection)

    def close(self) -> None:
        """End all watches."""
        self._closing.set()
        self._store.wake()

    @web.middleware
    async def _outer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who asks, what goes wrong on request, errors as Status, and the record of it."""
        fault: Fault | None = None
        _object_name.set("")
        try:
            self._authenticate(request)
            if self._faults is not None and "resource" in request.match_info:
                fault = self._faults(_facts(request))
                await _suffer(request, fault)
            response = await handler(request)
        except StatusError as error:
            response = _status(error)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {MAX_BODY_BYTES}"
            response = _status(StatusError(413, "RequestEntityTooLarge", message))
        except web.HTTPException as error:
            response = web.Response(status=error.status, text="404 page not found\n" if error.status == 404 else "")  # noqa: PLR2004
        except Exception as error:  # noqa: BLE001 - a client gets an answer whatever happens; the log has the trace
            _LOG.exception("%s %s failed", request.method, request.path)
            response = _status(internal_error(error))
        if request.method in MUTATING:
            facts = _facts(request)
            name = facts.name or _object_name.get()
            agent = request.headers.get("User-Agent", "")
            verb, namespace, resource = facts.verb, facts.namespace, facts.resource
            self._audit.add(AuditEntry(verb, namespace, name, response.status, agent, resource, time.time()))
        if fault is not None and fault.lose_reply and request.transport is not None:
            request.transport.abort()
        return response

    def _authenticate(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        if request.path.startswith(f"{self._prefix}/"):
            return
        if request.path not in _OPEN_PATHS and not hmac.compare_digest(given, self._authorization):
            raise unauthorized()

    async def _core_versions(self, request: web.Request) -> web.Response:
        return _json(discovery.core_versions(request.host))

    async def _review_token(self, request: web.Request) -> web.Response:
        review = decode("TokenReview", await _body(request, TOKEN_REVIEWS.kind, f"{TOKEN_REVIEWS.group}/v1"))
        spec = review.get("spec", {})
        if not spec.get("token"):
            raise bad_request("token is required for TokenReview in authentication")
        status = self._tokens.review(spec["token"], spec.get("audiences", ()))
        metadata = review.get("metadata", {})
        body = {"kind": "TokenReview", "apiVersion": f"{TOKEN_REVIEWS.group}/v1", "metadata": metadata}
        return _json(body | {"spec": spec, "status": status}, 201)

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = _resource(request), request.match_info.get("namespace")
        if request.method == "GET":
            if boolean(request.query, "watch"):
                return await self._watch(request, resource, namespace)
            options = list_options(resource, namespace, request.query)
            return _raw(list_objects(self._store[resource], options))
        scoped = namespace is not None or not resource.namespaced
        if request.method == "POST" and scoped:
            return await self._create(request, resource, namespace or "")
        if request.method == "DELETE" and scoped and "deletecollection" in resource.verbs:
            return await self._delete_collection(request, resource, namespace)
        raise method_not_allowed()

    async def _create(self, request: web.Request, resource: Resource, namespace: str) -> web.Response:
        given = await _body(request, resource.kind, "v1")
        metadata = given.get("metadata")
        if isinstance(metadata, dict):
            _object_name.set(str(metadata.get("name") or metadata.get("generateName") or ""))
        strict = request.query.get("fieldValidation") == "Strict"
        obj = decode(resource.kind, given, strict=strict)
        version = self._registry.create(resource, namespace, obj, dry_run=request.query.get("dryRun") == "All")
        _object_name.set(version.obj["metadata"]["name"])
        return _raw(version.json, 201)

    async def _delete_collection(self, request: web.Request, resource: Resource, namespace: str | None) -> web.Response:
        options = DeleteOptions.parse(await _optional_body(request), request.query)
        selector = list_options(resource, namespace, request.query).selector
        deleted = [
            self._registry.delete(resource, key, options)
            for key, version in self._store[resource].sorted(namespace)
            if selector.matches(version.obj)
        ]
        items = b",".join(version.item for version in deleted)
        head: dict[str, Any] = {"kind": f"{resource.kind}List", "apiVersion": "v1"}
        head |= {"metadata": {"resourceVersion": str(self._store[resource].revision)}}
        return _raw(json.dumps(head).encode()[:-1] + b',"items":[' + items + b"]}")

    async def _watch(self, request: web.Request, resource: Resource, namespace: str | None) -> web.StreamResponse:
        options = watch_options(resource, namespace, request.query)
        watch = Watch(self._store[resource], options, self._closing)
        response = web.StreamResponse(headers={"Content-Type": _JSON, "Cache-Control": "no-cache, private"})
        with suppress(ConnectionResetError):  # a watcher may leave at any time, also in the middle of an event
            await response.prepare(request)
            async for lines in watch.lines():
                await response.write(lines)
        return response

    async def _object(self, request: web.Request) -> web.StreamResponse:
        resource, name = _resource(request), request.match_info["name"]
        key = (request.match_info.get("namespace", ""), name)
        subresource = request.match_info.get("subresource")
        if subresource is not None:
            return await self._subresource(request, resource, key, subresource)
        if request.method == "GET":
            return _raw(self._registry.existing(resource, key).json)
        if request.method == "DELETE" and "delete" in resource.verbs:
            return await self._delete(request, resource, key)
        if request.method == "PUT" and "update" in resource.verbs:
            return await self._put(request, resource, key)
        if request.method == "PATCH" and "patch" in resource.verbs:
            return await self._patch(request, resource, key)
        raise method_not_allowed()

    async def _subresource(
        self, request: web.Request, resource: Resource, key: Key, subresource: str
    ) -> web.StreamResponse:
        if resource is not PODS or subresource not in _SUBRESOURCES:
            raise web.HTTPNotFound
        if subresource == "log" and request.method == "GET":
            return await stream_log(request, self._registry.existing(PODS, key).obj, self._kubelet)
        if subresource == "status" and request.method == "GET":
            return _raw(self._registry.existing(PODS, key).json)
        if subresource == "status" and request.method == "PUT":
            return await self._put(request, resource, key, status=True)
        if subresource == "status" and request.method == "PATCH":
            return await self._patch(request, resource, key, status=True)
        if subresource == "eviction" and request.method == "POST":
            options = DeleteOptions.parse((await _json_body(request)).get("deleteOptions"), request.query)
            self._registry.delete(PODS, key, options)
            return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)
        raise method_not_allowed()

    async def _delete(self, request: web.Request, resource: Resource, key: Key) -> web.Response:
        options = DeleteOptions.parse(await _optional_body(request), request.query)
        version = self._registry.delete(resource, key, options)
        if resource is PODS:  # the pod strategy returns the object itself
            return _raw(version.json)
        details = {"name": key[1], "kind": resource.plural, "uid": version.obj["metadata"]["uid"]}
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    async def _put(self, request: web.Request, resource: Resource, key: Key, *, status: bool = False) -> web.Response:
        given = await _body(request, resource.kind, "v1")
        proposed = decode(resource.kind, given, strict=request.query.get("fieldValidation") == "Strict")
        name = proposed.get("metadata", {}).get("name", key[1])
        if name != key[1]:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({key[1]})")
        return _raw(self._store_update(request, resource, key, proposed, status=status).json)

    async def _patch(self, request: web.Request, resource: Resource, key: Key, *, status: bool = False) -> web.Response:
        patch = await _json_body(request)
        old = self._registry.existing(resource, key).obj
        proposed = decode(resource.kind, apply_patch(request.content_type, old, patch))
        return _raw(self._store_update(request, resource, key, proposed, status=status).json)

    def _store_update(
        self, request: web.Request, resource: Resource, key: Key, proposed: Object, *, status: bool
    ) -> Version:
        obj = updated(resource, self._registry.existing(resource, key).obj, proposed, status=status)
        self._registry.prepare_update(resource, obj)
        if request.query.get("dryRun") == "All":
            return Version(resource, obj)
        return self._registry.replace(resource, key, obj)


def token_prefix(token: str) -> str:
    """A path below which requests are authorised by the path itself: kubectl sends no token over plain HTTP."""
    return f"/as/{token}"


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


def _document(make: Callable[[], dict[str, Any]]) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return _json(make())

    return handler


def _resource(request: web.Request) -> Resource:
    resource = _BY_PLURAL.get(request.match_info["resource"])
    if resource is None or (resource is NAMESPACES and "namespace" in request.match_info):
        raise web.HTTPNotFound
    return resource


def _facts(request: web.Request) -> RequestFacts:
    info = request.match_info
    name, resource = info.get("name", ""), info.get("resource", "")
    verb = MUTATING.get(request.method) or ("get" if name else "list")
    if verb == "list" and boolean(request.query, "watch"):
        verb = "watch"
    elif verb == "delete" and not name:
        verb = "deletecollection"
    if "subresource" in info:
        resource = f"{resource}/{info['subresource']}"
    return RequestFacts(verb, resource or request.path.rpartition("/")[2], info.get("namespace", ""), name)


async def _suffer(request: web.Request, fault: Fault | None) -> None:
    if fault is None:
        return
    await asyncio.sleep(fault.delay)
    if fault.error is not None:
        raise fault.error
    if fault.cut_after is not None and request.transport is not None:
        asyncio.get_running_loop().call_later(fault.cut_after, request.transport.abort)


async def _json_body(request: web.Request) -> Any:  # noqa: ANN401 - any JSON
    data = await request.read()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"error decoding: couldn't get version/kind; json parse error: {error}") from error


async def _body(request: web.Request, kind: str, api_version: str) -> dict[str, Any]:
    if request.content_type not in (_JSON, "application/octet-stream"):  # the latter: no Content-Type given
        raise unsupported_media_type([_JSON])
    body = await _json_body(request)
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {kind}): it is not a JSON object")
    found = body.get("apiVersion", api_version)
    if found != api_version:
        expected = f"the API version in the data ({found}) does not match the expected API version ({api_version})"
        raise bad_request(expected)
    if body.get("kind", kind) != kind:
        raise bad_request(f'{body["kind"]} in version "{api_version}" cannot be handled as a {kind}')
    return body


async def _optional_body(request: web.Request) -> object:
    return await _json_body(request) if await request.read() else None


def _json(body: Mapping[str, Any], code: int = 200) -> web.Response:
    return _raw(json.dumps(body, separators=(",", ":")).encode(), code)


def _raw(body: bytes, code: int = 200) -> web.Response:
    # aiohttp wants large bodies as a file, to send them in parts: a list of thousands of pods.
    payload = BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body
    return web.Response(body=payload, status=code, content_type=_JSON)


def _status(error: StatusError) -> web.Response:
    response = _json(error.as_status(), error.code)
    if seconds := (error.details or {}).get("retryAfterSeconds"):
        response.headers["Retry-After"] = str(seconds)
    return response

"""Errors as the Kubernetes API reports them: a `Status` object with code, reason, message and details.

Wording and codes follow k8s.io/apimachinery/pkg/api/errors (release 1.34), because clients match on them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devcluster.resources import Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One field-level problem: `path` as in `spec.containers[0].name`, `text` as apimachinery prints it."""

    path: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class StatusError(Exception):
    """An answer of the API that is not a success; `code` is the HTTP status."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        list_continue: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.list_continue = list_continue

    def as_status(self) -> dict[str, Any]:
        """The `Status` object, JSON-pure."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.list_continue} if self.list_continue else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return status


def bad_request(message: str) -> StatusError:
    """400: the request cannot be understood."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401: no token, or one that this cluster never issued."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, why: str) -> StatusError:
    """403: understood and refused (admission)."""
    message = f'{resource.plural} "{name}" is forbidden: {why}'
    return StatusError(403, "Forbidden", message, details={"name": name, "kind": resource.plural})


def not_found(resource: Resource, name: str) -> StatusError:
    """404 for one named object."""
    message = f'{resource.qualified} "{name}" not found'
    return StatusError(404, "NotFound", message, details=_details(resource, name))


def method_not_allowed() -> StatusError:
    """405: the resource exists, the verb does not."""
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, details={})


def already_exists(resource: Resource, name: str, *, being_deleted: bool = False) -> StatusError:
    """409 on create."""
    prefix = "object is being deleted: " if being_deleted else ""
    message = f'{prefix}{resource.qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, details=_details(resource, name))


def conflict(kind: str, name: str, why: str) -> StatusError:
    """409 on an update or a precondition; `kind` is what the apiserver names there (plural, or Kind for deletes)."""
    message = f'Operation cannot be fulfilled on {kind} "{name}": {why}'
    return StatusError(409, "Conflict", message, details={"name": name, "kind": kind})


def modified(resource: Resource, name: str) -> StatusError:
    """409: the update was based on an older resourceVersion."""
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource.qualified, name, why)


def expired(message: str, *, list_continue: str | None = None) -> StatusError:
    """410: the resourceVersion or continue token is older than the cluster's memory."""
    return StatusError(410, "Expired", message, list_continue=list_continue)


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    """415: the body's content type is not one of `accepted`."""
    listed = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return StatusError(415, "UnsupportedMediaType", message)


def invalid(kind: str, name: str, causes: Sequence[Cause], *, group: str = "") -> StatusError:
    """422 with one cause per field; `kind` is the Kind (`Pod`)."""
    texts = list(dict.fromkeys(str(cause) for cause in causes))
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    details["kind"] = kind
    details["causes"] = [{"reason": c.reason, "message": c.text, "field": c.path} for c in causes]
    qualified = f"{kind}.{group}" if group else kind
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {listed}', details=details)


def internal_error(error: Exception) -> StatusError:
    """500, with the cause as the apiserver words it."""
    details = {"causes": [{"message": str(error)}]}
    return StatusError(500, "InternalError", f"Internal error occurred: {error}", details=details)


def too_large_resource_version(requested: int, current: int) -> StatusError:
    """504: the client asks for a future that this server has not seen."""
    message = f"Timeout: Too large resource version: {requested}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return StatusError(504, "Timeout", message, details={"causes": causes, "retryAfterSeconds": 1})


def quoted(value: object) -> str:
    """A value as apimachinery's field errors print it: strings quoted, everything else as JSON."""
    return json.dumps(value, ensure_ascii=False)


def required(path: str, why: str = "") -> Cause:
    """A field that is missing or empty."""
    return Cause(path, "FieldValueRequired", "Required value" + (f": {why}" if why else ""))


def wrong(path: str, value: object, why: str) -> Cause:
    """A field whose value breaks a rule."""
    return Cause(path, "FieldValueInvalid", f"Invalid value: {quoted(value)}: {why}")


def duplicate(path: str, value: object) -> Cause:
    """A field whose value must be unique and is not."""
    return Cause(path, "FieldValueDuplicate", f"Duplicate value: {quoted(value)}")


def dangling(path: str, value: object) -> Cause:
    """A field that names something which does not exist."""
    return Cause(path, "FieldValueNotFound", f"Not found: {quoted(value)}")


def refused(path: str, why: str) -> Cause:
    """A field that may not be set (or not like this)."""
    return Cause(path, "FieldValueForbidden", f"Forbidden: {why}")


def unsupported(path: str, value: object, supported: Sequence[str]) -> Cause:
    """A field whose value is not one of an enumeration."""
    listed = ", ".join(quoted(item) for item in supported)
    return Cause(path, "FieldValueNotSupported", f"Unsupported value: {quoted(value)}: supported values: {listed}")


def too_long(path: str, why: str) -> Cause:
    """A field that is larger than allowed."""
    return Cause(path, "FieldValueTooLong", f"Too long: {why}")


def _details(resource: Resource, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details

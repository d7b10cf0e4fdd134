"""LIST: selectors, limit and continue, over one consistent state."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from devcluster.resources import Resource
from devcluster.selectors import Selector, parse
from devcluster.status_error import (
    Cause,
    bad_request,
    expired,
    invalid,
    refused,
    too_large_resource_version,
    unsupported,
    wrong,
)
from devcluster.store import Collection, Key, Version

_CONTINUE_VERSION: Final = "meta.k8s.io/v1"
_INCONSISTENT: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
_LIST_GROUP: Final = "meta.k8s.io"
_MATCHES: Final = ("Exact", "NotOlderThan", "")
# A revision that means "now" in a continue token: what is left of a list whose own state is forgotten.
_NOW: Final = -1


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The query of a LIST or WATCH; `limit` 0 is no limit, `resource_version` None is not given."""

    selector: Selector
    namespace: str | None
    resource_version: int | None = None
    version_match: str = ""
    limit: int = 0
    token: str = ""


def list_options(resource: Resource, namespace: str | None, query: Mapping[str, str]) -> ListOptions:
    """Read a query.

    Raises:
        StatusError: 400 or 422 for a malformed one.
    """
    selector = parse(resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    return ListOptions(
        selector=selector,
        namespace=namespace,
        resource_version=_version(resource, query.get("resourceVersion", "")),
        version_match=query.get("resourceVersionMatch", ""),
        limit=max(integer(query, "limit") or 0, 0),
        token=query.get("continue", ""),
    )


def integer(query: Mapping[str, str], name: str) -> int | None:
    """A number in a query.

    Raises:
        StatusError: 400 when it is none.
    """
    text = query.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def boolean(query: Mapping[str, str], name: str) -> bool:
    """A flag in a query: present and not false, as the apiserver reads it."""
    return name in query and query[name].lower() not in ("false", "0")


def _version(resource: Resource, text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        why = f'strconv.ParseUint: parsing "{text}": invalid syntax'
        raise invalid(resource.kind, "", [wrong("resourceVersion", text, why)])
    return int(text)


def list_objects(collection: Collection, options: ListOptions) -> bytes:
    """The `…List` as JSON.

    Raises:
        StatusError: 400 (token), 410 (too old), 422 (options) or 504 (a resourceVersion from the future).
    """
    _check(options)
    revision, start = collection.revision, None
    asked = options.resource_version
    if asked is not None and asked > revision:
        raise too_large_resource_version(asked, revision)
    if options.version_match == "Exact" and asked:
        revision = asked
    if options.token:
        if asked:
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, start = _decode(options.token)
        if revision == _NOW:
            revision = collection.revision
    entries = collection.sorted_at(options.namespace, revision)
    if entries is None and start is not None:
        raise expired(_INCONSISTENT, list_continue=_encode(_NOW, start))
    if entries is None:
        raise expired("The resourceVersion for the provided list is too old.")
    if start is not None:
        entries = [entry for entry in entries if entry[0] > start]
    if not options.selector.everything:
        entries = [entry for entry in entries if options.selector.matches(entry[1].obj)]
    return _render(collection.resource, entries, options, revision)


def _render(resource: Resource, entries: list[tuple[Key, Version]], options: ListOptions, revision: int) -> bytes:
    metadata: dict[str, object] = {"resourceVersion": str(revision)}
    if options.limit and len(entries) > options.limit:
        remaining = len(entries) - options.limit
        entries = entries[: options.limit]
        metadata["continue"] = _encode(revision, entries[-1][0])
        if options.selector.everything:  # with a selector the apiserver does not know how many match
            metadata["remainingItemCount"] = remaining
    head = {"kind": f"{resource.kind}List", "apiVersion": "v1", "metadata": metadata}
    items = b",".join(version.item for _, version in entries)
    return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"items":[' + items + b"]}"


def _encode(revision: int, last: Key) -> str:
    # As the apiserver's: the first key that the next page may hold.
    token = {"v": _CONTINUE_VERSION, "rv": revision, "start": "/".join(part for part in last if part) + "\0"}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


def _decode(text: str) -> tuple[int, Key]:
    try:
        token = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        namespace, _, name = str(token["start"]).rstrip("\0").rpartition("/")
        revision, version = int(token["rv"]), token["v"]
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    if version != _CONTINUE_VERSION:
        raise bad_request(f"continue key is not valid: server does not recognize this encoded version {version!r}")
    return revision, (namespace, name)


def _check(options: ListOptions) -> None:
    match, problems = options.version_match, list[Cause]()
    path = "resourceVersionMatch"
    if not match:
        return
    if options.resource_version is None:
        problems.append(refused(path, "resourceVersionMatch is forbidden unless resourceVersion is provided"))
    if options.token:
        problems.append(refused(path, "resourceVersionMatch is forbidden when continue is provided"))
    if match not in _MATCHES:
        problems.append(unsupported(path, match, _MATCHES))
    if match == "Exact" and options.resource_version == 0:
        problems.append(refused(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if problems:
        raise invalid("ListOptions", "", problems, group=_LIST_GROUP)

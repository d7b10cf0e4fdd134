"""Patches: JSON merge (RFC 7386), JSON patch (RFC 6902), and the strategic merge as far as pods need it. Pure."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from devcluster.status_error import StatusError, bad_request, unsupported_media_type

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
# patchMergeKey of the lists that this API knows; other lists are replaced whole, as in a merge patch.
_MERGE_KEYS: Final[Mapping[str, str]] = {
    "conditions": "type",
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "hostIPs": "ip",
    "podIPs": "ip",
}
_PRIMITIVE_LISTS: Final = frozenset({"finalizers"})
_POINTER_END: Final = "-"


def apply_patch(media_type: str, target: dict[str, Any], patch: object) -> dict[str, Any]:
    """The patched object; `target` stays as it is.

    Raises:
        StatusError: 400 for a malformed patch, 415 for an unknown kind of patch, 422 for a JSON patch that fails.
    """
    if media_type == JSON_PATCH:
        if not isinstance(patch, list):
            raise bad_request("error decoding patch: a JSON patch is a list of operations")
        return _json_patch(target, patch)
    if media_type not in (MERGE_PATCH, STRATEGIC_PATCH):
        raise unsupported_media_type([JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH])
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}")
    return _merge(target, patch) if media_type == MERGE_PATCH else _strategic(target, patch)


def _merge(target: object, patch: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = _merge(result.get(name), value)
        else:
            result[name] = value
    return result


def _strategic(target: object, patch: Mapping[str, Any]) -> dict[str, Any]:
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            listed = name.partition("/")[2]
            result[listed] = [item for item in result.get(listed) or () if item not in value]
        elif name.startswith(("$setElementOrder/", "$retainKeys")):
            continue  # order hints of kubectl: nothing depends on them here
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = _strategic(result.get(name), value)
        elif isinstance(value, list):
            result[name] = _strategic_list(name, result.get(name) or [], value)
        else:
            result[name] = value
    return result


def _strategic_list(name: str, target: list[Any], patch: list[Any]) -> list[Any]:
    if name in _PRIMITIVE_LISTS:
        return [*target, *(item for item in patch if item not in target)]
    key = _MERGE_KEYS.get(name)
    if key is None or any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    result = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((i for i, known in enumerate(result) if known.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(item)
        else:
            result[at] = _strategic(result[at], item)
    return result


def _json_patch(target: dict[str, Any], operations: Sequence[Any]) -> dict[str, Any]:
    document: Any = {"": copy.deepcopy(target)}
    try:
        for operation in operations:
            _apply(document, operation)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise StatusError(422, "Invalid", message, details={}) from error
    result: dict[str, Any] = document[""]
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> None:  # noqa: ANN401 - any JSON
    kind, path = operation["op"], _pointer(operation["path"])
    if kind == "remove":
        _take(document, path)
    elif kind == "test":
        if _find(document, path) != operation["value"]:
            raise ValueError(f"testing value {operation['path']} failed: test failed")
    elif kind in ("add", "replace"):
        if kind == "replace":
            _find(document, path)  # it must exist
            _take(document, path)
        _put(document, path, operation["value"])
    elif kind in ("move", "copy"):
        source = _pointer(operation["from"])
        _put(document, path, _take(document, source) if kind == "move" else copy.deepcopy(_find(document, source)))
    else:
        raise ValueError(f"unexpected kind: {kind}")


def _pointer(text: str) -> list[str]:
    # The document is wrapped, so that the empty pointer (the whole document) has a parent too.
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")]


def _find(document: Any, path: Sequence[str]) -> Any:  # noqa: ANN401 - any JSON
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _take(document: Any, path: Sequence[str]) -> Any:  # noqa: ANN401 - any JSON
    parent = _find(document, path[:-1])
    return parent.pop(int(path[-1])) if isinstance(parent, list) else parent.pop(path[-1])


def _put(document: Any, path: Sequence[str], value: Any) -> None:  # noqa: ANN401 - any JSON
    parent = _find(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == _POINTER_END else int(path[-1]), value)
    else:
        parent[path[-1]] = value

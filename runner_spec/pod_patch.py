"""The operator's pod patch: merged into the finished manifest, last; and what of a manifest is its work."""

from collections.abc import Mapping, Sequence
from typing import Any


def merge_patch(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON has no common type
    """A new value: `patch` merged into `target`, neither changed.

    Mappings are merged deeply and null deletes a key (as RFC 7386 says). A list of named objects (containers,
    variables, volumes) is merged by `name`, new names at the end; any other list replaces the whole.
    """
    if isinstance(patch, Mapping):
        merged = dict(target) if isinstance(target, Mapping) else {}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge_patch(merged.get(key), value)
        return merged
    if isinstance(patch, list | tuple):
        return _merge_lists(target if isinstance(target, list) else [], list(patch))
    return patch


def is_applied(patch: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether the pod holds what the patch sets: merging it once more changes nothing."""
    return bool(merge_patch(pod, patch) == pod)


def sets(patch: Any, pod: Any, path: Sequence[str | int]) -> bool:  # noqa: ANN401 - as above
    """Whether what stands at `path` of the patched pod (or is missing there) is there by the patch's word."""
    for part in path:
        if isinstance(patch, Mapping):
            if part not in patch:
                return False
            patch = patch[part]
            pod = pod.get(part) if isinstance(pod, Mapping) else None
        elif isinstance(patch, list | tuple) and isinstance(part, int):
            item = pod[part] if isinstance(pod, list) and part < len(pod) else None
            name = item.get("name") if isinstance(item, Mapping) else None
            if not (patch and isinstance(name, str) and all(_is_named(other) for other in patch)):
                return True  # the list as a whole is the patch's
            found = [other for other in patch if other["name"] == name]
            if not found:
                return False
            patch, pod = found[-1], item
        else:
            return True  # a text, a number or null stands above
    return bool(path)


def _merge_lists(target: list[Any], patch: list[Any]) -> list[Any]:
    if not (target and patch and all(_is_named(item) for item in [*target, *patch])):
        return [merge_patch(None, item) for item in patch]
    merged = {item["name"]: item for item in target}
    for item in patch:
        merged[item["name"]] = merge_patch(merged.get(item["name"]), item)
    return list(merged.values())


def _is_named(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("name"), str)

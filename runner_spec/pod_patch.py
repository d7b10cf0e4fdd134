"""The operator's pod patch: merged into the finished manifest, last."""

from collections.abc import Mapping
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


def _merge_lists(target: list[Any], patch: list[Any]) -> list[Any]:
    if not (target and patch and all(_is_named(item) for item in [*target, *patch])):
        return [merge_patch(None, item) for item in patch]
    merged = {item["name"]: item for item in target}
    for item in patch:
        merged[item["name"]] = merge_patch(merged.get(item["name"]), item)
    return list(merged.values())


def _is_named(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("name"), str)

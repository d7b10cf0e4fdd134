"""Rules of a description that concern more than one field.

They look at the raw data, before and beside the models: a document with a wrong type in one place must still hear
about a duplicate name in another. So nothing here trusts a shape; what has the wrong one is left to the models.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from runner_spec.anatomy import ANNOTATIONS_LIMIT_BYTES
from runner_spec.problem import Problem, join_path, shorten
from runner_spec.steps import steps_fragment

PROBES: Final = ("tcp", "http", "command")
# What the annotations hold besides the steps and the plan: the job's id, cache scope, timeout, and their names.
ANNOTATIONS_RESERVE_BYTES: Final = 8 * 1024
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check(data: Mapping[str, Any]) -> list[Problem]:
    """Every broken rule."""
    return [
        *_duplicate_names(data, "steps", "after"),
        *_duplicate_names(data, "services"),
        *_duplicate_names(data, "artifacts"),
        *_duplicate_keys(data),
        *_env_and_secrets(data),
        *_source_kinds(data),
        *_probes(data),
        *_only_exclusions(data),
        *_script_size(data),
    ]


def _mappings(data: Mapping[str, Any], name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    items = data.get(name)
    for index, item in enumerate(items if isinstance(items, list | tuple) else ()):
        if isinstance(item, Mapping):
            yield index, item


def _texts(value: object) -> Iterator[tuple[int, str]]:
    for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
        if isinstance(item, str):
            yield index, item


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _repeated(places: Iterable[tuple[str, object]], remedy: str) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for path, value in places:
        if not isinstance(value, str):
            continue
        if value in first:
            yield Problem(path, f"the same as {first[value]}", shorten(value), remedy)
        first.setdefault(value, path)


def _duplicate_names(data: Mapping[str, Any], *fields: str) -> Iterator[Problem]:
    places = [
        (join_path((field, index, "name")), item.get("name"))
        for field in fields
        for index, item in _mappings(data, field)
    ]
    yield from _repeated(places, "give each its own name")


def _duplicate_keys(data: Mapping[str, Any]) -> Iterator[Problem]:
    places = [(join_path(("cache", index, "key")), item.get("key")) for index, item in _mappings(data, "cache")]
    yield from _repeated(places, "give each cache its own key, or list all paths under one")


def _env_and_secrets(data: Mapping[str, Any]) -> Iterator[Problem]:
    env = _mapping(data, "env")
    for name in _mapping(data, "secrets"):
        if name in env and isinstance(name, str):
            path = join_path(("secrets", name))
            yield Problem(path, "the variable is set in env and in secrets", shorten(name), "keep one of the two")


def _source_kinds(data: Mapping[str, Any]) -> Iterator[Problem]:
    source = _mapping(data, "source")
    if "git" in source and "folder" in source:
        yield Problem("source.folder", "both git and folder are given", "", "keep one of the two")


def _probes(data: Mapping[str, Any]) -> Iterator[Problem]:
    names = {item["name"] for _, item in _mappings(data, "services") if isinstance(item.get("name"), str)}
    for index, service in _mappings(data, "services"):
        ready = service.get("ready")
        if not isinstance(ready, Mapping):
            continue
        given = [probe for probe in PROBES if ready.get(probe) is not None]
        if len(given) != 1:
            message = f"{' and '.join(given)} are given" if given else "none of tcp, http and command is given"
            yield Problem(
                join_path(("services", index, "ready")), message, "", "give exactly one of tcp, http, command"
            )
        url = ready.get("http")
        if isinstance(url, str) and not _is_local(url, names):
            path = join_path(("services", index, "ready", "http"))
            remedy = f"write http://{service.get('name', 'NAME')}:PORT/PATH"
            yield Problem(path, "the URL's host is none of this job's services", shorten(url), remedy)


def _is_local(url: str, names: set[str]) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return True  # the model says that this is no URL
    return host is None or host in names or host in _LOCAL_HOSTS


def _only_exclusions(data: Mapping[str, Any]) -> Iterator[Problem]:
    for index, artifact in _mappings(data, "artifacts"):
        paths = artifact.get("paths")
        texts = [text for _, text in _texts(paths)]
        if texts and all(text.startswith("!") for text in texts):
            path = join_path(("artifacts", index, "paths"))
            yield Problem(
                path, "all patterns exclude, so nothing is ever uploaded", shorten(texts), "add a pattern without !"
            )


def annotation_problem(size: int) -> Problem | None:
    """The complaint about annotations of `size` bytes, or None when they fit."""
    if size <= ANNOTATIONS_LIMIT_BYTES:
        return None
    return Problem(
        "steps",
        f"steps and plan take {size} bytes of annotations of the pod; Kubernetes allows {ANNOTATIONS_LIMIT_BYTES}",
        "",
        "keep long scripts as files in the repository and call them from the step",
    )


def _script_size(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A first measure, for `validate` without a job id and a policy; `render` measures the real annotations."""
    scripts = [
        ("x", item["run"])
        for field in ("steps", "after")
        for _, item in _mappings(data, field)
        if isinstance(item.get("run"), str)
    ]
    try:
        size = len(steps_fragment(scripts, (), timeout=1, grace=0, after_budget=1).encode())
    except ValueError:
        return  # NUL or a lone surrogate: the model names the step
    for field in ("cache", "artifacts", "source"):
        size += _size(data.get(field))
    problem = annotation_problem(size + ANNOTATIONS_RESERVE_BYTES)
    if problem:
        yield problem


def _size(value: object) -> int:
    """Bytes of all texts in lists and mappings, however nested (bounded by the document's own depth)."""
    size, rest = 0, [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            size += len(item.encode("utf-8", "replace"))
        elif isinstance(item, Mapping):
            rest.extend(item.values())
        elif isinstance(item, list | tuple):
            rest.extend(item)
    return size

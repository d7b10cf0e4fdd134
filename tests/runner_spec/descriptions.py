"""Descriptions for tests: the whole language, the least of it, and strategies for everything between."""

import copy
from typing import Any

from hypothesis import strategies as st

WHOLE: dict[str, Any] = {
    "name": "test",
    "image": "python:3.12",
    "source": {
        "git": "https://git.example/acme/app.git",
        "ref": "main",
        "depth": 1,
        "submodules": False,
        "lfs": False,
        "credentials": {"secret": "git"},
    },
    "env": {"CI": "true"},
    "secrets": {"NPM_TOKEN": {"secret": "npm", "key": "token"}},
    "services": [
        {
            "name": "db",
            "image": "postgres:16",
            "env": {"POSTGRES_PASSWORD": "x"},
            "ready": {"tcp": 5432, "timeout": "60s"},
        }
    ],
    "cache": [{"key": "pip-{{ hash('requirements.txt') }}", "fallback": ["pip-"], "paths": [".cache/pip"]}],
    "steps": [{"name": "install", "run": "pip install -r requirements.txt"}, {"name": "test", "run": "pytest -q"}],
    "after": [{"name": "report", "run": "./report.sh"}],
    "artifacts": [
        {"name": "wheel", "paths": ["dist/*.whl"], "when": "success"},
        {"name": "junit", "paths": ["junit.xml"], "when": "always", "kind": "junit"},
    ],
    "timeout": "30m",
    "retry": {"attempts": 1},
    "resources": {"cpu": "1", "memory": "1Gi"},
}
LEAST: dict[str, Any] = {"image": "busybox", "steps": [{"run": "true"}]}


def whole(**changes: Any) -> dict[str, Any]:
    """The whole language, with top-level keys changed (None removes one)."""
    return _changed(WHOLE, changes)


def least(**changes: Any) -> dict[str, Any]:
    """The least job, with top-level keys added."""
    return _changed(LEAST, changes)


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    data = copy.deepcopy(base) | changes
    return {key: value for key, value in data.items() if value is not None}


# Text as hostile as a valid description may hold: quotes, newlines, references of Kubernetes and of the shell.
hostile_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.sampled_from(["$(HOME)", "$$(HOME)", "$$", "'; rm -rf /; '", '"\\\n', "`id`", "{{ x }}", "\u2028", "😀" * 9]),
)
env_names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True).filter(lambda name: not name.startswith("DYNAPOD_"))
Json = dict[str, Any]
Strategy = st.SearchStrategy[Any]

environments: Strategy = st.dictionaries(env_names, hostile_text, max_size=4)
scripts: Strategy = hostile_text.filter(lambda text: bool(text.strip()))
titles: Strategy = st.from_regex(r"[a-zA-Z0-9'\"$;é ]{1,30}", fullmatch=True).filter(lambda text: bool(text.strip()))
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in {"run", "checkout", "upload", "localhost"}
)
images: Strategy = st.sampled_from(
    ["busybox", "python:3.12", "registry.example:5000/a/b_c:V1.0", "a@sha256:" + "0" * 64]
)
durations: Strategy = st.one_of(st.integers(1, 21600), st.sampled_from(["90s", "30m", "1h30m"]))
cpus: Strategy = st.sampled_from(["1", "250m", 2, 0.5, "1.5"])
memories: Strategy = st.sampled_from(["64Mi", "1Gi", "1.5Gi", 134217728, "2e9"])
relative_paths: Strategy = st.from_regex(r"[a-z*][a-z*./-]{0,12}", fullmatch=True).filter(lambda path: ".." not in path)


def _optional(**fields: Strategy) -> Strategy:
    required: dict[str, Strategy] = {}
    return st.fixed_dictionaries(required, optional=fields)


def _steps(name: Strategy) -> Strategy:
    return st.fixed_dictionaries({"run": scripts}, optional={"name": name})


resources: Strategy = _optional(cpu=cpus, memory=memories, **{"ephemeral-storage": memories})
probes: Strategy = st.one_of(
    st.fixed_dictionaries({"tcp": st.integers(1, 65535)}, optional={"timeout": durations}),
    st.fixed_dictionaries({"http": st.just("http://localhost:80/health?a=b")}, optional={"timeout": durations}),
    st.fixed_dictionaries({"command": st.lists(hostile_text, min_size=1, max_size=3)}, optional={"timeout": durations}),
)
services: Strategy = st.lists(
    st.fixed_dictionaries(
        {"name": labels, "image": images},
        optional={
            "command": st.lists(hostile_text, min_size=1, max_size=3),
            "args": st.lists(hostile_text, max_size=3),
            "env": environments,
            "ready": probes,
            "resources": resources,
        },
    ),
    max_size=3,
    unique_by=lambda service: str(service["name"]),
)
git_sources: Strategy = st.fixed_dictionaries(
    {"git": st.sampled_from(["https://git.example/a.git", "git@git.example:a/b.git", "ssh://git@git.example/a"])},
    optional={
        "ref": st.sampled_from(["main", "refs/pull/7/head", "0123abc", "v1.0"]),
        "depth": st.integers(0, 100),
        "submodules": st.booleans(),
        "lfs": st.booleans(),
        "credentials": st.just({"secret": "git"}),
    },
)
caches: Strategy = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.from_regex(r"[a-z]{1,9}", fullmatch=True),
            "paths": st.lists(relative_paths, min_size=1, max_size=2),
        }
    ),
    max_size=2,
    unique_by=lambda cache: str(cache["key"]),
)
artifacts: Strategy = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,9}", fullmatch=True),
            "paths": st.lists(relative_paths, min_size=1, max_size=2),
        },
        optional={
            "when": st.sampled_from(["success", "failure", "always"]),
            "kind": st.sampled_from(["file", "junit"]),
            "optional": st.booleans(),
        },
    ),
    max_size=3,
    unique_by=lambda artifact: str(artifact["name"]),
)
_optional_keys: dict[str, Strategy] = {
    "name": st.from_regex(r"[a-z]([a-z ._/-]{0,20}[a-z])?", fullmatch=True),
    "source": git_sources,
    "env": environments,
    "secrets": st.dictionaries(env_names.map("S_".__add__), st.just({"secret": "npm", "key": "token"}), max_size=3),
    "services": services,
    "cache": caches,
    "after": st.lists(_steps(titles), max_size=2, unique_by=lambda step: step.get("name", object())),
    "artifacts": artifacts,
    "timeout": durations,
    "retry": _optional(attempts=st.integers(1, 10)),
    "resources": resources,
}


def _consistent(data: Json) -> bool:
    return not data.get("env", {}).keys() & data.get("secrets", {}).keys()


_all_descriptions: Strategy = st.fixed_dictionaries(
    {"image": images, "steps": st.lists(st.fixed_dictionaries({"run": scripts}), min_size=1, max_size=4)},
    optional=_optional_keys,
)
descriptions: Strategy = _all_descriptions.filter(_consistent)

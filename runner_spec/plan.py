"""The plan: what `checkout` and `upload` are to do, as JSON in an annotation of the pod.

Standard library only: written by `render`, read inside the pod. The scripts of the steps are not in it; they travel
in a second annotation, as a shell fragment (`steps`), because the shim that runs them is a shell script.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from runner_spec.anatomy import TERMINATION_MESSAGE_LIMIT_BYTES

PLAN_VERSION = 1

When = Literal["success", "failure", "always"]
ArtifactKind = Literal["file", "junit"]


@dataclass(frozen=True, slots=True)
class GitSource:
    """A git repository to check out into the workspace.

    `ref` is a branch, a tag, a full or abbreviated commit, or a full ref such as `refs/pull/7/head`; None is the
    remote's HEAD. `depth` 0 is the full history. `credentials` says that the credentials folder is mounted.
    """

    url: str
    ref: str | None = None
    depth: int = 1
    submodules: bool = False
    lfs: bool = False
    credentials: bool = False


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A local folder, mounted read-only for `checkout`, to be copied into the workspace.

    `files` restricts the copy to these paths (relative, `/`-separated); None copies all but `.git` and `.dynapod`.
    """

    files: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """One cache: restored by checkout, saved by upload.

    `key` may hold `{{ hash('glob', …) }}`, resolved against the workspace after checkout. `fallback` are prefixes,
    tried in order when no entry has the key. `paths` are relative to the workspace, or start with `~/` (home).
    """

    key: str
    paths: tuple[str, ...]
    fallback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactPlan:
    """Files to upload under one name; globs with `**`, and `!` to exclude, relative to the workspace."""

    name: str
    paths: tuple[str, ...]
    when: When = "success"
    kind: ArtifactKind = "file"
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ReadyPlan:
    """A service to wait for at the end of checkout. Exactly one of `tcp` and `http` is set; seconds in `timeout`."""

    service: str
    tcp: int | None = None
    http: str | None = None
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything `checkout` and `upload` need to know; `masks` names the mounted files of the job's secrets.

    `shim` says that `checkout` is to bring the shell and the shim. Fields with a default may be missing: a worker of an
    older version has rendered the pod.
    """

    job: str
    attempt: int
    git: GitSource | None = None
    folder: FolderSource | None = None
    caches: tuple[CachePlan, ...] = ()
    artifacts: tuple[ArtifactPlan, ...] = ()
    ready: tuple[ReadyPlan, ...] = ()
    masks: tuple[str, ...] = ()
    upload_budget: float = 300.0  # seconds that upload may take after `run` has ended
    shim: bool = False
    report_limit: int = TERMINATION_MESSAGE_LIMIT_BYTES  # bytes of a container's termination message that are kept
    version: int = field(default=PLAN_VERSION)

    def to_json(self) -> str:
        """Compact JSON with sorted keys: equal plans give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` wrote.

        Raises:
            ValueError: when the text is not a plan, or one of another version (an older runner image, say).
        """
        data: dict[str, Any] = json.loads(text)
        if data.get("version") != PLAN_VERSION:
            raise ValueError(f"plan version {data.get('version')!r}; this runner understands {PLAN_VERSION}")
        data["git"] = GitSource(**data["git"]) if data["git"] else None
        if data["folder"]:
            files = data["folder"]["files"]
            data["folder"] = FolderSource(files=None if files is None else tuple(files))
        data["caches"] = tuple(
            CachePlan(key=c["key"], paths=tuple(c["paths"]), fallback=tuple(c["fallback"])) for c in data["caches"]
        )
        data["artifacts"] = tuple(ArtifactPlan(**{**a, "paths": tuple(a["paths"])}) for a in data["artifacts"])
        data["ready"] = tuple(ReadyPlan(**r) for r in data["ready"])
        data["masks"] = tuple(data["masks"])
        return cls(**data)

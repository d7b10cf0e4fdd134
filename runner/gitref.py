"""What a source's `ref` means on its server: a branch, a tag, another ref or a commit. Pure."""

import re
from dataclasses import dataclass
from typing import Final, Literal

_COMMIT: Final = re.compile(r"[0-9a-f]{4,64}")
_FULL_LENGTHS: Final = frozenset({40, 64})  # SHA-1, SHA-256
# git check-ref-format(1), and no leading dash: git would take it for an option.
BAD_REF: Final = re.compile(r"^-|^/|/$|//|\.\.|@\{|\.lock(/|$)|(^|/)\.|\.$|[\x00-\x20\x7f~^:?*\[\\]|^@$")
_OWN_REF: Final = "refs/dynapod/checkout"


@dataclass(frozen=True, slots=True)
class Target:
    """What a ref turned out to be. `name` is the full ref, or the commit."""

    kind: Literal["branch", "tag", "ref", "commit"]
    name: str

    @property
    def is_full(self) -> bool:
        """Whether the name is a whole commit hash, which a server may give out by itself."""
        return self.kind == "commit" and len(self.name) in _FULL_LENGTHS

    @property
    def refspec(self) -> str:
        """What to ask the server for, and where to keep it."""
        match self.kind:
            case "branch":
                return f"+{self.name}:refs/remotes/origin/{self.name.removeprefix('refs/heads/')}"
            case "tag":
                return f"+{self.name}:{self.name}"
            case "ref":
                return f"+{self.name}:{_OWN_REF}"
            case "commit":
                return self.name

    @property
    def checkout(self) -> tuple[str, ...]:
        """Arguments of `git checkout`."""
        match self.kind:
            case "branch":
                branch = self.name.removeprefix("refs/heads/")
                return ("-B", branch, f"refs/remotes/origin/{branch}")
            case "tag":
                return ("--detach", self.name)
            case "ref":
                return ("--detach", _OWN_REF)
            case "commit":
                return ("--detach", self.name)


def candidates(ref: str | None) -> tuple[str, ...]:
    """The full refs that `ref` may mean, best first; branches win over tags, as with `git clone --branch`."""
    if ref is None:
        return ("HEAD",)
    if ref.startswith("refs/") or ref == "HEAD":
        return (ref,)
    return (f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/{ref}")


def choose(ref: str | None, listing: str) -> Target | None:
    """What `ref` is, by the output of `git ls-remote --symref`; None when the server has no such thing."""
    lines = [line.split("\t", 1) for line in listing.splitlines() if "\t" in line]
    symbolic = {name: value.removeprefix("ref: ") for value, name in lines if value.startswith("ref: ")}
    there = {name for value, name in lines if not value.startswith("ref: ")}
    for name in candidates(ref):
        if name in there:
            name = symbolic.get(name, name) if name == "HEAD" else name  # noqa: PLW2901 - HEAD stands for a branch
            prefix = name.split("/")[1] if name.startswith("refs/") else ""
            kind: Literal["branch", "tag", "ref"] = (
                "branch" if prefix == "heads" else "tag" if prefix == "tags" else "ref"
            )
            return Target(kind, name)
    if ref is not None and _COMMIT.fullmatch(ref):
        return Target("commit", ref)
    return None

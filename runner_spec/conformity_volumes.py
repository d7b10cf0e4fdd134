"""Whether the volumes of a pod are those that the policy gives."""

from collections.abc import Iterator
from typing import Any, Final

from runner_spec import anatomy
from runner_spec.grammar import ENV_NAME
from runner_spec.manifest import Finding, Json, Path, known, mapping, mappings, match
from runner_spec.policy import Policy
from runner_spec.quantity import parse_quantity

_SECRET_MODES: Final = (0o400, 0o440)


def volume_conformity(path: Path, volume: Json, policy: Policy) -> Iterator[Finding]:
    """What is wrong with one volume."""
    name = str(volume.get("name"))
    if name == "bin" and policy.shim_delivery == "image-volume":
        image = {"reference": policy.runner_image, "pullPolicy": policy.image_pull_policy}
        yield from match(path, volume, {"name": name, "image": image})
    elif name in ("workspace", "home", "state", "bin", "tmp"):
        yield from _folder(path, volume, name, policy)
    elif name in ("plan", "token"):
        yield from match(path, volume, _PLAN_VOLUME if name == "plan" else _TOKEN_VOLUME)
    elif name == "source":
        kind = {"path": mapping(volume.get("hostPath")).get("path"), "type": "Directory"}  # the path: `containment`
        yield from match(path, volume, {"name": name, "hostPath": kind})
    elif name == "credentials":
        secret = mapping(volume.get("secret"))
        yield from known(path, volume, ("name", "secret"))
        yield from known((*path, "secret"), secret, ("secretName", "defaultMode", "optional"))
        yield from secret_conformity((*path, "secret"), secret.get("secretName"), None, policy)
        yield from _mode((*path, "secret"), secret)
    elif name == "secrets":
        yield from _secret_files(path, volume, policy)
    else:
        yield Finding(path, "the policy gives no pod this volume", name)


def _folder(path: Path, volume: Json, name: str, policy: Policy) -> Iterator[Finding]:
    """An empty folder on the node's disk, with a limit: unlimited, one job could fill the disk of all."""
    folder = mapping(volume.get("emptyDir"))
    yield from known(path, volume, ("name", "emptyDir"))
    yield from known((*path, "emptyDir"), folder, ("sizeLimit",))
    caps = {
        "workspace": policy.max_resources.ephemeral_storage,
        "home": policy.max_resources.ephemeral_storage,
        "tmp": policy.runner_resources.limits.ephemeral_storage,
    }
    cap = caps.get(name, parse_quantity(anatomy.SMALL_VOLUME))
    try:
        within = parse_quantity(folder.get("sizeLimit")) <= cap
    except ValueError:
        within = False
    if not within:
        message = f"a limit of {cap} at most is needed"
        yield Finding((*path, "emptyDir", "sizeLimit"), message, folder.get("sizeLimit"))


def _secret_files(path: Path, volume: Json, policy: Policy) -> Iterator[Finding]:
    projected = mapping(volume.get("projected"))
    yield from known(path, volume, ("name", "projected"))
    yield from known((*path, "projected"), projected, ("defaultMode", "sources"))
    yield from _mode((*path, "projected"), projected)
    for index, source in enumerate(mappings(projected.get("sources"))):
        where: Path = (*path, "projected", "sources", index)
        secret = mapping(source.get("secret"))
        yield from known(where, source, ("secret",))
        yield from known((*where, "secret"), secret, ("name", "items", "optional"))
        items, name = mappings(secret.get("items")), secret.get("name")
        if not items:
            yield from secret_conformity((*where, "secret"), name, None, policy)
        for place, item in enumerate(items):
            spot: Path = (*where, "secret", "items", place)
            yield from secret_conformity(spot, name, item.get("key"), policy)
            if set(item) != {"key", "path"} or not ENV_NAME.fullmatch(str(item["path"])):
                yield Finding(spot, "a file is called as its variable", item)


def secret_conformity(path: Path, name: object, key: object, policy: Policy) -> Iterator[Finding]:
    """Whether the policy lets jobs use this key of a Secret, None standing for all of it."""
    known_shape = isinstance(name, str) and isinstance(key, str | None)
    if not known_shape or not policy.allows_secret(str(name), None if key is None else str(key)):
        yield Finding(path, "policy.secrets does not allow this", f"{name}/{'*' if key is None else key}")


def _mode(path: Path, source: Json) -> Iterator[Finding]:
    if source.get("defaultMode") not in _SECRET_MODES:
        yield Finding((*path, "defaultMode"), "a secret is not for everybody to read", source.get("defaultMode"))


def _plan_item(file: str, annotation: str) -> dict[str, Any]:
    return {"path": file, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}


_PLAN_VOLUME: Final[dict[str, Any]] = {
    "name": "plan",
    "downwardAPI": {
        "defaultMode": 0o444,
        "items": [
            _plan_item(anatomy.PLAN_FILE, anatomy.ANNOTATION_PLAN),
            _plan_item(anatomy.STEPS_FILE, anatomy.ANNOTATION_STEPS),
        ],
    },
}
_TOKEN: Final = {"audience": anatomy.TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": anatomy.TOKEN_FILE}
_TOKEN_VOLUME: Final[dict[str, Any]] = {
    "name": "token",
    "projected": {"defaultMode": 0o440, "sources": [{"serviceAccountToken": _TOKEN}]},
}

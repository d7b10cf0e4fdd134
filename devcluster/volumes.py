"""A pod's volumes as folders of this machine.

`readOnly` is not enforced: a volume's folder is shared by the containers that mount it, so its permissions cannot
differ between them, and there is no mount namespace here. In a real cluster the kernel enforces it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from devcluster.environment import Lookup, data_of, select_container
from devcluster.pod_defaults import DEFAULT_MODE
from devcluster.pod_fields import field_value, resource_value
from devcluster.resources import CONFIG_MAPS, SECRETS, Object, Resource
from devcluster.runtime import Mount, StartRefusedError

# A token file is replaced when this share of its life is over (pkg/kubelet/token): a reader never has a dead one.
ROTATE_AFTER: Final = 0.8
_FOLDER_MODE: Final = 0o777  # emptyDir is writable by any uid in a real cluster too
_Files = dict[str, tuple[bytes, int]]  # relative path → content, mode
MintToken = Callable[[Object, str, int], str]  # pod, audience, seconds


class MountError(Exception):
    """A volume cannot be set up (yet); the message is the kubelet's."""

    def __init__(self, volume: str, why: str) -> None:
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {why}')


class PodVolumes:
    """The volumes of one pod, below `folder`."""

    def __init__(
        self, folder: Path, lookup: Lookup, mint: MintToken, *, node_name: str, capacity: Mapping[str, int]
    ) -> None:
        self._folder = folder
        self._lookup = lookup
        self._mint = mint
        self._node_name = node_name
        self._capacity = capacity

    def set_up(self, pod: Object) -> None:
        """Make every volume of the pod; may be repeated after a failure.

        Raises:
            MountError: something that a volume needs is missing.
        """
        for volume in pod["spec"].get("volumes", ()):
            name = volume["name"]
            if "hostPath" in volume:
                _check_host_path(name, volume["hostPath"])
                continue
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(_FOLDER_MODE)
            files = self._files(pod, volume)
            try:
                _write(folder, files)
            except OSError as error:
                raise MountError(name, str(error)) from error

    def refresh(self, pod: Object) -> None:
        """Write the parts that follow the pod: labels and annotations, and fresh tokens."""
        for volume in pod["spec"].get("volumes", ()):
            if "downwardAPI" in volume or "projected" in volume:
                _write(self._folder / volume["name"], self._files(pod, volume))

    def rotation_seconds(self, pod: Object) -> float | None:
        """How long until `refresh` must mint new tokens; None when the pod has none."""
        lives = [
            source["serviceAccountToken"]["expirationSeconds"]
            for volume in pod["spec"].get("volumes", ())
            for source in volume.get("projected", {}).get("sources", ())
            if "serviceAccountToken" in source
        ]
        return min(lives) * ROTATE_AFTER if lives else None

    def mounts(self, pod: Object, container: Mapping[str, Any]) -> tuple[Mount, ...]:
        """What the container's mount paths stand for.

        Raises:
            StartRefusedError: CreateContainerConfigError, when a subPath cannot be made.
        """
        hosts = {v["name"]: v["hostPath"]["path"] for v in pod["spec"].get("volumes", ()) if "hostPath" in v}
        found = []
        for mount in container.get("volumeMounts", ()):
            host = Path(hosts.get(mount["name"], self._folder / mount["name"]))
            if mount.get("subPath"):
                host = host / mount["subPath"]
                try:
                    if not host.exists():
                        host.mkdir(parents=True)
                except OSError as error:
                    message = f'failed to create subPath directory for volumeMount "{mount["name"]}": {error}'
                    raise StartRefusedError("CreateContainerConfigError", message) from error
            found.append(Mount(mount["mountPath"], host))
        return tuple(found)

    def _files(self, pod: Object, volume: Mapping[str, Any]) -> _Files:
        name = volume["name"]
        if "secret" in volume:
            source = volume["secret"]
            return self._config(name, SECRETS, source["secretName"], source, source["defaultMode"])
        if "configMap" in volume:
            source = volume["configMap"]
            return self._config(name, CONFIG_MAPS, source["name"], source, source["defaultMode"])
        if "downwardAPI" in volume:
            source = volume["downwardAPI"]
            return dict(self._downward(name, pod, source.get("items", ()), source["defaultMode"]))
        files: _Files = {}
        if projected := volume.get("projected"):
            mode = projected.get("defaultMode", DEFAULT_MODE)
            for source in projected.get("sources", ()):
                files.update(self._projection(name, pod, source, mode))
        return files

    def _projection(self, volume: str, pod: Object, source: Mapping[str, Any], mode: int) -> _Files:
        if token := source.get("serviceAccountToken"):
            minted = self._mint(pod, token.get("audience", ""), token["expirationSeconds"])
            # 0600: the kubelet writes tokens so when the pod has no fsGroup and one user.
            return {token["path"]: (minted.encode(), 0o600)}
        if downward := source.get("downwardAPI"):
            return dict(self._downward(volume, pod, downward.get("items", ()), mode))
        if secret := source.get("secret"):
            return self._config(volume, SECRETS, secret["name"], secret, mode)
        config = source.get("configMap", {})
        return self._config(volume, CONFIG_MAPS, config["name"], config, mode) if config else {}

    def _config(self, volume: str, resource: Resource, name: str, source: Mapping[str, Any], mode: int) -> _Files:
        obj = self._lookup(resource, name)
        optional = source.get("optional", False)
        if obj is None:
            if optional:
                return {}
            raise MountError(volume, f'{resource.kind.lower()} "{name}" not found')
        data = data_of(resource, obj)
        if not (items := source.get("items")):
            return {key: (value, mode) for key, value in data.items()}
        files: _Files = {}
        for item in items:
            if item["key"] in data:
                files[item["path"]] = (data[item["key"]], item.get("mode", mode))
            elif not optional:
                raise MountError(volume, f"references non-existent {resource.kind.lower()} key: {item['key']}")
        return files

    def _downward(
        self, volume: str, pod: Object, items: Sequence[Mapping[str, Any]], mode: int
    ) -> Iterator[tuple[str, tuple[bytes, int]]]:
        for item in items:
            try:
                if field := item.get("fieldRef"):
                    text = field_value(pod, field["fieldPath"], node_name=self._node_name)
                else:
                    text = self._resource(pod, item["resourceFieldRef"])
            except ValueError as error:
                raise MountError(volume, str(error)) from error
            yield item["path"], (text.encode("utf-8", "surrogatepass"), item.get("mode", mode))

    def _resource(self, pod: Object, reference: Mapping[str, Any]) -> str:
        target = select_container(pod, reference.get("containerName", ""))
        if target is None:
            raise ValueError(f"container {reference.get('containerName', '')} not found")
        return resource_value(target, reference.get("resource", ""), reference.get("divisor", "1"), self._capacity)


def _write(folder: Path, files: _Files) -> None:
    for relative, (content, mode) in files.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and moved: a reader sees the old content or the new, never a part.
        aside = target.with_name(f".{target.name}.new")
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        aside.replace(target)


def _check_host_path(name: str, source: Mapping[str, Any]) -> None:
    path, kind = Path(source["path"]), source.get("type", "")
    why = ""
    try:
        if kind == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate":
            path.touch()
    except OSError as error:
        why = str(error)
    if kind.startswith("Directory") and not path.is_dir():
        why = why or f"hostPath type check failed: {path} is not a directory"
    elif kind.startswith("File") and not path.is_file():
        why = why or f"hostPath type check failed: {path} is not a file"
    if why:
        raise MountError(name, why)


def remove_tree(folder: Path) -> None:
    """Delete a folder with everything in it, also what a job has made unreadable or undeletable by its permissions."""
    for parent, folders, _ in os.walk(folder):
        for name in (".", *folders):
            path = Path(parent, name)
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            with suppress(OSError):
                Path(parent, name).unlink()
        for name in folders:
            path = Path(parent, name)
            with suppress(OSError):
                path.unlink() if path.is_symlink() else path.rmdir()
    with suppress(FileNotFoundError):
        folder.rmdir()

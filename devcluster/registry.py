"""Writing objects: what create, update and delete mean for each resource, whoever asks (HTTP or the kubelet)."""

import base64
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from devcluster.clock import timestamp
from devcluster.deletion import DeleteOptions, Deletion, check_preconditions, delete_pod
from devcluster.names import generated_name
from devcluster.pod_defaults import apply_defaults, qos_class
from devcluster.resources import (
    CONFIG_MAPS,
    EVENTS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
)
from devcluster.status_error import Cause, StatusError, already_exists, bad_request, forbidden, invalid, not_found
from devcluster.store import Key, Store, Version
from devcluster.validation import config_problems, metadata_problems, pod_problems

# The apiserver tries as often to find a free name from `generateName`.
_NAME_ATTEMPTS: Final = 8
_CLIENT_METADATA: Final = (
    "name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences",
)  # fmt: skip
DEFAULT_ACCOUNT: Final = "default"


class PodObserver(Protocol):
    """The kubelet, as far as the API knows it. Every call comes after the write, in order."""

    def created(self, pod: Object) -> None:
        """A pod was stored."""

    def changed(self, pod: Object) -> None:
        """Somebody else changed a pod: labels, annotations, status, or its deletion has begun or was hurried."""

    def removed(self, pod: Object) -> None:
        """A pod is gone from the API."""


class Registry:
    """The write side of the API."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._observer: PodObserver | None = None

    def observe(self, observer: PodObserver) -> None:
        """Tell the kubelet about pods from now on."""
        self._observer = observer

    def create(self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False) -> Version:
        """Store a decoded object.

        Raises:
            StatusError: 400, 403, 404 (namespace), 409 or 422.
        """
        metadata = self._accepted_metadata(resource, namespace, body.get("metadata", {}))
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp()}
        collection = self._store[resource]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._free_name(resource, namespace, metadata["generateName"])
        obj = {key: value for key, value in body.items() if key not in ("kind", "apiVersion")} | {"metadata": metadata}
        problems = _PREPARE[resource.plural](obj)
        if problems:
            raise invalid(resource.kind, metadata.get("name", ""), problems)
        if resource is PODS:
            self._admit(obj)
        key = (namespace if resource.namespaced else "", metadata["name"])
        if (existing := collection.get(key)) is not None:
            raise already_exists(
                resource, metadata["name"], being_deleted="deletionTimestamp" in existing.obj["metadata"]
            )
        if dry_run:
            return Version(resource, obj)
        version = collection.create(key, obj)
        if resource is PODS and self._observer:
            self._observer.created(version.obj)
        elif resource is NAMESPACES:
            self.create(SERVICE_ACCOUNTS, metadata["name"], {"metadata": {"name": DEFAULT_ACCOUNT}})
        return version

    def _accepted_metadata(self, resource: Resource, namespace: str, given: dict[str, Any]) -> dict[str, Any]:
        """What a client may say about a new object; the rest is the server's."""
        if given.get("resourceVersion", "0") not in ("", "0"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        metadata: dict[str, Any] = {name: given[name] for name in _CLIENT_METADATA if name in given}
        if resource.namespaced:
            if given.get("namespace", namespace) != namespace:
                message = "the namespace of the provided object does not match the namespace sent on the request"
                raise bad_request(message)
            if self._store[NAMESPACES].get(("", namespace)) is None:
                raise not_found(NAMESPACES, namespace)
            metadata["namespace"] = namespace
        return metadata

    def _free_name(self, resource: Resource, namespace: str, base: str) -> str:
        for _ in range(_NAME_ATTEMPTS):
            name = generated_name(base)
            if self._store[resource].get((namespace if resource.namespaced else "", name)) is None:
                break
        return name

    def _admit(self, pod: Object) -> None:
        metadata, account = pod["metadata"], pod["spec"]["serviceAccountName"]
        place = metadata["namespace"]
        if self._store[SERVICE_ACCOUNTS].get((place, account)) is None:
            why = f'error looking up service account {place}/{account}: serviceaccount "{account}" not found'
            raise forbidden(PODS, metadata["name"], why)

    def existing(self, resource: Resource, key: Key) -> Version:
        """The object, or 404.

        Raises:
            StatusError: 404.
        """
        version = self._store[resource].get(key)
        if version is None:
            raise not_found(resource, key[1])
        return version

    def delete(self, resource: Resource, key: Key, options: DeleteOptions) -> Version:
        """Delete, or begin to. The answer is the object's newest state.

        Raises:
            StatusError: 404, or 409 when a precondition is not met.
        """
        version = self.existing(resource, key)
        check_preconditions(version.obj, resource.kind, options)
        now = time.time()
        deletion = delete_pod(version.obj, options, now) if resource is PODS else Deletion(None, remove=True)
        if deletion.metadata is not None:
            obj = {**version.obj, "metadata": deletion.metadata}
            version = Version(resource, obj) if options.dry_run else self._store[resource].replace(key, obj)
        if options.dry_run:
            return version
        if deletion.remove:
            return self._remove(resource, key)
        if deletion.metadata is not None and self._observer:
            self._observer.changed(version.obj)
        return version

    def _remove(self, resource: Resource, key: Key) -> Version:
        version = self._store[resource].remove(key)
        if resource is PODS and self._observer:
            self._observer.removed(version.obj)
        return version

    def prepare_update(self, resource: Resource, obj: Object) -> None:
        """Complete and check the proposed state of a secret or config map, in place.

        Raises:
            StatusError: 422.
        """
        if resource in (SECRETS, CONFIG_MAPS) and (problems := _PREPARE[resource.plural](obj)):
            raise invalid(resource.kind, obj["metadata"]["name"], problems)

    def replace(self, resource: Resource, key: Key, obj: Object, *, by_kubelet: bool = False) -> Version:
        """Store a new state of an existing object; an unchanged one costs no revision.

        An object whose deletion only waited for its last finalizer goes with the update that removes it.
        """
        version = self.existing(resource, key)
        if obj == version.obj:
            return version
        version = self._store[resource].replace(key, obj)
        metadata = version.obj["metadata"]
        if (
            "deletionTimestamp" in metadata
            and not metadata.get("finalizers")
            and not metadata.get("deletionGracePeriodSeconds")
        ):
            return self._remove(resource, key)
        if resource is PODS and self._observer and not by_kubelet:
            self._observer.changed(version.obj)
        return version


def _prepare_pod(pod: Object) -> list[Cause]:
    pod["metadata"]["generation"] = 1
    apply_defaults(pod)
    problems = pod_problems(pod)
    if not problems:  # quantities are known to be good
        pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod["spec"])}
    return problems


def _prepare_secret(secret: Object) -> list[Cause]:
    secret.setdefault("type", "Opaque")
    data: Mapping[str, str] = secret.get("data", {})
    text: Mapping[str, str] = secret.pop("stringData", {})
    merged = {**data, **{key: base64.b64encode(value.encode()).decode() for key, value in text.items()}}
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except ValueError as error:
            message = f'Secret in version "v1" cannot be handled as a Secret: data[{key}]: illegal base64 data'
            raise bad_request(message) from error
    if merged:
        secret["data"] = merged
    return config_problems(secret["metadata"], merged)


def _prepare_config_map(config: Object) -> list[Cause]:
    return config_problems(config["metadata"], {**config.get("data", {}), **config.get("binaryData", {})})


def _prepare_namespace(namespace: Object) -> list[Cause]:
    metadata = namespace["metadata"]
    metadata["labels"] = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata.get("name", "")}
    namespace["spec"] = {"finalizers": ["kubernetes"]}
    namespace["status"] = {"phase": "Active"}
    return metadata_problems(metadata, label_name=True)


def _prepare_plain(obj: dict[str, Any]) -> list[Cause]:
    return metadata_problems(obj["metadata"])


_PREPARE: Final[Mapping[str, Callable[[Object], list[Cause]]]] = {
    PODS.plural: _prepare_pod,
    SECRETS.plural: _prepare_secret,
    CONFIG_MAPS.plural: _prepare_config_map,
    NAMESPACES.plural: _prepare_namespace,
    SERVICE_ACCOUNTS.plural: _prepare_plain,
    EVENTS.plural: _prepare_plain,
}

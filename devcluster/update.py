"""What an update may change: the apiserver's update strategies. Pure: old and proposed object in, the new one out."""

from typing import Any, Final

from devcluster.resources import PODS, Object, Resource
from devcluster.status_error import conflict, invalid, modified, refused
from devcluster.validation import metadata_problems

# Set by the system; whatever a client sends there is ignored.
_SYSTEM_METADATA: Final = (
    "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "managedFields",
)  # fmt: skip
_MUTABLE_SPEC: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def updated(resource: Resource, old: Object, proposed: Object, *, status: bool) -> Object:
    """The object to store; `status` for the status subresource, which changes nothing else (and the others not it).

    Raises:
        StatusError: 409 when the proposal is based on another state, 422 when it changes what is immutable.
    """
    name = old["metadata"]["name"]
    given = proposed.get("metadata", {})
    if given.get("resourceVersion", "0") not in ("", "0", old["metadata"]["resourceVersion"]):
        raise modified(resource, name)
    if given.get("uid") not in (None, "", old["metadata"]["uid"]):
        why = f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: {old['metadata']['uid']}"
        raise conflict(resource.qualified, name, why)
    if status:
        return {**old, "status": proposed.get("status", {})}
    metadata = _metadata(old["metadata"], given)
    if problems := metadata_problems(metadata):
        raise invalid(resource.kind, name, problems)
    if resource is not PODS:
        content = {key: value for key, value in proposed.items() if key not in ("kind", "apiVersion", "metadata")}
        return {"metadata": metadata} | content
    if _frozen(old["spec"]) != _frozen(proposed.get("spec", {})):
        raise invalid(resource.kind, name, [refused("spec", _MUTABLE_SPEC)])
    if proposed["spec"] != old["spec"]:
        metadata["generation"] = old["metadata"].get("generation", 0) + 1
    return {**old, "metadata": metadata, "spec": proposed["spec"]}


def _metadata(old: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    kept = {key: old[key] for key in (*_SYSTEM_METADATA, "name", "namespace", "uid", "resourceVersion") if key in old}
    return {key: value for key, value in given.items() if key not in _SYSTEM_METADATA} | kept


def _frozen(spec: dict[str, Any]) -> dict[str, Any]:
    """The part of a pod's spec that no update may change."""
    rest = {key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations")}
    for group in ("containers", "initContainers"):
        if group in rest:
            rest[group] = [{key: value for key, value in c.items() if key != "image"} for c in rest[group]]
    return rest

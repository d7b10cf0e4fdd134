"""What clients read to find their way: versions, groups, resources."""

import platform
from typing import Any, Final

from devcluster.resources import STORED, TOKEN_REVIEWS, Resource

# The release whose behaviour this API follows.
MINOR: Final = "34"
GIT_VERSION: Final = f"v1.{MINOR}.0+devcluster"
_SUBRESOURCES: Final = (
    ("pods/eviction", "Eviction", ("create",)),
    ("pods/log", "Pod", ("get",)),
    ("pods/status", "Pod", ("get", "patch", "update")),
)
_GROUP_VERSION: Final = {"groupVersion": f"{TOKEN_REVIEWS.group}/v1", "version": "v1"}
_GROUP: Final = {"name": TOKEN_REVIEWS.group, "versions": [_GROUP_VERSION], "preferredVersion": _GROUP_VERSION}


def version() -> dict[str, Any]:
    """`/version`."""
    return {
        "major": "1",
        "minor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": platform.python_implementation(),
        "platform": "linux/amd64",
    }


def core_versions(address: str) -> dict[str, Any]:
    """`/api`."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def groups() -> dict[str, Any]:
    """`/apis`."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]}


def group() -> dict[str, Any]:
    """`/apis/authentication.k8s.io`."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_GROUP}


def core_resources() -> dict[str, Any]:
    """`/api/v1`."""
    listed = [_entry(resource) for resource in STORED]
    listed += [
        {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": list(verbs)}
        for name, kind, verbs in _SUBRESOURCES
    ]
    return {"kind": "APIResourceList", "groupVersion": "v1", "resources": sorted(listed, key=lambda r: str(r["name"]))}


def group_resources() -> dict[str, Any]:
    """`/apis/authentication.k8s.io/v1`."""
    version_name = _GROUP_VERSION["groupVersion"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version_name,
        "resources": [_entry(TOKEN_REVIEWS)],
    }


def _entry(resource: Resource) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    return entry | ({"shortNames": list(resource.short_names)} if resource.short_names else {})

"""The resources that this API serves: names, kinds, scopes and selectable fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Object = dict[str, Any]
FieldGetter = Callable[[Object], str]


def _text(*path: str) -> FieldGetter:
    """A getter of one string in an object; a missing one reads as empty, as field selectors see it."""

    def get(obj: Object) -> str:
        value: Any = obj
        for name in path:
            value = (value or {}).get(name)
        return "" if value is None else str(value)

    return get


_METADATA_FIELDS: Final[Mapping[str, FieldGetter]] = {
    "metadata.name": _text("metadata", "name"),
    "metadata.namespace": _text("metadata", "namespace"),
}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API; `fields` are the supported field selectors."""

    plural: str
    kind: str
    namespaced: bool = True
    group: str = ""
    verbs: tuple[str, ...] = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
    short_names: tuple[str, ...] = ()
    fields: Mapping[str, FieldGetter] = field(default_factory=lambda: _METADATA_FIELDS)

    @property
    def qualified(self) -> str:
        """The name in messages: `pods`, or `tokenreviews.authentication.k8s.io` outside the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS: Final = Resource(
    "pods",
    "Pod",
    short_names=("po",),
    fields={
        **_METADATA_FIELDS,
        "spec.nodeName": _text("spec", "nodeName"),
        "spec.restartPolicy": _text("spec", "restartPolicy"),
        "spec.schedulerName": _text("spec", "schedulerName"),
        "spec.serviceAccountName": _text("spec", "serviceAccountName"),
        "status.phase": _text("status", "phase"),
        "status.podIP": _text("status", "podIP"),
        "status.nominatedNodeName": _text("status", "nominatedNodeName"),
    },
)
EVENTS: Final = Resource(
    "events",
    "Event",
    short_names=("ev",),
    fields={
        **_METADATA_FIELDS,
        "involvedObject.kind": _text("involvedObject", "kind"),
        "involvedObject.namespace": _text("involvedObject", "namespace"),
        "involvedObject.name": _text("involvedObject", "name"),
        "involvedObject.uid": _text("involvedObject", "uid"),
        "involvedObject.apiVersion": _text("involvedObject", "apiVersion"),
        "involvedObject.resourceVersion": _text("involvedObject", "resourceVersion"),
        "involvedObject.fieldPath": _text("involvedObject", "fieldPath"),
        "reason": _text("reason"),
        "reportingComponent": _text("reportingComponent"),
        "source": _text("source", "component"),
        "type": _text("type"),
    },
)
SECRETS: Final = Resource("secrets", "Secret", fields={**_METADATA_FIELDS, "type": _text("type")})
CONFIG_MAPS: Final = Resource("configmaps", "ConfigMap", short_names=("cm",))
SERVICE_ACCOUNTS: Final = Resource("serviceaccounts", "ServiceAccount", short_names=("sa",))
NAMESPACES: Final = Resource(
    "namespaces",
    "Namespace",
    namespaced=False,
    verbs=("create", "get", "list", "watch"),
    short_names=("ns",),
    fields={
        "metadata.name": _text("metadata", "name"),
        "name": _text("metadata", "name"),
        "status.phase": _text("status", "phase"),
    },
)
TOKEN_REVIEWS: Final = Resource(
    "tokenreviews", "TokenReview", namespaced=False, group="authentication.k8s.io", verbs=("create",)
)

# Everything that is stored; the order is that of /api/v1.
STORED: Final = (CONFIG_MAPS, EVENTS, NAMESPACES, PODS, SECRETS, SERVICE_ACCOUNTS)

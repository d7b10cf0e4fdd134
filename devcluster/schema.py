"""The shape of the objects that the API accepts: types and known fields.

Decoding does what the apiserver's decoder does: it drops nulls, refuses wrong types (400) and either drops unknown
fields or, with `fieldValidation=Strict`, refuses them. Parts that this cluster only carries along are `ANY`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from devcluster.status_error import StatusError, bad_request

STRING: Final = "string"
INTEGER: Final = "integer"
BOOLEAN: Final = "boolean"
PORT: Final = "port"  # int-or-string
QUANTITY: Final = "quantity"
ANY: Final = "any"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind of item."""

    item: "Shape"


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with free keys and one kind of value."""

    value: "Shape"


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with known fields; `name` is the Go type in messages."""

    name: str
    fields: Mapping[str, "Shape"]


Shape = str | ListOf | MapOf | Struct

_KEY_TO_PATH: Final = Struct("KeyToPath", {"key": STRING, "path": STRING, "mode": INTEGER})
_FIELD_REF: Final = Struct("ObjectFieldSelector", {"apiVersion": STRING, "fieldPath": STRING})
_RESOURCE_REF: Final = Struct(
    "ResourceFieldSelector", {"containerName": STRING, "resource": STRING, "divisor": QUANTITY}
)
_KEY_REF: Final = Struct("SecretKeySelector", {"name": STRING, "key": STRING, "optional": BOOLEAN})
_SOURCE_REF: Final = Struct("SecretEnvSource", {"name": STRING, "optional": BOOLEAN})
_DOWNWARD_ITEMS: Final = ListOf(
    Struct(
        "DownwardAPIVolumeFile",
        {"path": STRING, "fieldRef": _FIELD_REF, "resourceFieldRef": _RESOURCE_REF, "mode": INTEGER},
    )
)
_PROJECTION: Final = Struct(
    "VolumeProjection",
    {
        "secret": Struct("SecretProjection", {"name": STRING, "items": ListOf(_KEY_TO_PATH), "optional": BOOLEAN}),
        "configMap": Struct(
            "ConfigMapProjection", {"name": STRING, "items": ListOf(_KEY_TO_PATH), "optional": BOOLEAN}
        ),
        "downwardAPI": Struct("DownwardAPIProjection", {"items": _DOWNWARD_ITEMS}),
        "serviceAccountToken": Struct(
            "ServiceAccountTokenProjection", {"audience": STRING, "expirationSeconds": INTEGER, "path": STRING}
        ),
        "clusterTrustBundle": ANY,
    },
)
_VOLUME: Final = Struct(
    "Volume",
    {
        "name": STRING,
        "emptyDir": Struct("EmptyDirVolumeSource", {"medium": STRING, "sizeLimit": QUANTITY}),
        "hostPath": Struct("HostPathVolumeSource", {"path": STRING, "type": STRING}),
        "secret": Struct(
            "SecretVolumeSource",
            {"secretName": STRING, "items": ListOf(_KEY_TO_PATH), "defaultMode": INTEGER, "optional": BOOLEAN},
        ),
        "configMap": Struct(
            "ConfigMapVolumeSource",
            {"name": STRING, "items": ListOf(_KEY_TO_PATH), "defaultMode": INTEGER, "optional": BOOLEAN},
        ),
        "downwardAPI": Struct("DownwardAPIVolumeSource", {"items": _DOWNWARD_ITEMS, "defaultMode": INTEGER}),
        "projected": Struct("ProjectedVolumeSource", {"sources": ListOf(_PROJECTION), "defaultMode": INTEGER}),
        **dict.fromkeys(("persistentVolumeClaim", "csi", "nfs", "iscsi", "ephemeral", "image"), ANY),
    },
)
_MOUNT: Final = Struct(
    "VolumeMount",
    {
        **dict.fromkeys(("name", "mountPath", "subPath", "subPathExpr", "mountPropagation"), STRING),
        "recursiveReadOnly": STRING,
        "readOnly": BOOLEAN,
    },
)
_ENV: Final = Struct(
    "EnvVar",
    {
        "name": STRING,
        "value": STRING,
        "valueFrom": Struct(
            "EnvVarSource",
            {
                "fieldRef": _FIELD_REF,
                "resourceFieldRef": _RESOURCE_REF,
                "secretKeyRef": _KEY_REF,
                "configMapKeyRef": _KEY_REF,
                "fileKeyRef": ANY,
            },
        ),
    },
)
_ENV_FROM: Final = Struct("EnvFromSource", {"prefix": STRING, "secretRef": _SOURCE_REF, "configMapRef": _SOURCE_REF})
_PROBE: Final = Struct(
    "Probe",
    {
        "exec": Struct("ExecAction", {"command": ListOf(STRING)}),
        "httpGet": Struct(
            "HTTPGetAction",
            {"path": STRING, "port": PORT, "host": STRING, "scheme": STRING, "httpHeaders": ANY},
        ),
        "tcpSocket": Struct("TCPSocketAction", {"port": PORT, "host": STRING}),
        "grpc": ANY,
        **dict.fromkeys(
            (
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
                "terminationGracePeriodSeconds",
            ),
            INTEGER,
        ),
    },
)
_CONTAINER: Final = Struct(
    "Container",
    {
        **dict.fromkeys(
            ("name", "image", "workingDir", "imagePullPolicy", "restartPolicy"),
            STRING,
        ),
        **dict.fromkeys(("terminationMessagePath", "terminationMessagePolicy"), STRING),
        **dict.fromkeys(("command", "args"), ListOf(STRING)),
        **dict.fromkeys(("stdin", "stdinOnce", "tty"), BOOLEAN),
        **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), _PROBE),
        **dict.fromkeys(("lifecycle", "securityContext", "resizePolicy", "volumeDevices", "restartPolicyRules"), ANY),
        "ports": ListOf(
            Struct(
                "ContainerPort",
                {"name": STRING, "containerPort": INTEGER, "hostPort": INTEGER, "hostIP": STRING, "protocol": STRING},
            )
        ),
        "env": ListOf(_ENV),
        "envFrom": ListOf(_ENV_FROM),
        "resources": Struct(
            "ResourceRequirements", {"limits": MapOf(QUANTITY), "requests": MapOf(QUANTITY), "claims": ANY}
        ),
        "volumeMounts": ListOf(_MOUNT),
    },
)
_METADATA: Final = Struct(
    "ObjectMeta",
    {
        **dict.fromkeys(("name", "generateName", "namespace", "uid", "resourceVersion", "selfLink"), STRING),
        **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), STRING),
        **dict.fromkeys(("generation", "deletionGracePeriodSeconds"), INTEGER),
        **dict.fromkeys(("labels", "annotations"), MapOf(STRING)),
        "finalizers": ListOf(STRING),
        "ownerReferences": ListOf(
            Struct(
                "OwnerReference",
                {
                    **dict.fromkeys(("apiVersion", "kind", "name", "uid"), STRING),
                    **dict.fromkeys(("controller", "blockOwnerDeletion"), BOOLEAN),
                },
            )
        ),
        "managedFields": ANY,
    },
)
_POD_SPEC: Final = Struct(
    "PodSpec",
    {
        "containers": ListOf(_CONTAINER),
        "initContainers": ListOf(_CONTAINER),
        "volumes": ListOf(_VOLUME),
        **dict.fromkeys(("restartPolicy", "dnsPolicy", "nodeName", "schedulerName", "priorityClassName"), STRING),
        **dict.fromkeys(("serviceAccountName", "serviceAccount", "hostname", "subdomain", "runtimeClassName"), STRING),
        **dict.fromkeys(("preemptionPolicy", "hostnameOverride"), STRING),
        **dict.fromkeys(("terminationGracePeriodSeconds", "activeDeadlineSeconds", "priority"), INTEGER),
        **dict.fromkeys(("hostNetwork", "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"), BOOLEAN),
        **dict.fromkeys(("automountServiceAccountToken", "enableServiceLinks", "setHostnameAsFQDN"), BOOLEAN),
        "nodeSelector": MapOf(STRING),
        **dict.fromkeys(("affinity", "tolerations", "securityContext", "imagePullSecrets"), ANY),
        "hostAliases": ListOf(Struct("HostAlias", {"ip": STRING, "hostnames": ListOf(STRING)})),
        **dict.fromkeys(("dnsConfig", "readinessGates", "topologySpreadConstraints", "ephemeralContainers"), ANY),
        **dict.fromkeys(("overhead", "os", "schedulingGates", "resourceClaims", "resources"), ANY),
    },
)
_TYPE_META: Final[Mapping[str, Shape]] = {"kind": STRING, "apiVersion": STRING}
_CONFIG_DATA: Final[Mapping[str, Shape]] = {
    **_TYPE_META,
    "metadata": _METADATA,
    "data": MapOf(STRING),
    "immutable": BOOLEAN,
}

SHAPES: Final[Mapping[str, Struct]] = {
    "Pod": Struct("Pod", {**_TYPE_META, "metadata": _METADATA, "spec": _POD_SPEC, "status": ANY}),
    "Secret": Struct("Secret", {**_CONFIG_DATA, "type": STRING, "stringData": MapOf(STRING)}),
    "ConfigMap": Struct("ConfigMap", {**_CONFIG_DATA, "binaryData": MapOf(STRING)}),
    "Namespace": Struct("Namespace", {**_TYPE_META, "metadata": _METADATA, "spec": ANY, "status": ANY}),
    "ServiceAccount": Struct(
        "ServiceAccount",
        {
            **_TYPE_META,
            "metadata": _METADATA,
            "secrets": ANY,
            "imagePullSecrets": ANY,
            "automountServiceAccountToken": BOOLEAN,
        },
    ),
    "Event": Struct(
        "Event",
        {
            **_TYPE_META,
            "metadata": _METADATA,
            **dict.fromkeys(("involvedObject", "source", "series", "related"), ANY),
            **dict.fromkeys(("reason", "message", "firstTimestamp", "lastTimestamp", "eventTime", "type"), STRING),
            **dict.fromkeys(("action", "reportingComponent", "reportingInstance"), STRING),
            "count": INTEGER,
        },
    ),
    "TokenReview": Struct(
        "TokenReview",
        {
            **_TYPE_META,
            "metadata": _METADATA,
            "spec": Struct("TokenReviewSpec", {"token": STRING, "audiences": ListOf(STRING)}),
            "status": ANY,
        },
    ),
    "DeleteOptions": Struct(
        "DeleteOptions",
        {
            **_TYPE_META,
            "gracePeriodSeconds": INTEGER,
            "preconditions": Struct("Preconditions", {"uid": STRING, "resourceVersion": STRING}),
            "orphanDependents": BOOLEAN,
            "propagationPolicy": STRING,
            "dryRun": ListOf(STRING),
            "ignoreStoreReadErrorWithClusterBreakingPotential": BOOLEAN,
        },
    ),
}


def decode(kind: str, value: object, *, strict: bool = False) -> dict[str, Any]:
    """A copy of the object without nulls and unknown fields.

    Raises:
        StatusError: 400 for a value of the wrong type, and (`strict`) for unknown fields, all of them listed.
    """
    unknown: list[str] = []
    decoded = _decode(SHAPES[kind], value, "", unknown, kind)
    if strict and unknown:
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(f'{kind} in version "v1" cannot be handled as a {kind}: strict decoding error: {listed}')
    assert isinstance(decoded, dict)
    return decoded


def _decode(shape: Shape, value: object, path: str, unknown: list[str], kind: str) -> object:  # noqa: C901 - one branch per shape
    if isinstance(shape, Struct):
        if not isinstance(value, dict):
            raise _mismatch(kind, value, path, shape.name)
        decoded = {}
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            if (known := shape.fields.get(name)) is None:
                unknown.append(below)
            elif item is not None:
                decoded[name] = _decode(known, item, below, unknown, kind)
        return decoded
    if isinstance(shape, ListOf):
        if not isinstance(value, list):
            raise _mismatch(kind, value, path, "array")
        return [_decode(shape.item, item, f"{path}[{i}]", unknown, kind) for i, item in enumerate(value)]
    if isinstance(shape, MapOf):
        if not isinstance(value, dict):
            raise _mismatch(kind, value, path, "map")
        items = value.items()
        return {
            key: _decode(shape.value, item, f"{path}.{key}", unknown, kind) for key, item in items if item is not None
        }
    if shape == ANY or _is_scalar(shape, value):
        return value
    raise _mismatch(kind, value, path, {STRING: "string", INTEGER: "int64", BOOLEAN: "bool"}.get(shape, shape))


def _is_scalar(shape: str, value: object) -> bool:
    if shape == STRING:
        return isinstance(value, str)
    if shape == BOOLEAN:
        return isinstance(value, bool)
    if shape == INTEGER:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _mismatch(kind: str, value: object, path: str, wanted: str) -> StatusError:
    found = next(
        (name for types, name in ((bool, "bool"), (str, "string"), ((int, float), "number"), (list, "array"))
         if isinstance(value, types)),
        "object" if isinstance(value, dict) else "null",
    )  # fmt: skip
    return bad_request(
        f'{kind} in version "v1" cannot be handled as a {kind}: json: cannot unmarshal {found} into Go struct field '
        f"{path or kind} of type {wanted}"
    )

"""What is read of the API server's JSON: of each pod what following it needs; the rest is never built.

Half of a pod's 10 KB are managed fields; most of the rest is its specification, which was known before it was created.
A pod is read several times in its life, and a quarter of a worker's CPU went into reading all of it.
"""

from typing import Any, Final, TypeAlias, TypedDict

import msgspec

Json = dict[str, Any]

Metadata = TypedDict(
    "Metadata",
    {
        "name": str,
        "namespace": str,
        "uid": str,
        "resourceVersion": str,
        "creationTimestamp": Any,
        "deletionTimestamp": Any,
        "deletionGracePeriodSeconds": Any,
        "labels": Any,
        "annotations": Any,
        "continue": Any,  # of a list
    },
    total=False,
)


class Container(TypedDict, total=False):
    """What a container's end is judged by."""

    name: str
    image: Any
    restartPolicy: Any
    resources: Any
    startupProbe: Any


class Spec(TypedDict, total=False):
    """Of a pod."""

    nodeName: Any
    activeDeadlineSeconds: Any
    initContainers: list[Container]
    containers: list[Container]


class Pod(TypedDict, total=False):
    """With the status as it was sent. In a watch it may be a Status object instead: the last three are of that."""

    metadata: Metadata
    spec: Spec
    status: Any
    code: Any
    reason: Any
    message: Any


class Event(TypedDict):
    """Of a watch."""

    type: str
    object: Pod


class PodList(TypedDict):
    """A page of it."""

    metadata: Metadata
    items: list[Pod]


Decoder: TypeAlias = "msgspec.json.Decoder[Any]"

ANYTHING: Final = msgspec.json.Decoder()
POD: Final = msgspec.json.Decoder(Pod)
EVENT: Final = msgspec.json.Decoder(Event)
POD_LIST: Final = msgspec.json.Decoder(PodList)


def decode(data: bytes, decoder: Decoder = ANYTHING) -> Json:
    """An answer; of another shape than the decoder's, all of it: what is to be made of that is not decided here.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        answer: Json = decoder.decode(data)
    except msgspec.ValidationError:
        answer = ANYTHING.decode(data)
    return answer


def encode(body: Json) -> bytes:
    """A request's body; half a surrogate pair, which is no Unicode, as U+FFFD, which an API server would make of it."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(_mended(body))


def _mended(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_mended(key): _mended(item) for key, item in value.items()}
        case list() | tuple():
            return [_mended(item) for item in value]
    return value

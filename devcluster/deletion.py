"""Deleting an object: preconditions and grace, as the apiserver decides them. Pure.

Ported from BeforeDelete (k8s.io/apiserver/pkg/registry/rest/delete.go) and the pod strategy's CheckGracefulDelete.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devcluster.clock import parse_timestamp, timestamp
from devcluster.pod_defaults import DEFAULT_GRACE_SECONDS
from devcluster.pod_status import TERMINAL
from devcluster.resources import Object
from devcluster.schema import decode
from devcluster.status_error import bad_request, conflict


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a client may say about a deletion; None means not said."""

    grace_seconds: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False

    @classmethod
    def parse(cls, body: object, query: Mapping[str, str]) -> "DeleteOptions":
        """From the body where there is one, else from the query (never from both, as the apiserver).

        Raises:
            StatusError: 400 for a malformed option.
        """
        dry_run = query.get("dryRun") == "All"
        if body:
            options = decode("DeleteOptions", body)
            required = options.get("preconditions", {})
            return cls(
                grace_seconds=options.get("gracePeriodSeconds"),
                uid=required.get("uid"),
                resource_version=required.get("resourceVersion"),
                dry_run=dry_run or "All" in options.get("dryRun", ()),
            )
        text = query.get("gracePeriodSeconds")
        try:
            return cls(grace_seconds=None if text is None else int(text), dry_run=dry_run)
        except ValueError as error:
            message = f'strconv.ParseInt: parsing "{text}": invalid syntax'
            raise bad_request(message) from error


@dataclass(frozen=True, slots=True)
class Deletion:
    """What to do: store `metadata` (unless None: leave the object as it is), then remove the object if `remove`."""

    metadata: dict[str, Any] | None
    remove: bool


def check_preconditions(obj: Object, kind: str, options: DeleteOptions) -> None:
    """Refuse a deletion that means another object.

    Raises:
        StatusError: 409 Conflict.
    """
    metadata = obj["metadata"]
    for given, found, word, why in (
        (options.uid, metadata["uid"], "UID", "deleted and then recreated"),
        (options.resource_version, metadata["resourceVersion"], "ResourceVersion", "modified"),
    ):
        if given is not None and given != found:
            message = (
                f"the {word} in the precondition ({given}) does not match the {word} in record ({found}). "
                f"The object might have been {why}"
            )
            raise conflict(kind, metadata["name"], message)


def delete_pod(pod: Object, options: DeleteOptions, now: float) -> Deletion:
    """The next step of a pod's deletion; preconditions have been checked."""
    metadata = pod["metadata"]
    keep = bool(metadata.get("finalizers"))
    grace = options.grace_seconds
    if grace is not None and grace < 0:
        grace = 1
    if "deletionTimestamp" in metadata:
        return _delete_again(metadata, grace, now, keep=keep)
    if grace is None:
        grace = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    # Nothing to stop: not scheduled yet, or already at its end.
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in TERMINAL:
        grace = 0
    updated = {
        **metadata,
        "generation": metadata.get("generation", 0) + 1,
        "deletionTimestamp": timestamp(now + grace),
        "deletionGracePeriodSeconds": grace,
    }
    return Deletion(updated, remove=grace == 0 and not keep)


def _delete_again(metadata: dict[str, Any], grace: int | None, now: float, *, keep: bool) -> Deletion:
    """A deletion that is under way can only be shortened."""
    current = metadata.get("deletionGracePeriodSeconds") or 0
    if current == 0:
        return Deletion(None, remove=not keep)
    if grace is None or grace >= current:
        return Deletion(None, remove=False)
    at = parse_timestamp(metadata["deletionTimestamp"]) - current + grace
    if at < now:
        at = now
        grace = min(grace, 1)
    updated = {**metadata, "deletionTimestamp": timestamp(at), "deletionGracePeriodSeconds": grace}
    return Deletion(updated, remove=grace == 0 and not keep)

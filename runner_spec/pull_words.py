"""What a registry said about an image that could not be pulled, out of the kubelet's alternating messages.

While it backs off, a container waits with `ImagePullBackOff`, and the cause is repeated behind the kubelet's own words
(1.32 and later) or left out (before): then the words of the failure before it are the ones that tell.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

from runner_spec.pod_status import one_line

BACK_OFF: Final = "ImagePullBackOff"
PULL_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        BACK_OFF,
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)  # kubelet: pkg/kubelet/images/types.go
_BACKING_OFF: Final = re.compile(r'Back-off pulling image "[^"]*"(?:: (?:\w+: )?)?')
# What containerd puts in front of the cause: it names the image, which our own message names already.
_PREAMBLE: Final = re.compile(
    r'(?:rpc error: code = \w+ desc = )?failed to pull and unpack image "[^"]*": '
    r'(?:failed to resolve (?:image|reference "[^"]*"): )?(?:failed to do request: )?'
)
_STATUSES: Final = ("initContainerStatuses", "containerStatuses")


def told_by_registry(reason: str, message: str) -> str:
    """The cause in one line; the same while the kubelet tries again and while it backs off."""
    words = _BACKING_OFF.sub("", message, count=1) if reason == BACK_OFF else message
    return one_line(_PREAMBLE.sub("", words, count=1)) or one_line(message) or reason


def keep_words(pod: Mapping[str, Any], before: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The pod, with the cause of the last failed pull where the kubelet backs off without repeating it.

    Args:
        pod: as an event shows it.
        before: as this function returned it for the event before; None when there was none.
    """
    if before is None:
        return pod
    told = {name: waiting for name, waiting in _pulling(before) if _cause(waiting)}
    mute = [name for name, waiting in _pulling(pod) if name in told and not _cause(waiting)]
    if not mute:
        return pod
    kept = copy.deepcopy(dict(pod))
    for name, waiting in _pulling(kept):
        if name in mute:
            waiting["message"] = f"{waiting.get('message', '')}: ErrImagePull: {_cause(told[name])}"
    return kept


def _cause(waiting: Mapping[str, Any]) -> str:
    message = str(waiting.get("message") or "")
    return _BACKING_OFF.sub("", message, count=1) if waiting.get("reason") == BACK_OFF else message


def _pulling(pod: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The containers that wait for their image, with what is said about it."""
    status = pod.get("status") or {}
    states = [(c.get("name"), c.get("state") or {}) for key in _STATUSES for c in status.get(key) or ()]
    found = [(name, state.get("waiting") or {}) for name, state in states]
    return [(name, waiting) for name, waiting in found if waiting.get("reason") in {"ErrImagePull", BACK_OFF}]

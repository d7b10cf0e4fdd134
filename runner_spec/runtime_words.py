"""What a container runtime said about a container that it could not start, without the stack of its own names."""

import re
from typing import Final

from runner_spec.pod_status import one_line

# containerd, its shim and runc each put their words in front of the cause (containerd 2.2, runc 1.4).
_PREAMBLE: Final = re.compile(
    r"^(?:rpc error: code = \w+ desc = )?(?:failed to (?:create|start) (?:containerd|shim) (?:task|container): )*"
    r"(?:OCI runtime create failed: )?(?:runc create failed: )?(?:unable to start container process: )?"
    r"(?:error during container init: )?"
)


def told_by_runtime(message: str) -> str:
    """The cause in one line; empty for an empty message."""
    return one_line(_PREAMBLE.sub("", message, count=1)) or one_line(message)

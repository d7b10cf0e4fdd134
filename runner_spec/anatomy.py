"""The anatomy of a job's pod: the names, paths, variables and exit codes that its containers agree on.

Standard library only: the runner imports this module inside the pod.

The pod's manifest carries few variables: every one of them costs the API server a field that it decodes, tracks, stores
and sends in each event. Paths are therefore constants here, and what a job's attempt is called travels in the plan and
in the fragment of the steps. The paths' variables (`PATHS`) exist all the same: the embedded cluster, which runs
containers as plain processes, maps every mount path to a folder of its own and says so in them; and steps see them.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

# Containers, in the order in which they start (services come before `checkout`).
CHECKOUT: Final = "checkout"
UPLOAD: Final = "upload"
RUN: Final = "run"
RESERVED_CONTAINERS: Final = frozenset({CHECKOUT, UPLOAD, RUN})

# Mount paths inside the containers.
WORKSPACE_PATH: Final = "/workspace"  # emptyDir; working folder of checkout, run and upload; read-only in services
HOME_PATH: Final = "/dynapod/home"  # emptyDir; HOME of checkout, run and upload; `~/` in a cache path means this
# `sh`, `shim`, maybe `busybox`, read-only in run: an emptyDir written by checkout, or a volume of the runner's image,
# which holds them in the same folder.
BIN_PATH: Final = "/dynapod/bin"
STATE_PATH: Final = "/dynapod/state"  # emptyDir; run writes `exit` here, upload reads it
PLAN_PATH: Final = "/dynapod/plan"  # downward API: `plan.json` (checkout, upload) and `steps` (run)
TOKEN_PATH: Final = "/dynapod/token"  # noqa: S105 - a folder: projected identity token `token` (checkout, upload)
CREDENTIALS_PATH: Final = "/dynapod/credentials"  # Secret with the source's credentials (checkout only)
SECRETS_PATH: Final = "/dynapod/secrets"  # the job's secrets, one file per variable (checkout only, to mask them)
SOURCE_PATH: Final = "/dynapod/source"  # a local folder as source, read-only (checkout only; local runs)
TERMINATION_LOG_PATH: Final = "/dev/termination-log"

PLAN_FILE: Final = "plan.json"
STEPS_FILE: Final = "steps"
TOKEN_FILE: Final = "token"  # noqa: S105 - a file's name
EXIT_FILE: Final = "exit"  # decimal exit code of `run` and a newline; absent when the shim was killed

# Of volumes that hold scripts and programs only: scripts take 256 KiB, busybox 2 MiB, twice where there are no links.
SMALL_VOLUME: Final = "16Mi"

# Variables of paths, in no pod's manifest: the shim sets them for the steps, the embedded cluster for its processes.
ENV_WORKSPACE: Final = "DYNAPOD_WORKSPACE"
ENV_STATE: Final = "DYNAPOD_STATE"
ENV_PLAN: Final = "DYNAPOD_PLAN"
ENV_TERMINATION_LOG: Final = "DYNAPOD_TERMINATION_LOG"
ENV_BIN: Final = "DYNAPOD_BIN"
ENV_TOKEN: Final = "DYNAPOD_TOKEN"  # noqa: S105 - the token file's path
ENV_CREDENTIALS: Final = "DYNAPOD_CREDENTIALS"
ENV_SECRETS: Final = "DYNAPOD_SECRETS"
ENV_SOURCE: Final = "DYNAPOD_SOURCE"
# Variable → path in a pod. The shim has those of `run` once more: a shell script cannot import them.
PATHS: Final[Mapping[str, str]] = {
    ENV_WORKSPACE: WORKSPACE_PATH,
    ENV_STATE: STATE_PATH,
    ENV_PLAN: PLAN_PATH,
    ENV_TERMINATION_LOG: TERMINATION_LOG_PATH,
    ENV_BIN: BIN_PATH,
    ENV_TOKEN: f"{TOKEN_PATH}/{TOKEN_FILE}",
    ENV_CREDENTIALS: CREDENTIALS_PATH,
    ENV_SECRETS: SECRETS_PATH,
    ENV_SOURCE: SOURCE_PATH,
}

# Variables that the fragment of the steps sets, for the shim and the steps.
ENV_JOB: Final = "DYNAPOD_JOB"  # the job's id, as enqueued
ENV_ATTEMPT: Final = "DYNAPOD_ATTEMPT"
ENV_JOB_NAME: Final = "DYNAPOD_JOB_NAME"  # `name` of the description
ENV_REPORT_LIMIT: Final = "DYNAPOD_REPORT_LIMIT"  # bytes of this container's termination message that the kubelet keeps

# Variables of the pod itself. checkout and upload only:
ENV_GATEWAY: Final = "DYNAPOD_GATEWAY"  # base URL, no trailing slash
# `host:port` for the Host header, where the URL has an address in place of the name; absent where it has not.
ENV_GATEWAY_NAME: Final = "DYNAPOD_GATEWAY_NAME"
# checkout only: one for each secret of the job, from the Secret itself: a missing one then keeps `checkout` from
# starting, and the kubelet says which in the pod's status. The values are read from `SECRETS_PATH`.
ENV_NEEDS: Final = "DYNAPOD_NEEDS_"

TOKEN_AUDIENCE: Final = "dynapod"  # noqa: S105 - an audience's name

# Labels and annotations of a pod.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "dynapod"
LABEL_JOB: Final = "dynapod.dev/job"  # `names.label_value(job id)`: ids may hold anything, labels may not
LABEL_ATTEMPT: Final = "dynapod.dev/attempt"
LABEL_WORKER: Final = "dynapod.dev/worker"  # the worker incarnation that created the pod
ANNOTATION_JOB: Final = "dynapod.dev/job"  # the job's id, as enqueued
ANNOTATION_PLAN: Final = "dynapod.dev/plan"
ANNOTATION_STEPS: Final = "dynapod.dev/steps"
ANNOTATION_CACHE_SCOPE: Final = "dynapod.dev/cache-scope"
ANNOTATION_TIMEOUT: Final = "dynapod.dev/timeout"  # the job's timeout in whole seconds: classify needs it
ANNOTATION_ARTIFACTS: Final = "dynapod.dev/artifacts"  # how many: a worker that adopts the pod must not miss any
ANNOTATION_KEEP: Final = "dynapod.dev/keep"  # whole seconds for which `run` stays after its failure; absent: not at all
ANNOTATION_DEBUG: Final = "dynapod.dev/debug"  # set by a policy that lets people into running jobs' containers
DEBUG_ALLOWED: Final = "allowed"  # its only value

# Kubernetes allows 256 KiB for all annotations of an object (apimachinery ValidateAnnotationsSize).
ANNOTATIONS_LIMIT_BYTES: Final = 256 * 1024
# terminationMessagePath: the kubelet reads 4096 bytes at most (MaxContainerTerminationMessageLength) …
TERMINATION_MESSAGE_LIMIT_BYTES: Final = 4096
# … and cuts what it reports to an equal share of this for each container of the pod (normalizeStatus).
TERMINATION_MESSAGES_LIMIT_BYTES: Final = 12 * 1024

# Who the containers run as. Without a user namespace any uid but 0 would do: the restricted profile demands that, and
# 1000 owns files in most build images.
JOB_UID: Final = 1000
ROOT_UID: Final = 0


def report_limit(containers: int) -> int:
    """Bytes of a termination message that reach the pod's status, in a pod of so many containers (init ones too)."""
    return min(TERMINATION_MESSAGE_LIMIT_BYTES, TERMINATION_MESSAGES_LIMIT_BYTES // containers)


class Exit(IntEnum):
    """Exit codes of dynapod's own containers (`checkout`, `upload`) and of the shim in `run`.

    `TEMPFAIL` is EX_TEMPFAIL of sysexits.h: the platform's fault (git server or gateway away), worth another attempt.
    The shim passes the failing step's own code through (128+N when signal N killed it), so a job can also produce
    `TIMEOUT`; `classify` therefore believes it only when the container really ran as long as the timeout.
    """

    OK = 0
    # Wrong ref, refused credentials, missing artifact, unsafe archive path: the job's own, and always with a report.
    # Without one it is Python's own exit code (no module named runner, say), so not the job's.
    JOB_FAULT = 1
    CRASHED = 70  # EX_SOFTWARE: an exception that the runner did not expect; the platform's
    TEMPFAIL = 75
    TIMEOUT = 124  # as in timeout(1)
    SHIM = 125  # the shim itself failed (as in timeout(1)): a full disk, a damaged fragment
    CANCELED = 143  # 128+SIGTERM: the shim was told to stop

"""A pod's status as typed values, read without trusting its shape.

Shapes are those of Kubernetes 1.34 (core/v1 PodStatus, ContainerStatus). Whatever is missing or of a wrong type reads
as absent, never as a good sign.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from runner_spec import anatomy

# The kubelet invents this end for a container of which it found nothing (status_manager.go, TerminatePod).
STATUS_UNKNOWN: Final = "ContainerStatusUnknown"
# … or its runtime does: containerd, exit code 255, when it comes back and the container is gone (cri/restart.go).
LOST: Final = frozenset({STATUS_UNKNOWN, "Unknown"})
OOM_KILLED: Final = "OOMKilled"
# The runtime never got the process running (kuberuntime: StartError; older runtimes: ContainerCannotRun).
NEVER_STARTED: Final = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})

WORDS_CHARACTERS: Final = 300  # of the registry, the scheduler, the kubelet in a message or in evidence


class State(StrEnum):
    """What a container does, by its status."""

    ABSENT = "absent"
    WAITING = "waiting"
    RUNNING = "running"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class End:
    """How a container ended; times in unix seconds, None when unknown."""

    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the pod. `reason` and `message` say why it waits; `end` and `last_end` how it ended (before)."""

    name: str
    state: State = State.ABSENT
    reason: str = ""
    message: str = ""
    started_at: float | None = None
    end: End | None = None
    last_end: End | None = None
    restarts: int = 0
    image: str = ""
    memory_limit: str = ""
    startup_window: int = 0  # seconds that its startup probe allows; 0 without a probe
    is_started: bool = False  # it runs, and its startup probe, if any, has succeeded

    @property
    def succeeded(self) -> bool:
        """Seen to have ended with exit code 0."""
        return self.end is not None and self.end.exit_code == 0 and self.end.reason not in LOST


@dataclass(frozen=True, slots=True)
class Pod:
    """What classification needs of a pod. Containers in the order in which they start."""

    name: str = ""
    uid: str = ""
    node: str = ""
    phase: str = ""
    reason: str = ""
    message: str = ""
    created_at: float | None = None
    started_at: float | None = None  # when the kubelet took it
    deleted_at: float | None = None  # when somebody asked for its deletion
    grace: int = 0  # seconds, of the last request to delete it; the kubelet's own, at the very end, has 0
    deadline: float | None = None  # when the kubelet is to have finished the deletion
    timeout: int | None = None  # of the job, from the annotation
    kept: bool = False  # `run` was to stay for a while should its steps fail
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    services: tuple[Container, ...] = ()
    checkout: Container = Container(anatomy.CHECKOUT)
    upload: Container | None = None  # None: the pod has none
    run: Container | None = None  # None: this is no pod of ours

    @property
    def containers(self) -> tuple[Container, ...]:
        """All containers, in their order of starting."""
        return tuple(c for c in (*self.services, self.checkout, self.upload, self.run) if c is not None)

    @property
    def is_terminal(self) -> bool:
        """No container runs and none will: the kubelet says so only after all have ended."""
        return self.phase in {"Succeeded", "Failed"}

    def condition(self, kind: str, status: str) -> Mapping[str, Any] | None:
        """The condition of this kind when it has this status."""
        found = self.conditions.get(kind)
        return found if found is not None and found.get("status") == status else None


def read_pod(pod: Mapping[str, Any]) -> Pod:
    """Read a pod's JSON; never raises, whatever it holds."""
    metadata, spec, status = (_mapping(_mapping(pod).get(part)) for part in ("metadata", "spec", "status"))
    inits = _named(spec.get("initContainers"))
    mains = _named(spec.get("containers"))
    init_statuses, main_statuses = _named(status.get("initContainerStatuses")), _named(status.get("containerStatuses"))

    def read(name: str) -> Container:
        return _container(inits.get(name, {}), init_statuses.get(name, {}), name)

    deadline = parse_time(metadata.get("deletionTimestamp"))
    grace = _int(metadata.get("deletionGracePeriodSeconds")) or 0
    annotations = _mapping(metadata.get("annotations"))
    timeout = _text(annotations.get(anatomy.ANNOTATION_TIMEOUT))
    return Pod(
        name=_text(metadata.get("name")),
        uid=_text(metadata.get("uid")),
        node=_text(spec.get("nodeName")),
        phase=_text(status.get("phase")),
        reason=_text(status.get("reason")),
        message=_text(status.get("message")),
        created_at=parse_time(metadata.get("creationTimestamp")),
        started_at=parse_time(status.get("startTime")),
        # The API server stores the end of the grace period, not the moment of the request.
        deleted_at=None if deadline is None else deadline - grace,
        grace=grace,
        deadline=deadline,
        timeout=int(timeout) if timeout.isascii() and timeout.isdigit() and len(timeout) < 10 else None,  # noqa: PLR2004
        kept=anatomy.ANNOTATION_KEEP in annotations,
        conditions=_named(status.get("conditions"), key="type"),
        services=tuple(read(name) for name in inits if name not in anatomy.RESERVED_CONTAINERS),
        checkout=read(anatomy.CHECKOUT),
        # In either place: a damaged spec must not make the proof of an upload needless.
        upload=read(anatomy.UPLOAD) if anatomy.UPLOAD in inits.keys() | init_statuses.keys() else None,
        run=_container(mains[anatomy.RUN], main_statuses.get(anatomy.RUN, {}), anatomy.RUN)
        if anatomy.RUN in mains
        else None,
    )


def parse_time(value: object) -> float | None:
    """Unix seconds of an RFC 3339 time (`2026-01-02T03:04:05Z`, also with fractions), None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def one_line(text: str, limit: int = WORDS_CHARACTERS) -> str:
    """Foreign words on one line, shortened, without control characters (nor lone surrogates, which nothing encodes)."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _container(spec: Mapping[str, Any], status: Mapping[str, Any], name: str) -> Container:
    states = _mapping(status.get("state"))
    waiting, running = _mapping(states.get("waiting")), _mapping(states.get("running"))
    end = _end(states.get("terminated"))
    state = State.ABSENT
    if end is not None:
        state = State.TERMINATED
    elif "running" in states:
        state = State.RUNNING
    elif "waiting" in states:
        state = State.WAITING
    probe = _mapping(spec.get("startupProbe"))
    return Container(
        name=name,
        state=state,
        reason=_text(waiting.get("reason")),
        message=_text(waiting.get("message")),
        started_at=end.started_at if end else parse_time(running.get("startedAt")),
        end=end,
        last_end=_end(_mapping(status.get("lastState")).get("terminated")),
        restarts=_int(status.get("restartCount")) or 0,
        image=_text(spec.get("image")) or _text(status.get("image")),
        memory_limit=_memory_limit(spec) or _memory_limit(status),  # the kubelet repeats it since 1.33
        is_started=status.get("started") is True,
        startup_window=(_int(probe.get("failureThreshold")) or 3) * (_int(probe.get("periodSeconds")) or 10)
        if probe
        else 0,
    )


def _memory_limit(container: Mapping[str, Any]) -> str:
    return _text(_mapping(_mapping(container.get("resources")).get("limits")).get("memory"))


def _end(terminated: object) -> End | None:
    if not isinstance(terminated, Mapping):
        return None
    return End(
        exit_code=_int(terminated.get("exitCode")),
        reason=_text(terminated.get("reason")),
        message=_text(terminated.get("message")),
        started_at=parse_time(terminated.get("startedAt")),
        finished_at=parse_time(terminated.get("finishedAt")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _named(value: object, key: str = "name") -> dict[str, Mapping[str, Any]]:
    """The items of a list by name; of two with one name, neither: it is not known which one is meant."""
    found: dict[str, Mapping[str, Any]] = {}
    doubled = set()
    for item in value if isinstance(value, list) else ():
        name = _mapping(item).get(key)
        if isinstance(name, str):
            doubled |= {name} & found.keys()
            found[name] = item
    return {name: item for name, item in found.items() if name not in doubled}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

"""Which services ended before their time, as far as a pod's status tells.

A service's last status says how it ended, but not whether anybody had wanted that: the kubelet itself ends services
once `run` and `upload` have ended, and usually by force (137), since few of them care for SIGTERM. Two things tell a
crash from that: the kubelet had to start it again, or it ended before the kubelet had a reason to end it.
"""

from dataclasses import dataclass
from typing import Final

from runner_spec.pod_status import OOM_KILLED, Container, End, Pod, State, parse_time

# What a process ends with that was told to: SIGKILL and SIGTERM, as a shell reports them.
TOLD_TO_END: Final = frozenset({137, 143})


@dataclass(frozen=True, slots=True)
class ServiceCrash:
    """A service that ended before its time. `exit_code` is None when the status does not tell any more."""

    name: str
    exit_code: int | None
    restarts: int = 0
    out_of_memory: bool = False

    def __str__(self) -> str:
        """`db (exit code 7, restarted twice)`."""
        facts = [f"exit code {self.exit_code}"] if self.exit_code is not None else []
        facts += ["out of memory"] if self.out_of_memory else []
        facts += [f"restarted {_times(self.restarts)}"] if self.restarts else []
        return f"{self.name} ({', '.join(facts)})" if facts else self.name


def service_crashes(seen: Pod) -> tuple[ServiceCrash, ...]:
    """The services that crashed, in their order of starting."""
    stopped_at = _stopping_since(seen)
    suspects = [service for service in seen.services if not _killed_for_unreadiness(seen, service)]
    return tuple(crash for service in suspects if (crash := _crash(service, stopped_at)) is not None)


def crashes_told(seen: Pod) -> str:
    """For a message's end: a step rarely says that its database was gone. Empty when none crashed."""
    crashes = service_crashes(seen)
    return f"; services crashed meanwhile: {', '.join(map(str, crashes))}" if crashes else ""


def _crash(service: Container, stopped_at: float | None) -> ServiceCrash | None:
    early = _ended_early(service, stopped_at)
    if not service.restarts and not early:
        return None
    # The end before the last start is gone from a pod's final status: the last one often tells the same story.
    end = service.last_end or (service.end if early or _by_itself(service.end) else None)
    return ServiceCrash(
        name=service.name,
        exit_code=end.exit_code if end else None,
        restarts=service.restarts,
        out_of_memory=OOM_KILLED in {one.reason for one in (service.end, service.last_end) if one is not None},
    )


def _killed_for_unreadiness(seen: Pod, service: Container) -> bool:
    """By the kubelet, because its readiness command did not succeed in time: nothing after it has started, then."""
    later = [seen.checkout, *([seen.run] if seen.run is not None else [])]
    if not service.startup_window or any(container.end or container.started_at for container in later):
        return False
    ends = [end for end in (service.last_end, service.end) if end is not None and end.seconds is not None]
    return any((end.seconds or 0.0) >= service.startup_window for end in ends)


def _ended_early(service: Container, stopped_at: float | None) -> bool:
    if service.state is not State.TERMINATED or service.end is None:
        return False
    if service.end.reason == OOM_KILLED or stopped_at is None:
        return True
    # Times are whole seconds: only a clear difference says what came first.
    return service.end.finished_at is not None and service.end.finished_at < stopped_at


def _by_itself(end: End | None) -> bool:
    return end is not None and end.exit_code not in TOLD_TO_END


def _stopping_since(seen: Pod) -> float | None:
    """From when on the kubelet may have ended services; None while it had no reason to."""
    moments = [seen.deleted_at]
    if (disruption := seen.condition("DisruptionTarget", "True")) is not None:
        moments.append(parse_time(disruption.get("lastTransitionTime")))
    if seen.run is not None and seen.run.end is not None:
        moments.append(seen.run.end.finished_at)
    if seen.checkout.end is not None and not seen.checkout.succeeded:
        moments.append(seen.checkout.end.finished_at)
    known = [moment for moment in moments if moment is not None]
    if not known and seen.is_terminal:
        return 0.0  # ended by something that left no time: nothing is known to have been early
    return min(known, default=None)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")

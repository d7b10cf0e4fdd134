"""The worker's metrics, declared in one place, on an injected registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Seconds; jobs last from a second to hours.
_JOB_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)


class WorkerMetrics:
    """Counters and gauges of one worker. Units are in the names; labels are bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.claimed = Counter("dynapod_jobs_claimed", "Jobs taken from the queues.", registry=registry)
        self.adopted = Counter("dynapod_jobs_adopted", "Jobs taken over from other workers.", registry=registry)
        self.settled = Counter(
            "dynapod_attempts_settled",
            "Attempts whose end was recorded.",
            ["verdict", "fault", "reason"],
            registry=registry,
        )
        self.fenced = Counter(
            "dynapod_attempts_fenced", "Ends that were not recorded: another worker owns the job.", registry=registry
        )
        self.retried = Counter(
            "dynapod_attempts_retried", "Attempts that will be followed by another.", ["fault"], registry=registry
        )
        self.in_flight = Gauge("dynapod_jobs_in_flight", "Jobs that this worker holds.", registry=registry)
        self.capacity = Gauge("dynapod_jobs_capacity", "Jobs that this worker can hold.", registry=registry)
        self.duration = Histogram(
            "dynapod_attempt_duration_seconds",
            "From claim to recorded end.",
            ["verdict"],
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "dynapod_queue_wait_seconds", "From enqueue to claim.", buckets=_WAIT_BUCKETS, registry=registry
        )
        self.api_requests = Counter(
            "dynapod_pod_writes", "Pod creations and deletions sent to Kubernetes.", ["verb"], registry=registry
        )
        self.log_bytes = Counter("dynapod_log_bytes", "Bytes of logs stored.", registry=registry)
        self.log_gaps = Counter("dynapod_log_gaps", "Places where a log is declared incomplete.", registry=registry)
        self.orphans = Counter(
            "dynapod_orphan_pods_deleted",
            "Pods of finished or superseded attempts, deleted on sight.",
            registry=registry,
        )
        self.watches = Counter("dynapod_watches", "Watches of pods, by how they ended.", ["end"], registry=registry)
        self.maintenance_failures = Counter(
            "dynapod_maintenance_failures",
            "Passes of maintenance that were cut short; the next one goes on.",
            ["task"],
            registry=registry,
        )
        self.objects_deleted = Counter(
            "dynapod_objects_deleted", "Objects whose retention was over.", ["kind"], registry=registry
        )

"""What the gateway counts, on a registry that the caller brings."""

from prometheus_client import CollectorRegistry, Counter, Histogram

# Seconds: a cache of gigabytes takes minutes, a HEAD a millisecond.
_SECONDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0)


class Metrics:
    """All instruments. No label holds a job, a pod or a path: their number would have no bound."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "dynapod_gateway_requests", "Answered requests", ["route", "method", "code"], registry=registry
        )
        self.seconds = Histogram(
            "dynapod_gateway_request_seconds",
            "Time from the request's head to the end of the answer",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.received = Counter(
            "dynapod_gateway_received_bytes", "Bytes of request bodies read", ["route"], registry=registry
        )
        self.sent = Counter("dynapod_gateway_sent_bytes", "Bytes of cache entries sent", ["route"], registry=registry)
        self.refusals = Counter("dynapod_gateway_refusals", "Requests refused", ["reason"], registry=registry)

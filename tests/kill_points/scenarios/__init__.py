"""What happens around the worker while it is killed: every point is passed in one of these.

Each scenario starts one worker under observation (`stage.victim`) and leads it past what it is named after. It must not
need the worker to live on: whatever it waits for, the worker's death ends the wait. What it leaves undone, a healthy
worker does afterwards.
"""

from tests.kill_points.scenarios import (
    adoption,
    creations,
    jobs,
    kubernetes_faults,
    logs,
    maintenance,
    redis_faults,
    stops,
)
from tests.kill_points.scenarios.registry import SCENARIOS

__all__ = [
    "SCENARIOS",
    "adoption",
    "creations",
    "jobs",
    "kubernetes_faults",
    "logs",
    "maintenance",
    "redis_faults",
    "stops",
]

"""All scenarios, by name."""

from typing import Final

from tests.kill_points.stage import Scenario

SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(work: Scenario) -> Scenario:
    """Enter it under its function's name."""
    SCENARIOS[work.__name__] = work
    return work

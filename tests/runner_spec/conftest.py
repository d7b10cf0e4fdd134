"""Property tests: the same examples on every run, and no deadline, because a shared machine may pause at any line.

`HYPOTHESIS_PROFILE=explore pytest tests/runner_spec` looks for new examples, many more of them.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

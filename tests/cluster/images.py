"""Tags of the images that the cluster tests use, as the node knows them; see docs/images.md for how they are built."""

import os
from typing import Final

RUNNER: Final = os.environ.get("DYNAPOD_TEST_RUNNER_IMAGE", "localhost/dynapod-runner:test")
WORKER: Final = os.environ.get("DYNAPOD_TEST_WORKER_IMAGE", "localhost/dynapod-worker:test")
JOB: Final = os.environ.get("DYNAPOD_TEST_JOB_IMAGE", "localhost/dynapod-job:test")
SERVICES: Final = os.environ.get("DYNAPOD_TEST_SERVICES_IMAGE", "localhost/dynapod-services:test")

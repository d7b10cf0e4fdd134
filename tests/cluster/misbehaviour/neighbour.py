#!/usr/bin/env python3
# ruff: noqa: T201 - its lines are what it is for
"""Not a misbehaviour: the job beside them, which must not notice. Speaks while they are at it."""

import os
import time
from pathlib import Path

LINES = int(os.environ["LINES_OF_LOG"])

for number in range(LINES):
    print(f"line {number} of {LINES}", flush=True)
    time.sleep(0.02)
for folder in ("dist", "cache"):
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "result").write_bytes(b"mine\n" * 100_000)

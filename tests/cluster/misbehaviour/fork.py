#!/usr/bin/env python3
# ruff: noqa: T201 - its lines are what it is for
"""9: forks until the kernel refuses. Its children do nothing but stay."""

import errno
import os
import signal
import sys

MOST = 20_000

children = 0
while children < MOST:
    try:
        child = os.fork()
    except OSError as error:
        print(f"9 fork bomb: contained: {errno.errorcode[error.errno or 0]} after {children} processes", flush=True)
        sys.exit(9)
    if child == 0:
        signal.pause()
    children += 1
print(f"9 fork bomb: ESCAPED: {MOST} processes", flush=True)

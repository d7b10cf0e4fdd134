#!/usr/bin/env python3
# ruff: noqa: PTH211 - as the system call has it
"""17, 23, 24: fills the workspace with what upload must not follow, or cannot name; succeeds."""

import os
from pathlib import Path

SECRETS = ("/etc/passwd", "/etc/shadow", "/dynapod/token/token", "/proc/1/environ", "/proc/self/environ", "/var/run")

os.chdir("/workspace")
for folder in ("links", "names", "many", "cached"):
    Path(folder).mkdir()
for number, target in enumerate((*SECRETS, "../../dynapod/token/token", "/dynapod/plan/plan.json")):
    os.symlink(target, f"links/secret-{number}")
os.symlink("/dynapod/token", "links/folder")
os.symlink("/", "linked")  # a folder of the pattern itself is a link
os.symlink("links/loop", "links/loop")
os.mkfifo("links/fifo")
Path("links/honest").write_text("honest")
os.symlink("honest", "links/inside")
for name in (b"two\nlines", b"esc\x1b[2J", b"tab\t", b"..hidden", b"\xe4 dynapod", b"%2e%2e"):
    Path("names", os.fsdecode(name)).write_text("named")
for number in range(20_001):
    Path(f"many/{number}").touch()
os.symlink("/dynapod/token", "cached/token")
Path("cached/file").write_text("cached")

"""Runs inside the image of jobs: is everything that jobs install in the wheelhouse? Each argument is one install."""

import json
import shutil
import subprocess
import sys

PROGRAMS = ("git", "git-lfs", "make", "curl", "zstd", "unshare", "mount", "nsenter", "ps")

subprocess.run([sys.executable, "-m", "venv", "/tmp/venv"], check=True)
problems = []
for needs in sys.argv[1:]:
    install = ["/tmp/venv/bin/pip", "install", "--quiet", "--no-cache-dir", "--dry-run", *needs.split("\n")]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        problems.append(done.stderr[-1000:])
json.dump({"problems": problems, "missing": [name for name in PROGRAMS if not shutil.which(name)]}, sys.stdout)

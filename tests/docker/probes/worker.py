"""Runs inside the worker's image, by its own python3, and prints what it finds as one line of JSON."""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import ssl
import stat
import subprocess
import sys
from pathlib import Path

OWN = ("adapters", "devcluster", "gateway", "runner", "runner_spec", "worker")
SERVICES = ("worker.service", "gateway.server", "adapters.kubernetes_api", "adapters.object_store", "devcluster.api")
FORBIDDEN = ("pip", "pip3", "apt", "apt-get", "dpkg", "gcc", "cc", "make", "perl", "git", "curl", "wget")


def run(*command: str) -> dict[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "said": (done.stdout + done.stderr).strip()[:300]}


def importable(names: list[str]) -> dict[str, str]:
    """What cannot be imported, and why."""
    problems = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems[name] = str(error)
    return problems


def privileged() -> list[str]:
    device = Path("/").stat().st_dev
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if Path(folder, name).lstat().st_dev == device]
        for path in (Path(folder, name) for name in names):
            status = path.lstat()
            if status.st_dev == device and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
                found.append(str(path))
    return found


def root_is_writable() -> str:
    try:
        Path("/probe").write_text("")
    except OSError as error:
        return error.strerror or ""
    return "it is"


versions = {one.name.lower().replace("_", "-"): one.version for one in importlib.metadata.distributions()}
# Of each distribution the packages that it installs, so that its compiled libraries are loaded.
packages = sorted(name for name in importlib.metadata.packages_distributions() if not name.startswith("_"))
sys.stdout.write(
    json.dumps(
        {
            "uid": os.getuid(),
            "commands": {
                "version": run("dynapod", "--version"),
                "worker": run("dynapod", "worker", "--help"),
                "gateway": run("dynapod", "gateway", "--help"),
            },
            "distributions": {
                one.name.lower().replace("_", "-"): one.version for one in importlib.metadata.distributions()
            },
            "problems": importable([*SERVICES, *packages]),
            "own": [name for name in OWN if not importlib.util.find_spec(name)],
            "forbidden": [name for name in FORBIDDEN if shutil.which(name)],
            "packagers": [name for name in ("pip", "ensurepip", "setuptools") if importlib.util.find_spec(name)],
            "privileged": privileged(),
            "root": root_is_writable(),
            "authorities": len(ssl.create_default_context().get_ca_certs()),
        }
    )
)

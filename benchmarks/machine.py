"""Where the figures come from: the machine and the versions of everything that takes part."""

import os
import platform
import subprocess
from importlib.metadata import version

from adapters.redis_server import find_server
from runner_spec.version import __version__


def facts() -> dict[str, str]:
    """By name, as lines above the table."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in ("kubernetes", "redis", "rq", "aiohttp"))
    return {
        "dynapod": f"{__version__}, Python {platform.python_version()}, {libraries}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}",
        "redis": redis_version(),
        "load": load(),
    }


def load() -> str:
    """The load averages at this moment: others share the machine."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def redis_version() -> str:
    """Of the server that benchmarks start."""
    program = find_server()
    if program is None:
        return "none found"
    said = subprocess.run([str(program), "--version"], check=True, capture_output=True, text=True).stdout
    return next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), said.strip())

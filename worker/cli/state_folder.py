"""Where local runs keep what outlives them."""

import os
from collections.abc import Mapping
from pathlib import Path


def default_state(environ: Mapping[str, str] = os.environ) -> Path:
    """Where caches, artifacts and logs of local runs are kept (XDG Base Directory Specification)."""
    base = environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "dynapod"

import shutil
from pathlib import Path

import pytest

from tests.runner.cache_memory import LIMIT_MIB, MIB, measure

# With an empty PATH the runner finds no zstd and compresses by itself.
PATHS = [("gzip", "")] + ([("zstd", None)] if shutil.which("zstd") else [])


@pytest.mark.parametrize("path", [path for _, path in PATHS], ids=[name for name, _ in PATHS])
def test_a_cache_passes_in_bounded_memory(tmp_path: Path, path: str | None) -> None:
    saved, restored, server = measure(tmp_path, 128 * MIB, path)
    assert server.caches["big"][1] == ("tar.gz" if path == "" else "tar.zst")
    assert saved.total < LIMIT_MIB
    assert restored.total < LIMIT_MIB

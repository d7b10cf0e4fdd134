"""Installing the shell and the shim into the folder that `run` gets read-only."""

import os
import shutil
import stat
import struct
from pathlib import Path
from typing import Final

from runner.errors import TemporaryError

_SHIM: Final = Path(__file__).with_name("shim.sh")
_HOST_SHELL: Final = "/bin/sh"
_EXECUTABLE: Final = 0o755
_PT_INTERP: Final = 3  # elf(5): names the dynamic loader
_ELF_CLASS_64: Final = 2
_ELF_LITTLE_ENDIAN: Final = 1


def install(folder: Path, busybox: Path) -> None:
    """Put `shim` and `sh` there, and `busybox` when a static one exists.

    A dynamically linked busybox would not start in another image. Without any, `sh` is a link to the host's shell:
    right for local runs, where every container sees the host's files.

    Raises:
        TemporaryError: (`shell`) when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(_SHIM, folder / "shim")
        sh = folder / "sh"
        sh.unlink(missing_ok=True)
        if is_static(busybox):
            _copy(busybox, folder / "busybox")
            # busybox looks at the name it is called by; a hard link costs no second megabyte.
            try:
                os.link(folder / "busybox", sh)
            except OSError:  # some volumes have no hard links
                _copy(busybox, sh)
        else:
            sh.symlink_to(_HOST_SHELL)
    except OSError as error:
        raise TemporaryError("shell", f"cannot install the shell into {folder}: {error}") from error


def is_static(program: Path) -> bool:
    """Whether this is an ELF program that needs no dynamic loader."""
    try:
        with program.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:4] != b"\x7fELF":  # noqa: PLR2004 - size of an ELF64 header
                return False
            order = "<" if header[5] == _ELF_LITTLE_ENDIAN else ">"
            wide = header[4] == _ELF_CLASS_64
            (table,) = struct.unpack_from(order + ("Q" if wide else "I"), header, 32 if wide else 28)
            size, count = struct.unpack_from(order + "HH", header, 54 if wide else 42)
            file.seek(table)
            entries = file.read(size * count)
    except OSError:
        return False
    kinds = (struct.unpack_from(order + "I", entries, at)[0] for at in range(0, len(entries) - 3, size or 1))
    return _PT_INTERP not in kinds


def _copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # a running program cannot be overwritten, but it can be replaced
    shutil.copyfile(source, target)
    target.chmod(_EXECUTABLE | stat.S_IRUSR)

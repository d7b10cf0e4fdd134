"""Runs inside the runner's image, by its own python3, and prints what it finds as one line of JSON."""

import hashlib
import importlib.util
import json
import os
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import shell

FORBIDDEN = ("pip", "pip3", "apt", "apt-get", "dpkg", "gcc", "cc", "make", "perl", "easy_install", "curl", "wget")
# What runs when `python3 -m runner` looks for modules in the folder that it stands in, or in the user's own.
PLANTED = "import sys; print('PLANTED'); sys.exit(9)\n"


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> dict[str, object]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "said": (done.stdout + done.stderr).strip()[-500:]}


def in_a_hostile_folder(*command: str, **variables: str) -> dict[str, object]:
    """In a workspace and with a home that a job has filled; empty `variables` are as good as none for Python."""
    folder = Path(tempfile.mkdtemp())
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / ".local" / "lib" / version / "site-packages"
    for module in ("runner/__init__.py", "runner/__main__.py", "runner_spec/__init__.py", "signal.py", "json.py"):
        (folder / module).parent.mkdir(parents=True, exist_ok=True)
        (folder / module).write_text(PLANTED)
    site.mkdir(parents=True)
    (site / "usercustomize.py").write_text(PLANTED)
    (site / "planted.pth").write_text("import sys; sys.stdout.write('PLANTED')\n")
    return run(*command, cwd=folder, env={**os.environ, "HOME": str(folder), **variables})


def everything() -> list[tuple[str, os.stat_result]]:
    """All files of the image's own file system, but no links."""
    device = Path("/").stat().st_dev
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if Path(folder, name).lstat().st_dev == device]
        for path in (Path(folder, name) for name in (*folders, *names)):
            status = path.lstat()
            if status.st_dev == device and not stat.S_ISLNK(status.st_mode):
                found.append((str(path), status))
    return found


def listing(folder: Path) -> dict[str, str]:
    """Content, mode and kind of each file."""
    return {
        path.name: f"{hashlib.sha256(path.read_bytes()).hexdigest()} {stat.filemode(path.lstat().st_mode)}"
        for path in folder.iterdir()
    }


def installed() -> dict[str, str]:
    """What `checkout` would put into a pod."""
    folder = Path(tempfile.mkdtemp())
    shell.install(folder, Path("/bin/busybox"))
    return listing(folder)


def submodule() -> dict[str, object]:
    """git runs shell scripts for submodules, which need more than a shell."""
    folder = Path(tempfile.mkdtemp())
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")
    steps = [
        (*git, "init", "-q", "inner"),
        (*git, "-C", "inner", "commit", "-q", "--allow-empty", "-m", "inner"),
        (*git, "init", "-q", "outer"),
        (*git, "-C", "outer", "submodule", "add", "-q", f"file://{folder}/inner", "part"),
        (*git, "-C", "outer", "commit", "-q", "-m", "outer"),
        (*git, "clone", "-q", f"file://{folder}/outer", "clone"),
        (*git, "-C", "clone", "submodule", "update", "--init", "--recursive"),
        (*git, "-C", "clone", "submodule", "foreach", "--recursive", "git lfs install --local --skip-repo"),
        (*git, "-C", "clone", "submodule", "foreach", "--recursive", "git log -1 --format=%s"),
    ]
    for step in steps:
        done = run(*step, cwd=folder)
        if done["code"]:
            return {**done, "step": " ".join(step)}
    return done


def byte_code_flags() -> list[int]:
    """PEP 552: 1 says that the byte code is used without a look at its source."""
    names = ("runner.checkout", "runner.upload", "http.client", "subprocess")
    caches = [spec.cached for name in names if (spec := importlib.util.find_spec(name))]
    return [int.from_bytes(Path(cached).read_bytes()[4:8], "little") for cached in caches if cached]


def root_is_writable() -> str:
    try:
        Path("/probe").write_text("")
    except OSError as error:
        return error.strerror or ""
    return "it is"


files = everything()
sys.stdout.write(
    json.dumps(
        {
            "uid": os.getuid(),
            "commands": {
                "git": run("git", "--version"),
                "git-lfs": run("git", "lfs", "version"),
                "zstd": run("zstd", "--version"),
                "ssh": run("ssh", "-V"),
                "shell": run("/dynapod/bin/sh", "-c", "true"),
                "busybox": run("/dynapod/bin/busybox", "setsid", "true"),
            },
            "submodule": submodule(),
            "static": [shell.is_static(Path(path)) for path in ("/bin/busybox", "/dynapod/bin/sh")],
            "links": [path.name for path in Path("/dynapod/bin").iterdir() if path.is_symlink()],
            "delivered": listing(Path("/dynapod/bin")),
            "installed": installed(),
            "usage": in_a_hostile_folder("python3", "-m", "runner"),
            "usage_unprotected": [
                in_a_hostile_folder("python3", "-m", "runner", PYTHONSAFEPATH=""),
                in_a_hostile_folder("python3", "-m", "runner", PYTHONNOUSERSITE=""),
            ],
            "usage_isolated": in_a_hostile_folder("python3", "-I", "-m", "runner"),
            "forbidden": [name for name in FORBIDDEN if shutil.which(name)],
            "packagers": [name for name in ("pip", "ensurepip", "setuptools") if importlib.util.find_spec(name)],
            "privileged": [path for path, status in files if status.st_mode & (stat.S_ISUID | stat.S_ISGID)],
            "writable": [path for path, status in files if status.st_mode & stat.S_IWOTH],
            "unreadable": [path for path, status in files if not status.st_mode & stat.S_IROTH],
            "root": root_is_writable(),
            "authorities": len(ssl.create_default_context().get_ca_certs()),
            "byte_code_flags": byte_code_flags(),
        }
    )
)
